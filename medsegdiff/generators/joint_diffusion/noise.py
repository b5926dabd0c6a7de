"""Noise levels: the DDPM table, how training samples levels, how the loss weighs them, which levels sampling walks.

Levels are per modality, (B, M) or (T + 1, M), with column 0 the image and column 1 the mask.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medsegdiff.errors import require, require_positive
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA

IMAGE, MASK = 0, 1
MODES = ("joint", "mask_first", "mask_to_image", "image_to_mask")


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process: how training samples noise levels, weighs the loss, and which levels sampling walks."""

    process: Literal["edm", "ddpm"] = "edm"  # edm: log-normal levels (Karras 2022); ddpm: levels of the table below
    timesteps: int = 1000  # T of the DDPM table
    beta_schedule: Literal["linear", "cosine"] = "linear"  # of the DDPM table
    beta_start: float = 1e-4  # first beta of the linear schedule
    beta_end: float = 0.02  # last beta of the linear schedule
    sigma_min: float = 0.01  # lowest noise level that edm sampling visits before 0
    sigma_max: float = 80.0  # highest noise level of edm
    rho: float = 7.0  # spacing of edm sampling levels (Karras 2022, eq. 5)
    image_p_mean: float = 0.0  # mean of ln(sigma) of the image in training (edm)
    image_p_std: float = 1.7  # its standard deviation
    mask_p_mean: float = 0.0  # mean of ln(sigma) of the mask in training (edm)
    mask_p_std: float = 1.7  # its standard deviation
    share_independent: float = 0.25  # share of samples with independent levels of image and mask
    share_mask_clean: float = 0.12  # share of samples with the mask clean (learns mask -> image)
    share_image_clean: float = 0.08  # share of samples with the image clean (learns image -> mask)
    share_marginal: float = 0.05  # share of samples with one modality at the highest level (learns the other alone)
    mask_weight: float = 1.0  # weight of the mask loss beside the image loss
    sdf_truncation: float = 0.0  # masks as distances to the lesion's edge, cut at so many pixels; 0: binary
    min_snr: float = 5.0  # cap of the ddpm loss weight min(1 / sigma^2, cap); edm weighs by its own formula

    def __post_init__(self) -> None:
        for name in ("timesteps", "min_snr", "rho", "image_p_std", "mask_p_std"):
            require_positive(**{f"diffusion.{name}": getattr(self, name)})
        radius = self.sdf_truncation
        require(0 <= radius < math.inf, "--diffusion.sdf_truncation", radius, "a number of pixels, 0 or more")
        require(self.mask_weight >= 0, "--diffusion.mask_weight", self.mask_weight, "0 or more")
        betas, levels = (self.beta_start, self.beta_end), (self.sigma_min, self.sigma_max)
        require(0 < betas[0] <= betas[1] < 1, "--diffusion.beta_start, beta_end", betas, "0 < start <= end < 1")
        require(0 < levels[0] < levels[1], "--diffusion.sigma_min, sigma_max", levels, "0 < min < max")
        shares = [self.share_independent, self.share_mask_clean, self.share_image_clean, self.share_marginal]
        fits = min(shares) >= 0 and sum(shares) <= 1
        require(fits, "--diffusion.share_*", shares, "shares that add up to at most 1")


def of_images_alone(config: DiffusionConfig) -> DiffusionConfig:
    """The same process where there are no masks: their channel is hidden throughout, and costs nothing."""
    return dataclasses.replace(
        config, mask_weight=0.0, share_independent=0.0, share_mask_clean=0.0, share_image_clean=0.0, share_marginal=0.0
    )


def hide_masks(sigma: Tensor, config: DiffusionConfig) -> None:
    """Put the masks of levels (B, 2) at the highest one, in place."""
    sigma[:, MASK] = highest_sigma(config)


def ddpm_abar(schedule: str, timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """(T,) float64 cumulative products abar_1..abar_T.

    linear: Ho et al. 2020, section 4. cosine: Nichol and Dhariwal 2021, eq. 17, with s = 0.008 and betas capped at
    0.999.
    """
    if schedule == "linear":
        beta = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    else:
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, dim=0)


def ddpm_sigmas(config: DiffusionConfig) -> Tensor:
    """(T,) float64 levels sigma_t = sqrt((1 - abar_t) / abar_t), ascending."""
    abar = ddpm_abar(config.beta_schedule, config.timesteps, config.beta_start, config.beta_end)
    return torch.sqrt((1 - abar) / abar)


def highest_sigma(config: DiffusionConfig) -> float:
    """The level at which a modality counts as pure noise."""
    return config.sigma_max if config.process == "edm" else float(ddpm_sigmas(config)[-1])


def lowest_sigma(config: DiffusionConfig) -> float:
    """The lowest level that sampling visits before 0."""
    return config.sigma_min if config.process == "edm" else float(ddpm_sigmas(config)[0])


def _quantile_to_sigma(u: Tensor, column: int, config: DiffusionConfig) -> Tensor:
    """Noise levels at quantiles u in (0, 1) of the training distribution of one modality."""
    if config.process == "ddpm":
        table = ddpm_sigmas(config).float()
        return table[(u * len(table)).long().clamp(max=len(table) - 1)]
    mean, std = (
        (config.image_p_mean, config.image_p_std) if column == IMAGE else (config.mask_p_mean, config.mask_p_std)
    )
    return (mean + std * torch.special.ndtri(u)).exp().clamp(max=config.sigma_max)


def sample_sigma(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """(n, 2) training noise levels: a mixture that holds the corners of the square as well as its middle.

    Most pairs get equal quantiles for both modalities; shares of `config` get independent levels, a clean mask, a
    clean image, or one modality at the highest level (Bao et al. 2023, UniDiffuser: level 0 conditions on a
    modality, the highest marginalises it out). Quantiles are stratified over the batch, which lowers the variance
    of the loss at no cost.
    """
    strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    u = strata.clamp(1e-6, 1 - 1e-6)
    other = torch.rand(n, generator=generator).clamp(1e-6, 1 - 1e-6)
    kind = torch.rand(n, generator=generator)
    edges = torch.tensor(
        [config.share_independent, config.share_mask_clean, config.share_image_clean, config.share_marginal]
    ).cumsum(0)
    image = _quantile_to_sigma(u, IMAGE, config)
    mask = _quantile_to_sigma(torch.where(kind < edges[0], other, u), MASK, config)
    mask = torch.where((kind >= edges[0]) & (kind < edges[1]), 0.0, mask)
    image = torch.where((kind >= edges[1]) & (kind < edges[2]), 0.0, image)
    marginal = (kind >= edges[2]) & (kind < edges[3])
    top = highest_sigma(config)
    mask = torch.where(marginal & (other < 0.5), top, mask)
    image = torch.where(marginal & (other >= 0.5), top, image)
    return torch.stack([image, mask], dim=1)


def loss_weight(sigma: Tensor, config: DiffusionConfig) -> Tensor:
    """Weight of the squared error of the denoised estimate at levels `sigma`, same shape; 0 for a clean modality.

    edm: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Karras et al. 2022, table 1).
    ddpm: min(1 / sigma^2, cap), the simple loss with min-SNR clipping (Hang et al. 2023, eq. 4).
    """
    safe = torch.where(sigma > 0, sigma, 1.0)
    if config.process == "edm":
        weight = (safe**2 + SIGMA_DATA**2) / (safe * SIGMA_DATA) ** 2
    else:
        weight = (1 / safe**2).clamp(max=config.min_snr)
    return torch.where(sigma > 0, weight, 0.0)


def sampling_sigmas(config: DiffusionConfig, steps: int) -> Tensor:
    """(steps + 1,) float32 levels from the highest down to 0.

    edm: Karras et al. 2022, eq. 5. ddpm: `steps` entries of the table, equally spaced in t, the last being t = T.
    """
    if config.process == "edm":
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
        levels = (high + ramp * (low - high)) ** config.rho
    else:
        table = ddpm_sigmas(config)
        index = torch.linspace(len(table) - 1, 0, steps + 1, dtype=torch.float64).round().long()[:steps]
        levels = table[index]
    return torch.cat([levels, levels.new_zeros(1)]).float()


def sigma_table(mode: str, config: DiffusionConfig, steps: int, few_step: Sequence[float] = ()) -> Tensor:
    """(T + 1, 2) levels that a sampler walks: the table is the generation mode. T = steps; mask_first has T = 2 steps.

    joint: image and mask go down together. mask_first: the mask goes down while the image stays at the highest level,
    which hides it, then the image with the mask clean. mask_to_image, image_to_mask: the conditioning modality has
    level 0 in every row, so that samplers leave it as it is (Bao et al. 2023, UniDiffuser). text_to_image: the image
    alone, the mask being hidden throughout. `few_step`: levels of a
    network that learnt to sample in these, one a step. Raises ValueError for another mode.
    """
    levels = torch.tensor([*few_step, 0.0]) if few_step else sampling_sigmas(config, steps)
    steps = len(levels) - 1
    clean, hidden = torch.zeros_like(levels), levels[:1].expand(steps)
    if mode == "joint":
        return torch.stack([levels, levels], dim=1)
    if mode == "mask_first":
        image, mask = torch.cat([hidden, levels]), torch.cat([levels, clean[:-1]])
        return torch.stack([image, mask], dim=1)
    if mode == "mask_to_image":
        return torch.stack([levels, clean], dim=1)
    if mode == "text_to_image":
        return torch.stack([levels, levels[:1].expand(steps + 1)], dim=1)
    if mode == "image_to_mask":
        return torch.stack([clean, levels], dim=1)
    raise ValueError(f"mode {mode!r}; known: {', '.join(MODES)}")
