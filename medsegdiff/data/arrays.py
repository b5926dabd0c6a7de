"""What the arrays of a data set are: channels of its images, and which pixel value of a mask means which class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

BACKGROUND = "background"
BINARY = {BACKGROUND: 0, "lesion": 255}


@dataclass(frozen=True)
class ArraySpec:
    """The arrays of a data set, as dataset.json describes them; a binary mask is the case of two values.

    Pixel values of masks appear here and nowhere else in the code: a mask on disk is an index map of `mask_values`, a
    mask in a network is one channel a foreground class (`coverage`).
    """

    channels: int = 1  # of images: 1 grey, 3 RGB
    mask_values: Mapping[str, int] | None = field(default_factory=lambda: dict(BINARY))  # by class; None: no masks

    @property
    def foreground(self) -> tuple[str, ...]:
        """Mask classes but the background, in the order of the network's mask channels; () without masks."""
        return tuple(name for name in self.mask_values or {} if name != BACKGROUND)

    @property
    def is_binary(self) -> bool:
        """Whether a mask separates one class from the background, as lesion metrics need it."""
        return len(self.foreground) == 1

    def to_json(self) -> dict[str, Any]:
        """As it stands in dataset.json under "arrays"."""
        masks = {} if self.mask_values is None else {"mask": {"values": dict(self.mask_values)}}
        return {"image": {"channels": self.channels}, **masks}

    def index_map(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8 numbers of classes, 0 background and k the k-th of `foreground`, of an (H, W) mask of values."""
        values = self.mask_values or {}
        index = np.zeros(mask.shape, np.uint8)
        for number, name in enumerate(self.foreground, start=1):
            index[mask == values[name]] = number
        return index

    def values_of(self, index: np.ndarray) -> np.ndarray:
        """The (H, W) mask of pixel values of an `index_map`."""
        values = self.mask_values or {}
        table = np.array([values.get(BACKGROUND, 0), *(values[name] for name in self.foreground)], np.uint8)
        return np.asarray(table[index])

    def coverage(self, mask: np.ndarray, size: int) -> np.ndarray:
        """(K, size, size) uint8: which share of each pixel a foreground class covers, in 255ths.

        Each class is resized by itself (area averages when it shrinks), so that colours or numbers never mix.
        """
        shrinks = min(mask.shape) >= size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        values = self.mask_values or {}
        layers = [np.where(mask == values[name], 255, 0).astype(np.uint8) for name in self.foreground]
        return np.stack([cv2.resize(layer, (size, size), interpolation=how) for layer in layers])
