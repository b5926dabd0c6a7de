"""Settings of prepare and combine."""

from __future__ import annotations

from dataclasses import dataclass, field


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
