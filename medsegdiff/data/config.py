"""Settings of prepare and combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    duplicate_bits: int = 78  # pictures whose 256-bit perceptual hashes differ in at most so many bits are one group
    duplicate_correlation: float = 0.6  # ... as are those whose details correlate so much after a small shift; 1: off
    seed: int = 0  # of the split


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
