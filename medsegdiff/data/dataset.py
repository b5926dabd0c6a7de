"""Samples in memory: pictures resized to a square, decoded once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from medsegdiff.data.arrays import ArraySpec, resize_anisotropic
from medsegdiff.data.hashing import to_grey
from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError


@dataclass(frozen=True)
class SampleTensors:
    """N pairs of one size. Masks are soft: the share of each pixel that a mask class covers, in 255ths."""

    images: Tensor  # (N, C, S, S) uint8
    masks: Tensor  # (N, K, S, S) uint8, a channel for each class of `spec.foreground`; K is 0 without masks
    labels: Tensor  # (N,) int64, index into the class list
    records: tuple[SampleRecord, ...]
    spec: ArraySpec = field(default_factory=ArraySpec)  # what the arrays are

    def __len__(self) -> int:
        return len(self.records)

    def to(self, device: torch.device) -> SampleTensors:
        """The same pairs on `device`."""
        images, masks, labels = (part.to(device) for part in (self.images, self.masks, self.labels))
        return SampleTensors(images, masks, labels, self.records, self.spec)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, S, S) and masks (B, K, S, S) of the given rows as float32 in [0, 1], and labels (B,)."""
        return self.images[index].float() / 255, self.masks[index].float() / 255, self.labels[index]


def with_mask_channel(pairs: SampleTensors) -> SampleTensors:
    """The same, with an empty channel where the data set has no masks: networks of pairs have one, and hide it."""
    if pairs.masks.shape[1]:
        return pairs
    return dataclasses.replace(pairs, masks=torch.zeros_like(pairs.images[:, :1]))


def to_channels(picture: np.ndarray) -> np.ndarray:
    """(C, H, W) of a (H, W) grey or (H, W, 3) RGB picture."""
    return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)


def to_grey_or_rgb(picture: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) of a grey or RGB uint8 picture for 1 channel (Rec. 601 luma), (H, W, 3) RGB for 3."""
    if channels == 1:
        return to_grey(picture)
    return picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)


def from_channels(image: np.ndarray) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB of a (C, H, W) picture."""
    return image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))


def load_tensors(pairs: SampleSet, size: int, *, what: str) -> SampleTensors:
    """Read all pairs of a selection at `size` x `size`.

    Raises `UserError` where there is none, or where a picture is not the one that metadata.csv describes.

    `what` names the selection in the message, e.g. "train split".
    """
    if not len(pairs):
        raise UserError(pairs.root, f"no pair in the {what}", "at least one", "Prepare the data with that split.")
    spec = pairs.arrays
    images = np.empty((len(pairs), spec.channels, size, size), dtype=np.uint8)
    masks = np.empty((len(pairs), len(spec.foreground), size, size), dtype=np.uint8)
    for row, record in enumerate(progress_bar(pairs.records, desc=f"reading {what}", unit="pair", leave=False)):
        images[row] = to_channels(resize_anisotropic(pairs.read_image(record), size))
        if spec.foreground:
            masks[row] = spec.coverage(pairs.read_mask(record), size)
    labels = torch.tensor([pairs.classes.index(r.label) for r in pairs.records])
    return SampleTensors(torch.from_numpy(images), torch.from_numpy(masks), labels, pairs.records, spec)


def pixel_size(record: SampleRecord, size: int) -> tuple[float, float]:
    """(width, height) of one pixel of the resized picture, in heights of a native pixel.

    True geometry of the resized picture: `record.pixel_aspect` is native pixel width over height.
    """
    return record.width * record.pixel_aspect / size, record.height / size
