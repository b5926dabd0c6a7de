"""Sampling a batch of pairs from a denoiser, whole or one modality given; all chance comes from counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from medsegdiff.conditioning.base import Condition, Conditions, encode
from medsegdiff.engine.device import autocast
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import NONE, Guidance, guided_denoise
from medsegdiff.generators.joint_diffusion.noise import MASK
from medsegdiff.generators.joint_diffusion.samplers import SAMPLERS, Denoise, Noise


def sample_channels(
    denoise: Denoise, codec: PairCodec, sigmas: Tensor, noise: Noise, *, sampler: str, known: Tensor | None = None
) -> Tensor:
    """Channels (B, C, S, S) at the last row of the table `sigmas` (T + 1, M), on its device.

    noise(0) starts the walk, noise(1 + step) serves stochastic samplers; both are made on the CPU, so that every device
    starts from the same numbers. A modality of level 0 in the first row is taken from `known` (B, C, S, S) and comes
    back as it is, to the bit; of the other channels `known` may hold anything.
    """
    device, x = sigmas.device, _start(codec, sigmas, noise, known)
    with torch.inference_mode():
        return SAMPLERS[sampler](
            denoise, x.to(device), sigmas, codec.modality.to(device), lambda step: noise(1 + step).to(device)
        )


def _start(codec: PairCodec, sigmas: Tensor, noise: Noise, known: Tensor | None) -> Tensor:
    """Channels at the first row of the table, on the CPU: noise, and what is given where the level is 0."""
    start = sigmas.cpu()[0][codec.modality].view(1, -1, 1, 1)
    x = noise(0) * start
    return x if known is None else torch.where(start == 0, known, x)


def sample_pairs(
    denoiser: Denoiser,
    codec: PairCodec,
    cond: Conditions,
    sigmas: Tensor,
    noise: Noise,
    *,
    sampler: str = "dpmpp_2m",
    guidance: Guidance = NONE,
    sigma_scale: float = 1.0,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S) uint8 and masks (B, K, S, S) uint8 {0, 255} under `cond`.

    `sigmas`, `noise` and `known` as in `sample_channels`. Where `guidance` hides the mask, it does so with the noise
    that the walk starts from. `sigma_scale`: share of the image's lowest levels that the network gets
    (`scaled_levels`).
    """
    device = denoiser.modality.device
    start = noise(0)
    hidden = (start.to(device), float(sigmas.max())) if guidance.mask_weight != 1 else None
    cond = {name: values.to(device) for name, values in cond.items()}
    denoise = guided_denoise(denoiser, cond, len(start), guidance, hidden, sigma_scale)
    x = sample_channels(denoise, codec, sigmas.to(device), noise, sampler=sampler, known=known)
    image, mask = codec.decode(x.float().cpu(), known=bool(sigmas[0, MASK] == 0))
    return (image * 255).round().to(torch.uint8), mask.to(torch.uint8) * 255


def sample_labels(
    denoiser: Denoiser,
    codec: PairCodec,
    conditions: Sequence[Condition],
    labels: Sequence[str],
    size: int,
    sigmas: Tensor,
    stream: Callable[[int, int], torch.Generator],
    *,
    batch: int,
    precision: str,
    **how: Any,
) -> tuple[Tensor, Tensor]:
    """`sample_pairs` of one pair for each of `labels`, `size` pixels a side, `batch` at a time; `how` is its own.

    `stream(row, step)`: where the noise of the batch that begins with that row comes from.
    """
    parts = []
    for start in range(0, len(labels), batch):
        chunk = labels[start : start + batch]

        def noise(step: int, start: int = start, count: int = len(chunk)) -> Tensor:
            return torch.randn((count, len(codec.mean), size, size), generator=stream(start, step))

        cond = encode(conditions, [{"label": label} for label in chunk])
        with autocast(denoiser.modality.device, precision):
            parts.append(sample_pairs(denoiser, codec, cond, sigmas, noise, **how))
    images, masks = (torch.cat(column) for column in zip(*parts, strict=True))
    return images, masks


def sample_masks(
    denoiser: Denoiser,
    codec: PairCodec,
    known: Tensor,
    sigmas: Tensor,
    noise: Noise,
    cond: Conditions | None = None,
    *,
    sampler: str = "dpmpp_2m",
) -> tuple[Tensor, Tensor]:
    """(B, K, S, S) boolean masks of the images in `known` (B, C + K, S, S), sampled from p(mask | image, `cond`), and
    expected masks in [0, 1].

    The latter come from the first network call. The denoised estimate is E[mask | image, noisy mask]; at the highest
    level of the table the noisy mask says nothing, which leaves E[mask | image], the probability of each class in
    each pixel (where masks are coded as distances: the mask whose edge has the expected distance).
    """
    cond = {name: values.to(denoiser.modality.device) for name, values in (cond or {}).items()}
    plain = guided_denoise(denoiser, cond, len(known))
    estimates: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = plain(x, sigma)
        if not estimates:
            estimates.append(estimate)
        return estimate

    x = sample_channels(denoise, codec, sigmas.to(denoiser.modality.device), noise, sampler=sampler, known=known)
    return codec.decode(x.float().cpu())[1], codec.covered(codec.pixels(estimates[0].float().cpu())[1])
