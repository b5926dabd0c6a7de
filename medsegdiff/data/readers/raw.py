"""What every reader takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medsegdiff.data.arrays import ArraySpec

Colour = Literal["auto", "grey", "rgb"]


@dataclass(frozen=True)
class ReadOptions:
    """How a raw data set is to be read; published layouts need none of it."""

    classes: tuple[str, ...] | None = None  # class folders to read; None: all that the layout is known for, or has
    mask_classes: Mapping[str, int] | None = None  # class -> pixel value of label maps; None: binary masks
    colour: Colour = "auto"  # of the images; auto: RGB where most pictures of an unpublished set are coloured
    keep_splits: bool = False  # take the data set's own train, val and test


@dataclass(frozen=True)
class RawSample:
    """One picture as it was found, with its masks merged."""

    name: str  # unique, usable as a file name; becomes the id: "benign_0003"
    label: str  # class, spelt as it was asked for; "" where the data set does not say
    source: str  # file it was read from, relative to the data set: "benign/benign (3).png"
    image: np.ndarray  # (H, W) uint8 grey, or (H, W, 3) RGB
    mask: np.ndarray | None  # (H, W) uint8 pixel values; None where the data set has no masks
    subject: str = ""  # patient, where the data set says
    text: str = ""  # caption, likewise
    modality: str = ""  # likewise
    split: str = ""  # train, val or test, where the data set's own is kept
    attributes: Mapping[str, float] = field(default_factory=dict, hash=False)  # by name, where the data set says
    files: int = 2  # picture files that it was read from


@dataclass(frozen=True)
class RawSet:
    """A raw data set in memory."""

    samples: list[RawSample]
    arrays: ArraySpec = field(default_factory=ArraySpec)  # of its images and masks
    layout: str = ""  # name of its layout
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that are no part of it, by kind


@dataclass(frozen=True)
class Reader:
    """A layout."""

    find: Callable[[Path, ReadOptions], list[Path]]  # folders of that layout, at the given one or below
    read: Callable[[Path, ReadOptions], list[RawSample] | RawSet]  # a list: grey images with binary masks
    layout: str  # in short, for messages
    modality: str = ""  # of all its pictures, where the layout is of one
    table: str = ""  # name of the file that tells of the pictures, where there is one
