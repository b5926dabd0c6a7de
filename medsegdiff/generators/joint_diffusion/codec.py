"""Pixels <-> standardised channels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

SIGMA_DATA = 0.5  # standard deviation of every encoded channel
_MEANS = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}  # by rank of (B, C, *S)


@functools.lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same tensor every time: a copy to a GPU would wait for it."""
    with torch.inference_mode(False):  # it may be asked for by a training step later
        return torch.tensor(values, dtype=dtype, device=device)


def encode_sdf(masks: Tensor, radius: float) -> Tensor:
    """uint8 masks (N, K, *S) as distances to the edge of each class, cut at `radius` pixels; as they are where it is 0.

    The edge has 127.5, so that one threshold reads either code; inside runs up to 255, outside down to 0. Without an
    edge, all is outside (or inside). A signed distance speaks of the edge far from it, and a speck has little of it.
    """
    if not radius:
        return masks
    coded = np.empty(masks.shape, np.uint8)
    layers = (part.reshape(-1, *masks.shape[2:]) for part in (coded, masks.numpy() > 127))
    for place, mask in zip(*layers, strict=True):
        inside, outside = (distance_transform_edt(part) if not part.all() else np.inf for part in (mask, ~mask))
        # A pixel beside the edge is one pixel from the other side and half a pixel from the edge
        distance = np.where(mask, inside - 0.5, 0.5 - outside)
        place[:] = np.clip(np.round(127.5 + 127.5 * distance / radius), 0, 255)
    return torch.from_numpy(coded)


@dataclass(frozen=True)
class PairCodec:
    """Maps an image and its mask to the channels that diffusion works on, each with mean 0 and std 0.5.

    `mean` and `std` are (C,) statistics of pixels in [0, 1] over the train split, image channels first; they travel
    in the checkpoint. Standardising the mask as well as the image gives both the same noise scale: a mask left in
    {0, 1} would be buried by noise levels that barely touch the image.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_channels: int = 1
    sdf_truncation: float = 0.0  # pixels; masks are coded as distances cut at so many (`encode_sdf`); 0: as they are

    @classmethod
    def fit(cls, images: Tensor, masks: Tensor, sdf_truncation: float = 0.0) -> PairCodec:
        """Statistics of (N, C, *S) images and (N, K, *S) coded masks in [0, 1] (or uint8 in 0..255)."""
        mean: list[float] = []
        std: list[float] = []
        for stack in (images, masks):
            scale = 255.0 if stack.dtype == torch.uint8 else 1.0
            for channel in stack.unbind(1):
                values = channel.double() / scale
                mean.append(values.mean().item())
                std.append(max(values.std().item(), 1e-3))  # a constant channel must not divide by zero
        return cls(tuple(mean), tuple(std), images.shape[1], sdf_truncation)

    @property
    def modality(self) -> Tensor:
        """(C,) int64: 0 for image channels, 1 for mask channels."""
        return (torch.arange(len(self.mean)) >= self.image_channels).long()

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (like.ndim - 2))
        mean, std = (_constant(values, like.dtype, like.device) for values in (self.mean, self.std))
        return mean.view(shape), std.view(shape)

    def encode(self, image: Tensor, mask: Tensor) -> Tensor:
        """(B, C + K, *S) channels of float images (B, C, *S) and coded masks (B, K, *S) in [0, 1]."""
        x = torch.cat([image, mask], dim=1)
        mean, std = self._statistics(x)
        return (x - mean) / std * SIGMA_DATA

    def pixels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images and masks in pixels, 0 to 1 and somewhat beyond, of channels (B, C + K, *S).

        Of a denoised estimate the mask is the expected mask: in each pixel the probability of each class, or where
        masks are coded as distances the expected code, whose middle is the edge.
        """
        mean, std = self._statistics(x)
        both = x / SIGMA_DATA * std + mean
        return both[:, : self.image_channels], both[:, self.image_channels :]

    def covered(self, coded: Tensor) -> Tensor:
        """The share of each pixel that a coded mask covers, 0 to 1, of the same shape."""
        if not self.sdf_truncation:
            return coded.clamp(0, 1)
        distance = (coded - 0.5) * 2 * self.sdf_truncation  # pixels inside the edge
        return (distance + 0.5).clamp(0, 1)

    def decode(self, x: Tensor, known: bool = False) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and boolean masks of channels (B, C + K, *S); `known` masks come back as they were coded.

        Of several classes a pixel has the one of the largest value, and none (background) where no value is above the
        threshold.

        The mask is thresholded half-way between the codes of background and lesion (0.5 in pixels), not at code 0,
        which is the mean of the mask and lies close to background. Distances are averaged over 3 x 3 pixels before:
        they run straight across an edge, which so stays where it is, and what noise is left makes no specks beside it.
        Conditioning masks have no noise, and thin ones would be lost.
        """
        image, mask = self.pixels(x)
        if self.sdf_truncation and not known:
            mask = _MEANS[mask.ndim](mask, 3, stride=1, padding=1, count_include_pad=False)
        above = mask > 0.5
        if mask.shape[1] > 1:
            above &= torch.zeros_like(above).scatter_(1, mask.argmax(dim=1, keepdim=True), True)
        return image.clamp(0, 1), above
