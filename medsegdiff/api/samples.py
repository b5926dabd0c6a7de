"""What Python programs get from a generator: arrays, and pictures to look at."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from PIL import Image

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.errors import UserError

SHOWN = 64  # samples that a notebook shows of many


@dataclass(frozen=True, eq=False)
class Sample:
    """A synthetic image with its mask."""

    id: str
    label: str  # class
    image: np.ndarray  # (S, S) grey or (S, S, 3) RGB, uint8
    mask: np.ndarray | None  # (S, S) uint8 of pixel values: 0 and 255, or those of `spec`; None: images alone
    spec: ArraySpec  # channels, and what pixel values of masks mean

    @property
    def image_pil(self) -> Image.Image:
        """The image as a PIL image."""
        return Image.fromarray(self.image)

    @property
    def mask_pil(self) -> Image.Image:
        """The mask as a PIL image."""
        return Image.fromarray(_known(self.mask))

    def _repr_png_(self) -> bytes:
        return _png([self])


class Samples(Sequence[Sample]):
    """Samples of one generator. A notebook shows them as a sheet with the masks outlined."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        return Samples(self._samples[index]) if isinstance(index, slice) else self._samples[index]

    @property
    def images(self) -> np.ndarray:
        """(N, S, S) or (N, S, S, 3) uint8."""
        return np.stack([sample.image for sample in self._samples])

    @property
    def masks(self) -> np.ndarray:
        """(N, S, S) uint8."""
        return np.stack([_known(sample.mask) for sample in self._samples])

    @property
    def labels(self) -> list[str]:
        """Class of each sample."""
        return [sample.label for sample in self._samples]

    @property
    def sheet(self) -> Image.Image:
        """All of them as one picture, masks outlined."""
        return Image.open(io.BytesIO(_png(self._samples)))

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.labels.count(label)} {label}" for label in dict.fromkeys(self.labels))
        return f"Samples({counts})"

    def _repr_png_(self) -> bytes | None:
        return _png(self._samples[:SHOWN]) if self._samples else None


def _known(mask: np.ndarray | None) -> np.ndarray:
    """The mask. Raises `UserError` where a generator learnt none."""
    if mask is None:
        raise UserError("mask", "samples of a generator of images alone", "a generator of pairs", "Use their images.")
    return mask


def _png(samples: Sequence[Sample]) -> bytes:
    """A contact sheet as the bytes of a PNG file."""
    sheet = contact_sheet(
        [s.image for s in samples],
        [s.mask for s in samples],
        [s.label for s in samples],
        columns=min(8, len(samples)),
        spec=samples[0].spec,
    )
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, format="PNG")
    return file.getvalue()
