"""High noise taken off smaller pictures: when, what the network is given, and what becomes of its word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import Conditions, hide, rows_of
from medsegdiff.conditioning.label import Label
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, LowRes
from medsegdiff.generators.joint_diffusion.guidance import guided_denoise
from medsegdiff.generators.joint_diffusion.noise import MODES, sigma_table
from medsegdiff.generators.joint_diffusion.sampling import sample_channels

MODALITY = torch.tensor([0, 1])
LEVELS = torch.tensor([[5.0, 4.0], [0.2, 9.0], [0.0, 6.0], [3.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
SERVED = [True, False, True, True, False, False]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """A small network whose output is not 0."""
    torch.manual_seed(0)
    sizes = ModelConfig(patch_size=2, model_channels=8, channel_mult=[1, 2], transformer_depth=1, dropout=0.0)
    network = build_backbone("patch_unet", Inputs(32, (0, 1), (Label(classes=["a", "b"], drop_rate=0.1),)), sizes)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.2)
    return Denoiser(network, MODALITY, low_res=LowRes(4, 3.0)).eval()


@pytest.fixture
def batch() -> tuple[Tensor, Conditions]:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(len(LEVELS), 2, 32, 32, generator=random)
    return x, {"label": hide(torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([1, 1, 0, 1, 0, 1]).bool())}


def test_high_levels_alone_are_served() -> None:
    """Damage: `any` for `all` (an image of little noise blurred since its mask is noisy); clean pairs served."""
    assert LowRes(4, 3.0).serves(LEVELS).tolist() == SERVED


def test_enlarged_is_undone_by_averaging() -> None:
    """Damage: enlarging without putting back what smoothing took: brightness would bleed from step to step."""
    low_res = LowRes(4, 3.0)
    y = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    big = low_res.enlarged(y)
    assert big.shape == (2, 2, 16, 16)
    torch.testing.assert_close(low_res.reduced(big), y)
    step = (big[..., 4] - big[..., 3]).abs().mean() / (y[..., 1] - y[..., 0]).abs().mean()
    assert step < 0.7  # smooth: no jump as large as that between the small pixels


def test_it_sees_less_noise(denoiser: Denoiser, batch: tuple[Tensor, Conditions]) -> None:
    """Damage: reporting the level of the large picture, which is `factor` times what averaging leaves."""
    x, cond = batch
    rows, level = slice(0, 1), LEVELS[:1]
    plain = Denoiser(denoiser.backbone, MODALITY)
    small = plain(nn.functional.avg_pool2d(x[rows], 4), level / 4, rows_of(cond, rows))
    torch.testing.assert_close(denoiser(x, LEVELS, cond)[rows], LowRes(4, 3.0).enlarged(small))


def test_each_pair_gets_its_own(denoiser: Denoiser, batch: tuple[Tensor, Conditions]) -> None:
    """Damage: results not put back in order; conditions of other pairs; a clean channel that is blurred."""
    x, cond = batch
    together = denoiser(x, LEVELS, cond)
    for row in range(len(x)):
        only = slice(row, row + 1)
        torch.testing.assert_close(denoiser(x[only], LEVELS[only], rows_of(cond, only)), together[only])
    clean = (LEVELS == 0)[:, MODALITY]
    assert torch.equal(together[clean], x[clean])
    order, high = denoiser.by_size(LEVELS)
    assert [SERVED[k] for k in order.tolist()] == [True] * high + [False] * (len(x) - high)
    torch.testing.assert_close(denoiser(x[order], LEVELS[order], rows_of(cond, order), high), together[order])


def test_small_pictures_are_not_made_smaller(denoiser: Denoiser, batch: tuple[Tensor, Conditions]) -> None:
    """Damage: `high` not heeded: training on small pictures would see them smaller still at high noise."""
    x, cond = batch
    plain = Denoiser(denoiser.backbone, MODALITY)
    torch.testing.assert_close(denoiser(x, LEVELS, cond, 0), plain(x, LEVELS, cond))


@pytest.mark.parametrize("mode", MODES)
def test_every_direction_goes_through_both_sizes(mode: str, denoiser: Denoiser) -> None:
    """Damage: a walk at one size alone; numbers that are not finite where the size changes; what is given moved."""
    config = DiffusionConfig(sigma_max=10.0)
    table, codec = sigma_table(mode, config, 6), PairCodec((0.5, 0.5), (0.5, 0.5))
    random = torch.Generator().manual_seed(0)
    known = torch.randn(2, 2, 32, 32, generator=random)
    seen: list[int] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma.expand(len(x), -1)
        seen.append(denoiser.by_size(levels)[1])
        return guided_denoise(denoiser, {}, len(x))(x, sigma)

    noise = [torch.randn(2, 2, 32, 32, generator=random) for _ in range(len(table) + 1)]
    sampled = sample_channels(denoise, codec, table, noise.__getitem__, sampler="dpmpp_2m", known=known)
    assert bool(torch.isfinite(sampled).all())
    assert set(seen) == {0, 2}
    for column in range(2):
        kept = torch.equal(sampled[:, column], known[:, column])
        assert kept == (float(table[0, column]) == 0)
