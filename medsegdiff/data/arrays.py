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
    """The arrays of a data set, as dataset.json says them; a binary mask is the case of two values.

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
        """Whether a mask tells one class from the background, as lesion metrics need it."""
        return len(self.foreground) == 1

    @property
    def mask_key(self) -> str:
        """What fingerprints know masks by beside the hashes of their pixels: "" where these say it all."""
        return "" if self.mask_values in (None, BINARY) else str(self)

    def to_json(self) -> dict[str, Any]:
        """As it stands in dataset.json under "arrays"."""
        masks = {} if self.mask_values is None else {"mask": {"values": dict(self.mask_values)}}
        return {"image": {"channels": self.channels}, **masks}

    @classmethod
    def from_json(cls, value: Any) -> ArraySpec:
        """What `to_json` wrote; None (before schema 2) is grey and binary. Raises `ValueError` for anything else."""
        if value is None:
            return cls()
        try:
            channels = value["image"]["channels"]
            values = dict(value["mask"]["values"]) if "mask" in value else None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("image: {channels}, mask: {values}") from error
        if channels not in (1, 3):
            raise ValueError("1 or 3 channels")
        if values is not None:
            check_mask_values(values)
        return cls(channels, values)

    def same_as(self, other: ArraySpec) -> bool:
        """Whether arrays of the one can stand beside those of the other: in mask classes their order counts too."""
        return self == other and self.foreground == other.foreground

    def __str__(self) -> str:
        images = "grey" if self.channels == 1 else "RGB"
        if self.mask_values is None:
            return f"{images} images without masks"
        return f"{images} images, masks of {', '.join(f'{k} {v}' for k, v in self.mask_values.items())}"

    def lesions(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8 in {0, 255}: where an (H, W) mask of pixel values shows any class but the background."""
        return np.where(self.index_map(mask) > 0, 255, 0).astype(np.uint8)

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

    def index_of(self, coverage: np.ndarray) -> np.ndarray:
        """(..., H, W) uint8 numbers of classes of a (..., K, H, W) uint8 `coverage`: what covers most of a pixel.

        The background covers what the classes leave; the background wins a tie, and of two classes the
        first one: of a binary mask a pixel is lesion from 128 on.
        """
        if not self.foreground:
            return np.zeros((*coverage.shape[:-3], *coverage.shape[-2:]), np.uint8)
        left = 255 - coverage.sum(axis=-3, dtype=np.int16)
        most = coverage.max(axis=-3)
        return np.where(most > left, coverage.argmax(axis=-3) + 1, 0).astype(np.uint8)

    def from_coverage(self, coverage: np.ndarray) -> np.ndarray:
        """The (H, W) mask of pixel values of a (K, H, W) uint8 `coverage`."""
        return self.values_of(self.index_of(coverage))

    def coverage(self, mask: np.ndarray, size: int) -> np.ndarray:
        """(K, size, size) uint8: which share of each pixel a foreground class covers, in 255ths.

        Each class is resized by itself (area averages when it shrinks), so that colours or numbers never mix.
        """
        values = self.mask_values or {}
        layers = (np.where(mask == values[name], 255, 0).astype(np.uint8) for name in self.foreground)
        resized = [resize_anisotropic(layer, size) for layer in layers]
        return np.stack(resized) if resized else np.zeros((0, size, size), np.uint8)


GREY_BINARY = ArraySpec()  # grey images with binary masks


def resize_anisotropic(picture: np.ndarray, size: int) -> np.ndarray:
    """A (H, W) or (H, W, 3) uint8 picture at `size` x `size`, whatever its shape; area averages where it shrinks."""
    shrinks = min(picture.shape[:2]) >= size
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def check_mask_values(values: Mapping[Any, Any]) -> None:
    """Raise `ValueError` unless these are names of classes with a pixel value each, one of them the background."""
    if not all(isinstance(k, str) and k and type(v) is int and 0 <= v <= 255 for k, v in values.items()):
        raise ValueError("class names with a pixel value from 0 to 255 each")
    if len(set(values.values())) < len(values):
        raise ValueError("a pixel value of its own for each class")
    if BACKGROUND not in values or len(values) < 2:
        raise ValueError(f"{BACKGROUND} and one or more classes")


def at_native_size(shares: np.ndarray, width: int, height: int) -> np.ndarray:
    """(K, height, width) float32 values of (K, S, S) ones, bilinear: back from the square that a network saw."""
    return np.stack([cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in shares])
