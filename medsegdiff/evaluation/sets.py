"""The three sets of pairs that an evaluation compares, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medsegdiff.data.dataset import SampleTensors, load_tensors, pixel_size
from medsegdiff.data.records import SampleRecord, SampleSet


@dataclass(frozen=True)
class Pairs:
    """N pairs, resized to squares of one size."""

    images: np.ndarray  # (N, S, S) uint8
    masks: np.ndarray  # (N, S, S) bool: pixels of which the lesion covers at least half
    labels: np.ndarray  # (N,) class names
    groups: np.ndarray  # (N,) cluster of near-duplicates, or patient; of synthetic pairs: sampled for one mask
    pixels: np.ndarray  # (N, 2) width and height of a pixel in heights of a native one, true geometry
    records: tuple[SampleRecord, ...]

    def __len__(self) -> int:
        return len(self.images)

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
        )

    def of(self, label: str | None) -> np.ndarray:
        """(K,) row numbers of a class; of all pairs where `label` is None."""
        return np.arange(len(self)) if label is None else np.flatnonzero(self.labels == label)

    def tensors(self, classes: Sequence[str]) -> SampleTensors:
        """The same pairs as the trainers and reference models take them; labels index into `classes`."""
        images = torch.from_numpy(self.images[:, None])
        masks = torch.from_numpy((self.masks[:, None] * np.uint8(255)).astype(np.uint8))
        labels = torch.tensor([list(classes).index(label) for label in self.labels])
        return SampleTensors(images, masks, labels, self.records)


@dataclass(frozen=True)
class Sets:
    """What is compared with what."""

    train: Pairs  # real, learnt by the generator
    held_out: Pairs  # real, not learnt by it
    synthetic: Pairs
    classes: tuple[str, ...]  # that all three have
    img_size: int


def load_pairs(pairs: SampleSet, size: int, what: str) -> Pairs:
    """Read a selection of a sample folder at `size` x `size`. Raises `UserError` as `load_tensors` does."""
    data = load_tensors(pairs, size, what=what)
    return Pairs(
        images=data.images[:, 0].numpy(),
        masks=(data.masks[:, 0] >= 128).numpy(),
        labels=np.array([r.label for r in pairs.records]),
        groups=np.array([r.group for r in pairs.records]),
        pixels=np.array([pixel_size(r, size) for r in pairs.records]),
        records=pairs.records,
    )
