"""Samplers on a correlated Gaussian whose denoiser is known: convergence order, covariance, conditioning modalities.

On a Gaussian every sampler is an affine map of its starting noise (and of the noise of each step), so feeding unit
vectors gives the exact covariance of what it samples, with no statistical error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import sampling_sigmas
from medsegdiff.generators.joint_diffusion.samplers import FEW_STEP, SAMPLERS

if TYPE_CHECKING:
    from gaussians import Gaussian

PAIR = torch.tensor([0, 1])
TOP = 80.0
DETERMINISTIC = ["ddim", "dpmpp_2m", "heun"]
ORDER = {"ddim": (0.8, 1.2), "dpmpp_2m": (1.7, 2.6), "heun": (1.7, 2.6)}


def log_levels(start: float, end: float, steps: int) -> Tensor:
    """(steps + 1,) float64 levels, equally spaced in log sigma."""
    return torch.logspace(math.log10(start), math.log10(end), steps + 1, dtype=torch.float64)


def both(levels: Tensor) -> Tensor:
    return torch.stack([levels, levels], dim=1)


def unlike(steps: int) -> Tensor:
    """A smooth table whose columns go down at different speeds, the mask ahead of the image."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return torch.stack([10 * 0.01 ** (t**1.5), 10 * 0.02**t], dim=1)


def to_zero(steps: int) -> Tensor:
    """(steps + 1,) float64 EDM levels that end in 0."""
    return sampling_sigmas(DiffusionConfig(sigma_min=0.002), steps).double()


def one_by_one(first: int, steps: int) -> Tensor:
    """Column `first` goes all the way down before the other one starts."""
    down = to_zero(steps)
    table = torch.full((2 * steps + 1, 2), TOP, dtype=torch.float64)
    table[: steps + 1, first], table[steps + 1 :, first] = down, 0
    table[steps:, 1 - first] = down
    return table


def overlapping(steps: int) -> Tensor:
    """The image stands, both move, then the mask is done and the image goes on."""
    down = to_zero(steps)
    wait = torch.full((steps // 2,), TOP, dtype=torch.float64)
    return torch.stack([torch.cat([wait, down]), torch.cat([down, torch.zeros(steps // 2, dtype=torch.float64)])], 1)


def start_points(level: float, n: int = 16) -> Tensor:
    noise = torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return level * noise


def moments(name: str, gaussian: Gaussian, table: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (2,) and covariance (2, 2) of what a sampler samples from table[0] times normal noise."""
    steps = len(table) - 1
    size = 3 + 2 * steps  # nothing; each starting number; each number of each step
    x = torch.zeros(size, 2, 1, 1, dtype=torch.float64)
    x[1, 0], x[2, 1] = table[0]

    def noise(step: int) -> Tensor:
        z = torch.zeros_like(x)
        z[3 + 2 * step, 0] = z[4 + 2 * step, 1] = 1
        return z

    out = SAMPLERS[name](gaussian.denoise, x, table, PAIR, noise)[:, :, 0, 0]
    columns = out[1:] - out[0]
    return out[0], columns.T @ columns


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_with_both_columns_alike(name: str, gaussian: Gaussian) -> None:
    """Damage: heun without its correction; c = h / h_prev in dpmpp_2m; a = s / s' in ddim."""
    x = start_points(10.0)
    exact = gaussian.exact(x, 10.0, 0.1)
    errors = [
        (SAMPLERS[name](gaussian.denoise, x, both(log_levels(10.0, 0.1, n)), PAIR) - exact).abs().max().item()
        for n in (40, 80, 160)
    ]
    low, high = ORDER[name]
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert low < math.log2(coarse / fine) < high
    assert errors[-1] < 0.02


@pytest.fixture(scope="module")
def fine_grid(gaussian: Gaussian) -> Tensor:
    """Where `unlike` leads from `start_points(10)`, exact to seven digits."""
    return SAMPLERS["heun"](gaussian.denoise, start_points(10.0), unlike(2000), PAIR)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_with_columns_of_their_own(name: str, gaussian: Gaussian, fine_grid: Tensor) -> None:
    """Damage: taking the level or the step h of column 0 for both columns."""
    x = start_points(10.0)
    errors = [
        (SAMPLERS[name](gaussian.denoise, x, unlike(n), PAIR) - fine_grid).abs().max().item() for n in (40, 80, 160)
    ]
    low, high = ORDER[name]
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert low < math.log2(coarse / fine) < high


@pytest.mark.parametrize(("name", "tolerance"), [("ddim", 0.05), ("dpmpp_2m", 0.005), ("heun", 0.005)])
def test_tables_that_end_in_zero(name: str, tolerance: float, gaussian: Gaussian) -> None:
    """Damage: the second-order correction on the step to 0, which divides by zero or takes log 0."""
    x = start_points(TOP)
    out = SAMPLERS[name](gaussian.denoise, x, both(to_zero(80)), PAIR)
    assert bool(torch.isfinite(out).all())
    assert (out - gaussian.exact(x, TOP, 0.0)).abs().max().item() < tolerance


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_step_to_zero_returns_the_estimate(name: str, gaussian: Gaussian) -> None:
    """Damage: heun's correction, an extrapolated estimate, or fresh noise on the step to 0."""
    table = both(torch.tensor([4.0, 2.0, 0.0], dtype=torch.float64))
    x = start_points(4.0)
    before = SAMPLERS[name](gaussian.denoise, x, table[:2], PAIR, lambda _: torch.ones_like(x))
    after = SAMPLERS[name](gaussian.denoise, x, table, PAIR, lambda _: torch.ones_like(x))
    assert torch.allclose(after, gaussian.denoise(before, table[1]), rtol=0, atol=1e-12)


def test_heun_corrects_the_column_that_goes_on(gaussian: Gaussian) -> None:
    """Damage: no correction for any column when one of them reaches 0."""
    table = torch.tensor([[2.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    x = start_points(2.0)
    euler, out = (SAMPLERS[name](gaussian.denoise, x, table, PAIR) for name in ("ddim", "heun"))
    slope = (x - gaussian.denoise(x, table[0]))[:, 0] / 2 + (euler - gaussian.denoise(euler, table[1]))[:, 0]
    assert torch.allclose(out[:, 0], x[:, 0] - slope / 2)
    assert torch.allclose(out[:, 1], euler[:, 1], rtol=0, atol=1e-12)


def test_ddpm_samples_the_gaussian(gaussian: Gaussian) -> None:
    """Damage: noise s' sqrt(1 - a) instead of s' sqrt(1 - a^2); noise left out."""
    errors = []
    for steps in (100, 200, 400):
        mean, covariance = moments("ddpm", gaussian, both(to_zero(steps)))
        assert mean.tolist() == pytest.approx(gaussian.mean.tolist(), abs=0.01)
        errors.append((covariance - gaussian.covariance).abs().max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_ddpm_statistics_of_real_draws(gaussian: Gaussian) -> None:
    """Damage: the same noise in every step, e.g. noise(0) for noise(step)."""
    table = both(to_zero(100))
    random = torch.Generator().manual_seed(0)
    x = TOP * torch.randn(20, 2, 32, 32, generator=random)
    out = SAMPLERS["ddpm"](gaussian.denoise, x, table, PAIR, lambda _: torch.randn(x.shape, generator=random))
    expected = moments("ddpm", gaussian, table)[1]  # a little narrower than the Gaussian with so few steps
    assert torch.allclose(torch.cov(out.transpose(0, 1).flatten(1)).double(), expected, atol=0.01)


PATHS: dict[str, Callable[[], Tensor]] = {
    "mask first": lambda: one_by_one(1, 120),
    "image first": lambda: one_by_one(0, 120),
    "overlapping": lambda: overlapping(160),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "tolerance"), [("ddim", 0.02), ("dpmpp_2m", 0.004), ("heun", 0.002), ("ddpm", 0.03)])
def test_every_way_down_samples_the_same_joint(name: str, tolerance: float, path: str, gaussian: Gaussian) -> None:
    """Damage: dividing by h_prev = 0 when a column starts to move; moving a column that stands still."""
    mean, covariance = moments(name, gaussian, PATHS[path]())
    assert torch.allclose(mean, gaussian.mean, atol=0.02)
    assert torch.allclose(covariance, gaussian.covariance, atol=tolerance)


@pytest.mark.parametrize("known", [0, 1])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != FEW_STEP])  # which needs its own networks
def test_a_conditioning_modality(name: str, known: int, gaussian: Gaussian) -> None:
    """Damage: x (s'/s) + (1 - s'/s) D for a column at 0 instead of a copy, which rounds or gives nan."""
    steps = 300
    table = torch.zeros(steps + 1, 2, dtype=torch.float64)
    table[:, 1 - known] = to_zero(steps)
    value = 0.1234567
    x = torch.full((2 + steps, 2, 1, 1), value, dtype=torch.float64)
    x[:, 1 - known] = 0
    x[1, 1 - known] = TOP

    def noise(step: int) -> Tensor:
        z = torch.zeros_like(x)
        z[2 + step] = 1
        return z

    out = SAMPLERS[name](gaussian.denoise, x, table, PAIR, noise)
    assert torch.equal(out[:, known], x[:, known])
    sampled = out[:, 1 - known].flatten()
    S, mu, free = gaussian.covariance, gaussian.mean, 1 - known
    expected = mu[free] + S[free, known] / S[known, known] * (value - mu[known])
    variance = S[free, free] - S[free, known] ** 2 / S[known, known]
    assert float(sampled[0]) == pytest.approx(float(expected), abs=0.01)
    assert float((sampled[1:] - sampled[0]).square().sum()) == pytest.approx(float(variance), rel=0.06)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_marginalised_modality_stays(name: str, gaussian: Gaussian) -> None:
    """Damage: copying only columns at 0."""
    table = torch.stack([to_zero(10), torch.full((11,), TOP, dtype=torch.float64)], dim=1)
    x = start_points(TOP)
    out = SAMPLERS[name](gaussian.denoise, x, table, PAIR, lambda _: torch.ones_like(x))
    assert torch.equal(out[:, 1], x[:, 1])
    assert bool((out[:, 0] != x[:, 0]).all())


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_rows_that_repeat_change_nothing(name: str, gaussian: Gaussian) -> None:
    """Damage: `s_next <= s` for `s_next < s`, so that ddpm adds noise while it stands."""
    levels = log_levels(10.0, 0.1, 1)
    x = start_points(10.0)
    once, thrice = both(levels), both(levels[[0, 0, 0, 1, 1]])

    def noise(_: int) -> Tensor:
        return torch.ones_like(x)

    first = SAMPLERS[name](gaussian.denoise, x, once, PAIR, noise)
    assert torch.equal(SAMPLERS[name](gaussian.denoise, x, thrice, PAIR, noise), first)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_levels_follow_the_modality_map(name: str, gaussian: Gaussian) -> None:
    """Damage: taking channel numbers for columns: fails for an RGB image and for a mask in front."""
    table = unlike(12)
    x = start_points(10.0)

    def swapped(x: Tensor, sigma: Tensor) -> Tensor:
        return gaussian.denoise(x.flip(1), sigma).flip(1)

    def noise(_: int) -> Tensor:
        return torch.ones_like(x)

    expected = SAMPLERS[name](gaussian.denoise, x, table, PAIR, noise)
    found = SAMPLERS[name](swapped, x.flip(1), table, PAIR.flip(0), noise).flip(1)
    assert torch.equal(found, expected)


def test_ddpm_needs_noise(gaussian: Gaussian) -> None:
    """Damage: noise left out silently, which is neither ddpm nor ddim."""
    with pytest.raises(ValueError, match=r"ddpm is stochastic: give it noise\(step\)"):
        SAMPLERS["ddpm"](gaussian.denoise, start_points(1.0), both(log_levels(1.0, 0.1, 3)), PAIR)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("levels", [[1.0, 0.5, 0.6], [1.0, -0.1, -0.2]])
def test_tables_that_rise_or_are_negative(name: str, levels: list[float], gaussian: Gaussian) -> None:
    """Damage: checking the first column only."""
    table = torch.stack([torch.tensor([1.0, 0.5, 0.1]), torch.tensor(levels)], dim=1)
    with pytest.raises(ValueError, match="must not be negative and never increase"):
        SAMPLERS[name](gaussian.denoise, start_points(1.0), table, PAIR, torch.zeros)
