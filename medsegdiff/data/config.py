"""Settings of prepare and combine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import UserError, require, require_fraction


@dataclass(frozen=True)
class PrepareConfig:
    """Phase 1: raw data set -> samples."""

    input_dir: str  # folder of the raw data set
    output_dir: str  # sample folder to write
    layout: str = "auto"  # of the raw data set: busi, bus_bra, bus_uclm, udiat, stu_hospital, folders; auto: finds it
    classes: list[str] | None = None  # to read, in this order; default: benign, malignant of busi, else all there are
    mask_classes: list[str] | None = None  # name=value of each class of label maps; default: binary masks
    colour: Literal["auto", "grey", "rgb"] = "auto"  # of the images; auto: grey unless most of own ones are coloured
    keep_splits: bool = False  # take the data set's own train, val and test (folders, or column split of its table)
    subject_pattern: str | None = None  # regular expression whose first group is the patient in a file's path
    val_fraction: float = 0.15  # share of the pictures of each class in val
    test_fraction: float = 0.2  # share of the pictures of each class in test
    folds: int = 5  # cross-validation folds over train + val
    captions: bool = False  # write a caption of each pair that has none, in BI-RADS words, from its attributes
    duplicate_bits: int = 78  # pictures whose 256-bit perceptual hashes differ in at most so many bits are one group
    duplicate_correlation: float = 0.6  # ... as are those whose details correlate so much after a small shift; 1: off
    seed: int = 0  # of the split

    def __post_init__(self) -> None:
        expand_home(self)
        require_fraction("val_fraction", self.val_fraction)
        require_fraction("test_fraction", self.test_fraction)
        both = self.val_fraction + self.test_fraction
        expected = "less than 1, so that train has some"
        require(both < 1, "--val_fraction and --test_fraction", f"{both:g} together", expected)
        require(self.folds >= 2, "--folds", self.folds, "at least 2")
        require(0 <= self.duplicate_bits < 128, "--duplicate_bits", self.duplicate_bits, "0 to 127 of 256 bits")
        require(self.duplicate_correlation > 0, "--duplicate_correlation", self.duplicate_correlation, "above 0")
        require(self.seed >= 0, "--seed", self.seed, "a whole number of 0 or more")
        lower = None if self.classes is None else [label.lower() for label in self.classes]
        unique = lower is None or (bool(lower) and len(set(lower)) == len(lower))
        require(unique, "--classes", self.classes, "one or more class folders, each once")
        try:
            re.compile(self.subject_pattern or "")
        except re.error as error:
            found = f"{self.subject_pattern} ({error})"
            raise UserError("--subject_pattern", found, "a regular expression", "Correct it.") from error


@dataclass(frozen=True)
class CombineConfig:
    """Phase 4: real samples + synthetic samples -> samples whose train split holds both."""

    real_data: str  # sample folder of real pairs
    synthetic_data: str  # sample folder of synthetic pairs
    output_dir: str  # sample folder to write
    ratio: float | None = None  # synthetic pairs for each real train pair; default: as many as there are
    balance: bool = True  # choose them so that the classes of the combined train split are equally frequent
    synthetic_only: bool = False  # leave the real pairs out of train (val and test stay real)
    duplicate_bits: int | None = None  # val or test this close to what was trained on is refused; default: as prepared
    seed: int = 0  # of the choice among the synthetic pairs

    def __post_init__(self) -> None:
        expand_home(self)
        require(self.ratio is None or self.ratio > 0, "--ratio", self.ratio, "a number above 0")
        bits = self.duplicate_bits
        require(bits is None or 0 <= bits < 128, "--duplicate_bits", bits, "0 to 127 of 256 bits")
        require(self.seed >= 0, "--seed", self.seed, "a whole number of 0 or more")
        folders: dict[str, str] = {}
        for name in ("real_data", "synthetic_data", "output_dir"):
            path = os.path.realpath(getattr(self, name))
            if path in folders:
                found = f"the same folder as --{folders[path]}"
                raise UserError(f"--{name} {path}", found, "a folder of its own", "Change one of them.")
            folders[path] = name
