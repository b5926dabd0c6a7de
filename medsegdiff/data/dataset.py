"""Samples in memory: pictures resized to a square, decoded once."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.errors import UserError


@dataclass(frozen=True)
class SampleTensors:
    """N pairs of one size. Masks are soft: the share of each pixel that the lesion covers, in 255ths."""

    images: Tensor  # (N, 1, S, S) uint8
    masks: Tensor  # (N, 1, S, S) uint8
    labels: Tensor  # (N,) int64, index into the class list
    records: tuple[SampleRecord, ...]

    def __len__(self) -> int:
        return len(self.records)

    def to(self, device: torch.device) -> SampleTensors:
        """The same pairs on `device`."""
        images, masks, labels = (part.to(device) for part in (self.images, self.masks, self.labels))
        return SampleTensors(images, masks, labels, self.records)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images and masks of the given rows as float32 in [0, 1], (B, 1, S, S), and labels (B,)."""
        return self.images[index].float() / 255, self.masks[index].float() / 255, self.labels[index]


def resize_anisotropic(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a (H, W) uint8 picture to (size, size), whatever its shape; area averages when it shrinks."""
    shrinks = min(picture.shape) >= size
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def load_tensors(pairs: SampleSet, size: int, *, what: str) -> SampleTensors:
    """Read all pairs of a selection at `size` x `size`.

    Raises `UserError` where there is none, or where a picture is not the one that metadata.csv describes.

    `what` names the selection in the message, e.g. "train split".
    """
    if not len(pairs):
        raise UserError(pairs.root, f"no pair in the {what}", "at least one", "Prepare the data with that split.")
    images = np.empty((len(pairs), 1, size, size), dtype=np.uint8)
    masks = np.empty_like(images)
    for row, record in enumerate(tqdm(pairs.records, desc=f"reading {what}", unit="pair", leave=False)):
        images[row, 0], masks[row, 0] = (
            resize_anisotropic(pairs.read_image(record), size),
            resize_anisotropic(pairs.read_mask(record), size),
        )
    labels = torch.tensor([pairs.classes.index(r.label) for r in pairs.records])
    return SampleTensors(torch.from_numpy(images), torch.from_numpy(masks), labels, pairs.records)


def pixel_size(record: SampleRecord, size: int) -> tuple[float, float]:
    """(width, height) of one pixel of the resized picture, in heights of a native pixel.

    True geometry of the resized picture: `record.pixel_aspect` is native pixel width over height.
    """
    return record.width * record.pixel_aspect / size, record.height / size
