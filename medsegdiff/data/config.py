"""Settings of prepare and combine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import UserError, require, require_fraction


@dataclass(frozen=True)
class PrepareConfig:
    """Phase 1: raw BUSI folder -> samples."""

    input_dir: str  # folder that holds benign/, malignant/ (and normal/), directly or one level below
    output_dir: str  # sample folder to write
    classes: list[str] = field(default_factory=lambda: ["benign", "malignant"])  # class folders to read, in this order
    val_fraction: float = 0.15  # share of the pictures of each class in val
    test_fraction: float = 0.2  # share of the pictures of each class in test
    folds: int = 5  # cross-validation folds over train + val
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
        lower = [label.lower() for label in self.classes]
        unique = bool(lower) and len(set(lower)) == len(lower)
        require(unique, "--classes", self.classes, "one or more class folders, each once")


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
