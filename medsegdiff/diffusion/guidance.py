"""Denoising with a class, guided within an interval of noise levels, or without a class.

Guidance leads away from what a worse judge says: the network without the class (classifier-free guidance, Ho and
Salimans 2022), or a less trained network with it (autoguidance, Karras et al. 2024, "Guiding a diffusion model with a
bad version of itself", which keeps variety better).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsegdiff.diffusion.condition import Condition
from medsegdiff.diffusion.denoiser import Denoiser
from medsegdiff.diffusion.samplers import Denoise


def guided_denoise(
    denoiser: Denoiser,
    label: Tensor,
    weight: float,
    interval: tuple[float, float],
    column: int = 0,
    guide: Denoiser | None = None,
) -> Denoise:
    """denoise(x, sigma (M,)) for classes `label` (B,): D_worse + weight (D - D_worse).

    D_worse is what `guide` says, or where there is none what `denoiser` says without the class. Outside `interval` of
    the levels of modality `column` the weight is 1, which costs one network call instead of two (Kynkaanniemi et al.
    2024: guidance at very high levels narrows the variety, at very low ones it does nothing).
    """
    kept = Condition(label=label)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma.to(x).expand(len(label), -1)
        if weight == 1 or not interval[0] < float(sigma[column]) <= interval[1]:
            result: Tensor = denoiser(x, levels, kept)
            return result
        if guide is None:
            better, worse = _with_and_without(denoiser, x, levels, label)
        else:
            better, worse = denoiser(x, levels, kept), guide(x, levels, kept)
        return worse + weight * (better - worse)

    return denoise


def _with_and_without(denoiser: Denoiser, x: Tensor, levels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """What the network says with the class and without it, in one call."""
    keep = torch.arange(2 * len(label), device=label.device) < len(label)
    both = Condition(label=label.repeat(2), keep_label=keep)
    better, worse = denoiser(torch.cat([x, x]), torch.cat([levels, levels]), both).chunk(2)
    return better, worse


def classless_denoise(denoiser: Denoiser, n: int) -> Denoise:
    """denoise(x, sigma (M,)) for n pairs whose class is not told (the null embedding)."""
    device = denoiser.modality.device
    hidden = Condition(
        label=torch.zeros(n, dtype=torch.long, device=device),
        keep_label=torch.zeros(n, dtype=torch.bool, device=device),
    )

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        result: Tensor = denoiser(x, sigma.to(x).expand(n, -1), hidden)
        return result

    return denoise
