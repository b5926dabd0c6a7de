"""Settings of evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medsegdiff.data.records import SPLITS
from medsegdiff.downstream.config import SIZE_FACTOR
from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import require, require_positive

MIN_RESAMPLES = 20  # fewer make no interval, and one without both classes may be all there is for an AUC
SMALLEST_SIZE = 64  # side below which speckle and texture say nothing


@dataclass(frozen=True)
class EvaluateConfig:
    """Subcommand evaluate: how realistic, varied, true to their masks and private synthetic pairs are."""

    real_data: str  # sample folder of real pairs: train is what the generator learnt
    synthetic_data: str  # sample folder of synthetic pairs
    output_dir: str = "./evaluation"  # folder for report.html, report.json and per_pair.csv
    checkpoint_path: str | None = None  # generative checkpoint, for membership inference
    held_out: list[str] = field(default_factory=lambda: ["val", "test"])  # splits that the generator never saw
    img_size: int | None = None  # side of the squares that are compared, pixels; default: as the synthetic pairs
    perceptual_weights: str | None = None  # file of EfficientNet-Lite0; default: that of the package of this name
    inception_weights: str | None = None  # file, or "download", for FID, KID and Inception score
    lpips_weights: str | None = None  # file with AlexNet's weights, or "download", for LPIPS
    reference_models_dir: str | None = None  # default: medsegdiff/reference_models in the user's cache folder
    reference_model_steps: int = 600  # optimiser steps of segmenter and classifier
    embedding_steps: int = 500  # optimiser steps of each network of the self-supervised embedding
    bootstrap: int = 200  # resamples of the intervals, 20 or more; of shares in privacy ten times as many
    real_pictures: bool = True  # show real pictures on the page; false: leave them out, to hand the page on
    max_pairs: int | None = None  # evaluate a random choice of so many synthetic pairs of each class
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(reference_model_steps=self.reference_model_steps, embedding_steps=self.embedding_steps)
        require(self.bootstrap >= MIN_RESAMPLES, "--bootstrap", self.bootstrap, f"{MIN_RESAMPLES} or more")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        require(self.max_pairs is None or self.max_pairs > 0, "--max_pairs", self.max_pairs, "a number above 0")
        folder = self.reference_models_dir
        free = folder is None or not Path(folder).is_file()
        require(free, "--reference_models_dir", f"{folder}, a file", "a folder", "Choose another one.")
        allowed = [name for name in SPLITS if name != "train"]
        good = bool(self.held_out) and set(self.held_out) <= set(allowed)
        require(good, "--held_out", " ".join(self.held_out) or "nothing", f"one or both of {', '.join(allowed)}")
        size = self.img_size
        if size is not None:
            good = size >= SMALLEST_SIZE and size % SIZE_FACTOR == 0
            require(good, "--img_size", size, f"a multiple of {SIZE_FACTOR}, {SMALLEST_SIZE} or more")
