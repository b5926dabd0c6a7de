"""Readers of raw data sets: each turns one published layout into a list of `RawSample`; a new data set is a new
file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RawSample:
    """One picture as it was found, with its masks merged."""

    name: str  # unique, usable as a file name; becomes the id: "benign_0003"
    label: str  # class, spelt as it was asked for; "" where the data set does not say
    source: str  # file it was read from, relative to the data set: "benign/benign (3).png"
    image: np.ndarray  # (H, W) uint8 grey
    mask: np.ndarray  # (H, W) uint8, {0, 255}
    patient: str = ""  # who it is of, where the data set says
