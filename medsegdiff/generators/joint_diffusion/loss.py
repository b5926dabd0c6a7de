"""The training loss, one term a modality."""

from __future__ import annotations

import torch
from torch import Tensor

from medsegdiff.conditioning.base import Conditions
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, expand_levels
from medsegdiff.generators.joint_diffusion.noise import loss_weight


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Conditions,
    sigma: Tensor,
    noise: Tensor,
    config: DiffusionConfig,
    high: int | None = None,
) -> Tensor:
    """(B, M) weighted squared errors of the denoised estimate, averaged over pixels and channels of a modality.

    x0 and noise are (B, C, *S), sigma is (B, M); `high` as for `Denoiser.forward`. A clean modality costs
    nothing (weight 0).
    """
    x = x0 + expand_levels(sigma, denoiser.modality, x0.ndim) * noise
    return squared_error(denoiser, denoiser(x, sigma, cond, high), x0) * loss_weight(sigma, config)


def squared_error(denoiser: Denoiser, estimate: Tensor, x0: Tensor) -> Tensor:
    """(B, M) squared errors of estimates (B, C, *S), averaged over pixels and channels of a modality."""
    error = (estimate - x0).square().flatten(2).mean(dim=2)  # (B, C)
    columns = [error.index_select(1, own).mean(dim=1) for own in denoiser.channels_of()]
    return torch.stack(columns, dim=1)
