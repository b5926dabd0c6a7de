"""Preconditioning and loss weights against the formulas and the purposes of Karras et al. 2022, table 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import Conditions
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, expand_levels
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import loss_weight

SIGMAS = (0.002, 0.05, 0.5, 2.0, 80.0)
PAIR = torch.tensor([0, 1])  # modality of each channel


class Recorder(nn.Module):
    """A backbone that remembers what it was given and answers with `gain` times its input."""

    def __init__(self, gain: float = 0.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.x, self.c_noise = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditions) -> Tensor:
        self.x, self.c_noise = x, c_noise
        return self.gain * x


def clean(seed: int, shape: tuple[int, ...] = (4, 2, 64, 64)) -> Tensor:
    """Data of mean 0 and std 0.5."""
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma_data", [0.5, 0.7])
def test_coefficients(sigma_data: float) -> None:
    """Damage: c_out = sigma sigma_data / (sigma^2 + sigma_data^2), without the root."""
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = Denoiser(nn.Identity(), PAIR, sigma_data).coefficients(sigma)
    for i, s in enumerate(SIGMAS):
        root = (s**2 + sigma_data**2) ** 0.5
        assert c_skip[i].item() == pytest.approx(sigma_data**2 / (s**2 + sigma_data**2))
        assert c_out[i].item() == pytest.approx(s * sigma_data / root)
        assert c_in[i].item() == pytest.approx(1 / root)
    assert c_noise.tolist() == pytest.approx((sigma.log() / 4).tolist())


def test_level_of_a_clean_modality_is_finite() -> None:
    """Damage: c_noise without its floor, which is -inf at sigma = 0."""
    c_noise = Denoiser(nn.Identity(), PAIR).coefficients(torch.zeros(1))[3]
    assert bool(torch.isfinite(c_noise).all())


@pytest.mark.parametrize("sigma", SIGMAS)
def test_network_sees_and_predicts_unit_variance(sigma: float) -> None:
    """Damage: giving the backbone x instead of c_in x; c_skip = 1."""
    recorder = Recorder()
    denoiser = Denoiser(recorder, PAIR)
    x0 = clean(0)
    x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    levels = torch.full((4, 2), sigma)
    denoiser(x, levels, {})
    assert recorder.x.var().item() == pytest.approx(1, rel=0.03)
    c_skip, c_out, _, _ = denoiser.coefficients(torch.tensor(sigma))
    target = (x0 - c_skip * x) / c_out
    assert target.var().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("sigma", SIGMAS[1:])
def test_loss_of_a_network_that_says_nothing_is_one(sigma: float) -> None:
    """Damage: dropping the loss weight, or squaring it."""
    x0 = clean(2)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    levels = torch.full((4, 2), sigma)
    loss = denoising_loss(Denoiser(Recorder(), PAIR), x0, {}, levels, noise, DiffusionConfig())
    assert loss.shape == (4, 2)
    assert loss.mean(dim=0).tolist() == pytest.approx([1, 1], rel=0.05)


def test_nothing_changes_at_sigma_zero() -> None:
    """Damage: flooring sigma in c_skip and c_out as it is floored in c_noise."""
    x = clean(4, (3, 2, 8, 8))
    assert torch.equal(Denoiser(Recorder(7.0), PAIR)(x, torch.zeros(3, 2), {}), x)


@pytest.mark.parametrize("column", [0, 1])
def test_a_clean_modality_comes_back_beside_a_noisy_one(column: int) -> None:
    """Damage: one level for both modalities, e.g. sigma.amax(dim=1) in `Denoiser.forward`."""
    x = clean(5, (3, 2, 8, 8))
    sigma = torch.full((3, 2), 1.5)
    sigma[:, column] = 0
    out = Denoiser(Recorder(7.0), PAIR)(x, sigma, {})
    assert torch.equal(out[:, column], x[:, column])
    assert not torch.equal(out[:, 1 - column], x[:, 1 - column])


def test_levels_reach_the_channels_of_their_modality() -> None:
    """Damage: `expand_levels` by channel number instead of by `modality`; c_noise in reversed order."""
    modality = torch.tensor([0, 0, 1])
    sigma = torch.tensor([[0.1, 3.0], [20.0, 0.4]])
    assert expand_levels(sigma, modality, 4)[:, :, 0, 0].tolist() == sigma[:, [0, 0, 1]].tolist()
    recorder = Recorder()
    denoiser = Denoiser(recorder, modality)
    x = torch.ones(2, 3, 4, 4)
    out = denoiser(x, sigma, {})
    for row in range(2):
        for channel, s in enumerate(sigma[row, modality].tolist()):
            assert recorder.x[row, channel, 0, 0].item() == pytest.approx((s**2 + 0.25) ** -0.5)
            assert out[row, channel, 0, 0].item() == pytest.approx(0.25 / (s**2 + 0.25))
    assert torch.allclose(recorder.c_noise, sigma.log() / 4)


def test_any_rank_of_picture() -> None:
    """Damage: view(B, C, 1, 1), which ties the core to two dimensions."""
    for shape in [(2, 2, 5), (2, 2, 3, 4, 5)]:
        x = torch.randn(shape)
        assert Denoiser(Recorder(), PAIR)(x, torch.ones(2, 2), {}).shape == shape


def test_edm_weight_undoes_c_out() -> None:
    """Damage: weight 1 / sigma^2 for edm."""
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    c_out = Denoiser(nn.Identity(), PAIR).coefficients(sigma)[1]
    assert torch.allclose(loss_weight(sigma, DiffusionConfig()) * c_out**2, torch.ones_like(sigma))


def test_ddpm_weight_is_snr_clipped() -> None:
    """Damage: clamp(min=config.min_snr) instead of max."""
    config = DiffusionConfig(process="ddpm", min_snr=5.0)
    weight = loss_weight(torch.tensor([0.01, 5**-0.5, 1.0, 2.0, 100.0], dtype=torch.float64), config)
    assert weight.tolist() == pytest.approx([5, 5, 1, 0.25, 1e-4])


@pytest.mark.parametrize("process", ["edm", "ddpm"])
def test_a_clean_modality_costs_nothing(process: str) -> None:
    """Damage: dividing by sigma itself instead of by a safe one: inf times 0 is nan, in the gradient too."""
    recorder = Recorder(0.3)
    sigma = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    config = DiffusionConfig(process=process)
    x0 = clean(6, (3, 2, 8, 8))
    loss = denoising_loss(Denoiser(recorder, PAIR), x0, {}, sigma, torch.randn_like(x0), config)
    assert (loss == 0).tolist() == [[True, False], [False, True], [True, True]]
    loss.sum().backward()
    assert recorder.gain.grad is not None
    assert bool(torch.isfinite(recorder.gain.grad))
    assert sigma.grad is not None
    assert bool(torch.isfinite(sigma.grad).all())


def test_loss_is_the_mean_over_the_channels_of_a_modality() -> None:
    """Damage: summing over channels, so that an RGB image weighs three times a grey one."""
    modality = torch.tensor([0, 0, 0, 1])
    x0 = torch.zeros(1, 4, 2, 2)
    noise = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    config = DiffusionConfig(process="ddpm", min_snr=1e9)
    loss = denoising_loss(Denoiser(Recorder(), modality), x0, {}, torch.ones(1, 2), noise, config)
    assert loss[0].tolist() == pytest.approx([(0.2**2) * (1 + 4 + 9) / 3, 0.2**2 * 25])  # c_skip = 0.2 at sigma = 1
