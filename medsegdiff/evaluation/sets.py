"""The three sets of pairs that an evaluation compares, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medsegdiff.data.arrays import GREY_BINARY, ArraySpec
from medsegdiff.data.dataset import SampleTensors, from_channels, load_tensors, pixel_size
from medsegdiff.data.hashing import to_grey
from medsegdiff.data.records import SampleRecord, SampleSet


@dataclass(frozen=True)
class Pairs:
    """N pairs, resized to squares of one size."""

    images: np.ndarray  # (N, S, S) uint8 grey values, of RGB pictures converted: what metrics look at
    masks: np.ndarray  # (N, S, S) bool: pixels of which the lesion covers at least half; of label maps none
    labels: np.ndarray  # (N,) class names
    groups: np.ndarray  # (N,) cluster of near-duplicates, or patient; of synthetic pairs: sampled for one mask
    pixels: np.ndarray  # (N, 2) width and height of a pixel in heights of a native one, true geometry
    records: tuple[SampleRecord, ...]
    spec: ArraySpec = GREY_BINARY  # what the arrays are
    colours: np.ndarray | None = None  # (N, S, S, 3) uint8 RGB; None of grey pictures
    label_maps: np.ndarray | None = None  # (N, S, S) uint8 numbers of classes, 0 background; None of binary masks

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pictures(self) -> np.ndarray:
        """What is shown and what networks see: the colours, or the grey values of grey pictures."""
        return self.images if self.colours is None else self.colours

    @property
    def index(self) -> np.ndarray:
        """(N, S, S) numbers of mask classes, 0 background: the label maps, or the lesions of binary masks (bool)."""
        return self.masks if self.label_maps is None else self.label_maps

    @property
    def aspects(self) -> np.ndarray:
        """(N,) width over height of a pixel."""
        return np.asarray(self.pixels[:, 0] / self.pixels[:, 1])

    @property
    def ids(self) -> list[str]:
        """The ids of the pairs."""
        return [record.id for record in self.records]

    def rows(self, index: Sequence[int] | np.ndarray) -> Pairs:
        """The pairs of the given rows, (K,) whole numbers or (N,) truth values."""
        where = np.asarray(index)
        where = np.flatnonzero(where) if where.dtype == bool else where.astype(int)
        return Pairs(
            self.images[where],
            self.masks[where],
            self.labels[where],
            self.groups[where],
            self.pixels[where],
            tuple(self.records[i] for i in where),
            self.spec,
            None if self.colours is None else self.colours[where],
            None if self.label_maps is None else self.label_maps[where],
        )

    def of(self, label: str | None) -> np.ndarray:
        """(K,) row numbers of a class; of all pairs where `label` is None."""
        return np.arange(len(self)) if label is None else np.flatnonzero(self.labels == label)

    def tensors(self, classes: Sequence[str]) -> SampleTensors:
        """The same pairs as the trainers and reference models take them; labels index into `classes`."""
        images = torch.from_numpy(self.channels(np.arange(len(self))))
        numbers = np.arange(1, 1 + len(self.spec.foreground), dtype=np.uint8)
        masks = torch.from_numpy((self.index[:, None] == numbers[:, None, None]) * np.uint8(255))
        labels = torch.tensor([list(classes).index(label) for label in self.labels])
        return SampleTensors(images, masks, labels, self.records, self.spec)

    def channels(self, rows: np.ndarray) -> np.ndarray:
        """(K, C, S, S) uint8 pictures of the given rows (K,)."""
        chosen = self.pictures[rows]
        return chosen[:, None] if chosen.ndim == 3 else np.ascontiguousarray(chosen.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Sets:
    """What is compared with what."""

    train: Pairs  # real, learnt by the generator
    held_out: Pairs  # real, not learnt by it
    synthetic: Pairs
    classes: tuple[str, ...]  # classes of images that all three have
    img_size: int


def load_pairs(pairs: SampleSet, size: int, what: str) -> Pairs:
    """Read a selection of a sample folder at `size` x `size`. Raises `UserError` as `load_tensors` does."""
    data = load_tensors(pairs, size, what=what)
    spec, index = data.spec, data.spec.index_of(data.masks.numpy())
    pictures = np.stack([from_channels(image) for image in data.images.numpy()])
    coloured = spec.channels > 1
    return Pairs(
        images=np.stack([to_grey(picture) for picture in pictures]) if coloured else pictures,
        masks=index > 0 if spec.is_binary else np.zeros(index.shape, bool),
        labels=np.array([r.label for r in pairs.records]),
        groups=np.array([r.group for r in pairs.records]),
        pixels=np.array([pixel_size(r, size) for r in pairs.records]),
        records=pairs.records,
        spec=spec,
        colours=pictures if coloured else None,
        label_maps=None if spec.is_binary else index,
    )
