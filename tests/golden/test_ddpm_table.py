"""Noise tables against closed forms, and the mixture of levels that training samples."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch

from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import (
    ddpm_abar,
    ddpm_sigmas,
    highest_sigma,
    sample_sigma,
    sampling_sigmas,
    sigma_table,
)

DDPM = DiffusionConfig(process="ddpm")
WIDE = DiffusionConfig(sigma_max=1e9, image_p_mean=0.5, image_p_std=1.8, mask_p_mean=-0.5, mask_p_std=1.2)


def samples(config: DiffusionConfig, n: int = 20_000, seed: int = 0) -> torch.Tensor:
    return sample_sigma(n, config, torch.Generator().manual_seed(seed))


def test_linear_table_is_the_product_of_its_betas() -> None:
    """Damage: cumsum instead of cumprod, or T + 1 points in linspace."""
    T = 1000
    first, last = Fraction(1, 10_000), Fraction(2, 100)
    product, exact = Fraction(1), []
    for t in range(T):
        product *= 1 - (first + (last - first) * t / (T - 1))
        product = Fraction(round(product * 10**40), 10**40)  # keeps the fraction short; 30 digits remain
        exact.append(float(product))
    abar = ddpm_abar("linear", T, 1e-4, 0.02)
    assert abar.tolist() == pytest.approx(exact, rel=1e-12)
    assert float(abar[-1]) == pytest.approx(4.04e-5, rel=1e-2)


def test_sigma_of_the_table() -> None:
    """Damage: sqrt(1 - abar), the level of the variance-preserving process."""
    sigmas, abar = ddpm_sigmas(DDPM), ddpm_abar("linear", 1000, 1e-4, 0.02)
    assert sigmas.tolist() == pytest.approx([math.sqrt((1 - a) / a) for a in abar.tolist()])
    assert bool((sigmas.diff() > 0).all())
    assert highest_sigma(DDPM) == pytest.approx(157.4, rel=1e-3)  # 1 / sqrt(4.04e-5)


@pytest.mark.parametrize("timesteps", [50, 1000])
def test_cosine_table(timesteps: int) -> None:
    """Damage: no cap on beta (abar_T = 0, sigma infinite), or s = 0."""

    def f(t: int) -> float:
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    product, exact = 1.0, []
    for t in range(1, timesteps + 1):
        product *= 1 - min(1 - f(t) / f(t - 1), 0.999)
        exact.append(product)
    abar = ddpm_abar("cosine", timesteps, 1e-4, 0.02)
    assert abar.tolist() == pytest.approx(exact, rel=1e-9)
    assert abar[:-1].tolist() == pytest.approx([f(t) / f(0) for t in range(1, timesteps)], rel=1e-9)  # eq. 17 itself
    assert math.isfinite(highest_sigma(dataclasses.replace(DDPM, beta_schedule="cosine", timesteps=timesteps)))


@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("config", [DiffusionConfig(), DDPM, dataclasses.replace(DDPM, beta_schedule="cosine")])
def test_sampling_walks_down_to_zero(config: DiffusionConfig, steps: int) -> None:
    """Damage: leaving the closing 0 away, or starting one entry below the top."""
    levels = sampling_sigmas(config, steps)
    assert levels.shape == (steps + 1,)
    assert float(levels[0]) == pytest.approx(highest_sigma(config))
    assert float(levels[-1]) == 0
    assert bool((levels.diff() < 0).all())


def test_karras_levels() -> None:
    """Damage: swapping sigma_min and sigma_max, or leaving out the power 1 / rho."""
    config = DiffusionConfig(sigma_min=0.01, sigma_max=80, rho=7)
    a, b = 80 ** (1 / 7), 0.01 ** (1 / 7)
    expected = [(a + i / 4 * (b - a)) ** 7 for i in range(5)]
    assert sampling_sigmas(config, 5)[:-1].tolist() == pytest.approx(expected, rel=1e-5)


def test_ddpm_sampling_uses_entries_of_the_table() -> None:
    """Damage: interpolating sigma between entries, or spacing by sigma instead of t."""
    table = ddpm_sigmas(DDPM)
    expected = [table[t].item() for t in (999, 749, 500, 250)]
    assert sampling_sigmas(DDPM, 4)[:-1].tolist() == pytest.approx(expected, rel=1e-6)


def test_joint_table_and_unknown_mode() -> None:
    """Damage: a table for any mode, so that a typo samples joint pairs."""
    levels = sampling_sigmas(DDPM, 6)
    assert torch.equal(sigma_table("joint", DDPM, 6), torch.stack([levels, levels], dim=1))
    with pytest.raises(ValueError, match="mode 'jiont'; known: joint"):
        sigma_table("jiont", DDPM, 6)


def test_shares_of_the_mixture() -> None:
    """Damage: edges without cumsum; the clean column swapped; marginal always the mask."""
    sigma = samples(WIDE)
    image, mask = sigma.unbind(1)
    z_image, z_mask = (image.log() - 0.5) / 1.8, (mask.log() + 0.5) / 1.2
    clean_mask, clean_image = mask == 0, image == 0
    top_mask, top_image = mask == 1e9, image == 1e9
    corner = clean_mask | clean_image | top_mask | top_image
    equal = ~corner & ((z_image - z_mask).abs() < 1e-3)
    found = [x.float().mean().item() for x in (clean_mask, clean_image, top_mask, top_image, equal, ~corner & ~equal)]
    assert found == pytest.approx([0.12, 0.08, 0.025, 0.025, 0.5, 0.25], abs=0.01)
    assert not bool((clean_mask & clean_image).any() or (top_mask & top_image).any())


@pytest.mark.parametrize(("name", "column"), [("mask_clean", 1), ("image_clean", 0)])
def test_a_share_of_one(name: str, column: int) -> None:
    """Damage: kind <= edge comparisons that leave a rest, or reading another share."""
    none = {f"share_{k}": 0.0 for k in ("independent", "mask_clean", "image_clean", "marginal")}
    sigma = samples(dataclasses.replace(WIDE, **{**none, f"share_{name}": 1.0}), n=500)
    assert bool((sigma[:, column] == 0).all())
    assert bool((sigma[:, 1 - column] > 0).all())


def test_log_normal_quantiles() -> None:
    """Damage: exp(mean + std * u) without the normal quantile; image and mask parameters swapped."""
    sigma = samples(WIDE)
    for column, mean, std in ((0, 0.5, 1.8), (1, -0.5, 1.2)):
        level = sigma[:, column]
        level = level[(level > 0) & (level < 1e9)].log()
        for p in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert float(level.quantile(p)) == pytest.approx(mean + std * NormalDist().inv_cdf(p), abs=0.05 * std)


def test_levels_never_exceed_the_highest() -> None:
    """Damage: no clamp at sigma_max, so that training goes beyond where sampling starts."""
    config = DiffusionConfig(sigma_max=2.0)
    assert float(samples(config, 2000).max()) == 2.0


def test_small_batches_are_stratified() -> None:
    """Damage: independent uniform quantiles: 8 samples then leave octiles empty."""
    none = {f"share_{k}": 0.0 for k in ("independent", "mask_clean", "image_clean", "marginal")}
    config = dataclasses.replace(WIDE, **none)
    for seed in range(20):
        z = (samples(config, 8, seed)[:, 0].log() - 0.5) / 1.8
        octile = (torch.special.ndtr(z) * 8).long()
        assert sorted(octile.tolist()) == list(range(8))


def test_ddpm_samples_come_from_the_table() -> None:
    """Damage: interpolating between entries; the first or last entry never sampled."""
    config = dataclasses.replace(DDPM, timesteps=40)
    table = ddpm_sigmas(config).float()
    sigma = samples(config, 5000)
    assert bool(torch.isin(sigma, torch.cat([table, torch.zeros(1)])).all())
    assert set(table.tolist()) <= set(sigma[:, 0].tolist())
    counts = torch.stack([(sigma[:, 0] == level).sum() for level in table[:-1]]).float()
    assert float(counts.std() / counts.mean()) < 0.1  # uniform in t


@pytest.mark.parametrize("config", [WIDE, DDPM])
def test_samples_depend_on_the_generator_only(config: DiffusionConfig) -> None:
    """Damage: torch.rand without the generator."""
    torch.manual_seed(1)
    first = samples(config, 64)
    torch.manual_seed(2)
    assert torch.equal(samples(config, 64), first)
    assert not torch.equal(samples(config, 64, seed=1), first)
    assert first.dtype == torch.float32
