"""Denoising with a class, with classifier-free guidance within an interval of noise levels, or without a class."""

from __future__ import annotations

import torch
from torch import Tensor

from medsegdiff.diffusion.condition import Condition
from medsegdiff.diffusion.denoiser import Denoiser
from medsegdiff.diffusion.samplers import Denoise


def guided_denoise(
    denoiser: Denoiser, label: Tensor, weight: float, interval: tuple[float, float], column: int = 0
) -> Denoise:
    """denoise(x, sigma (M,)) for classes `label` (B,), D_null + weight (D_class - D_null).

    Ho and Salimans 2022. Outside `interval` of the levels of modality `column` the weight is 1, which costs one network
    call instead of two (Kynkaanniemi et al. 2024: guidance at very high levels narrows the variety, at very low ones
    it does nothing).
    """
    n = len(label)
    kept = Condition(label=label)
    both = Condition(
        label=label.repeat(2),
        keep_label=torch.arange(2 * n, device=label.device) < n,
    )

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma.to(x).expand(n, -1)
        active = weight != 1 and interval[0] < float(sigma[column]) <= interval[1]
        if not active:
            result: Tensor = denoiser(x, levels, kept)
            return result
        with_class, without = denoiser(torch.cat([x, x]), torch.cat([levels, levels]), both).chunk(2)
        return without + weight * (with_class - without)

    return denoise


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
