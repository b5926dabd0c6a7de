"""Inpainting: a lesion into a given picture, of which everything outside a region stays as it is.

What is known replaces the denoised estimate wherever it is known, at every step (Lugmayr et al., CVPR 2022, RePaint,
there with noisy samples), so that what is sampled sees its surroundings at the same noise level. Within the region its
edge is blended.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor

from medsegdiff.conditioning.base import Conditions
from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance, guided_denoise
from medsegdiff.generators.joint_diffusion.noise import DiffusionConfig, sigma_table
from medsegdiff.generators.joint_diffusion.samplers import Denoise, Noise
from medsegdiff.generators.joint_diffusion.sampling import sample_channels

MARGIN = 1 / 12  # around a mask that is given, share of the side: what may change with the lesion
FEATHER = 1 / 24  # within the region along its edge, share of the side: known and sampled are blended


@dataclass(frozen=True)
class Given:
    """A batch of pictures that lesions are put into."""

    images: Tensor  # (B, C, S, S) uint8
    regions: Tensor | None = None  # (B, 1, S, S) uint8, above 127 where pixels may change; None: around the mask
    masks: Tensor | None = None  # (B, K, S, S) uint8 coverage in 255ths; None: sampled


def region_around(masks: Tensor) -> Tensor:
    """(B, 1, S, S) uint8 {0, 255}: masks (B, K, S, S) and `MARGIN` around them."""
    reach = max(1, round(MARGIN * masks.shape[-1]))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= reach**2
    covered = (masks > 127).any(dim=1).cpu().numpy()
    return torch.from_numpy(np.stack([binary_dilation(mask, disc) for mask in covered])[:, None].astype(np.uint8) * 255)


def known_share(regions: Tensor) -> Tensor:
    """(B, 1, S, S) share of each pixel that is known: 1 outside of regions (B, 1, S, S), falling to 0 within."""
    feather = max(1.0, FEATHER * regions.shape[-1])
    inside = [distance_transform_edt(region) for region in (regions[:, 0] > 127).cpu().numpy()]
    return 1 - torch.from_numpy(np.stack(inside)[:, None] / feather).clamp(0, 1).float()


def inpaint(
    denoiser: Denoiser,
    codec: PairCodec,
    cond: Conditions,
    diffusion: DiffusionConfig,
    noise: Noise,
    given: Given,
    *,
    steps: int,
    sampler: str,
    guidance: Guidance,
) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S) uint8 and masks (B, K, S, S) uint8 {0, 255}: `given`, with a lesion in each region.

    Without a region and a mask the mask is sampled first, as the class has them, and the image around it changes.
    """
    device = denoiser.modality.device
    start = noise(0)
    hidden = (start.to(device), float(sigma_table("joint", diffusion, steps).max()))
    denoise = guided_denoise(denoiser, {k: v.to(device) for k, v in cond.items()}, len(start), guidance, hidden)
    if given.regions is None and given.masks is None:
        table = sigma_table("mask_first", diffusion, steps)[: steps + 1].to(device)
        first = sample_channels(denoise, codec, table, noise, sampler=sampler)
        given = dataclasses.replace(given, masks=codec.decode(first.float().cpu())[1].to(torch.uint8) * 255)
    regions = region_around(given.masks) if given.regions is None else given.regions  # type: ignore[arg-type]
    keep = known_share(regions)
    count = len(codec.mean) - codec.image_channels
    masks = torch.zeros(len(start), count, *start.shape[2:], dtype=torch.uint8) if given.masks is None else given.masks
    known = codec.encode(given.images.float() / 255, encode_sdf(masks, codec.sdf_truncation).float() / 255)
    mode = "joint" if given.masks is None else "mask_to_image"
    outside = (regions <= 127).float()  # of the mask nothing is blended: it is background there
    by_channel = torch.cat([keep] * codec.image_channels + [outside if given.masks is None else outside * 0] * count, 1)
    table = sigma_table(mode, diffusion, steps).to(device)
    x = sample_channels(
        held(denoise, known.to(device), by_channel.to(device)), codec, table, noise, sampler=sampler, known=known
    )
    image, mask = codec.decode(x.float().cpu(), known=given.masks is not None)
    sampled = (image * 255).round().to(torch.uint8)
    return torch.where(regions > 127, sampled, given.images), mask.to(torch.uint8) * 255


def held(denoise: Denoise, known: Tensor, share: Tensor) -> Denoise:
    """`denoise` with `known` (B, C, S, S) in the place of its estimate, by the share (B, C, S, S) that is known."""

    def held_denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(denoise(x, sigma), known.to(x), share)

    return held_denoise
