"""Drawing a batch of pairs from a denoiser; all chance comes from counters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medsegdiff.diffusion.codec import PairCodec
from medsegdiff.diffusion.denoiser import Denoiser
from medsegdiff.diffusion.guidance import guided_denoise
from medsegdiff.diffusion.samplers import SAMPLERS


def draw_pairs(
    denoiser: Denoiser,
    codec: PairCodec,
    labels: Tensor,
    sigmas: Tensor,
    noise: Callable[[int], Tensor],
    *,
    sampler: str = "dpmpp_2m",
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:
    """Images (B, 1, S, S) uint8 and masks (B, 1, S, S) uint8 {0, 255} of classes `labels` (B,).

    `sigmas` (T + 1, M) is the table that the sampler walks; noise(0) starts it, noise(1 + step) serves stochastic
    samplers. Both come from the CPU, so that every device starts from the same numbers.
    """
    device = denoiser.modality.device
    denoise = guided_denoise(denoiser, labels.to(device), guidance, interval)
    start = noise(0) * sigmas[0][codec.modality].view(1, -1, 1, 1)
    with torch.inference_mode():
        x = SAMPLERS[sampler](
            denoise, start.to(device), sigmas.to(device), denoiser.modality, lambda step: noise(1 + step).to(device)
        )
    image, mask = codec.decode(x.float().cpu())
    return (image * 255).round().to(torch.uint8), mask.to(torch.uint8) * 255
