"""Settings of evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsegdiff.engine.settings import Device, Precision


@dataclass(frozen=True)
class EvaluateConfig:
    """Subcommand evaluate: how realistic, varied, true to their masks and private synthetic pairs are."""

    real_data: str  # sample folder of real pairs: train is what the generator learnt
    synthetic_data: str  # sample folder of synthetic pairs
    output_dir: str = "./evaluation"  # folder for report.html, report.json and per_pair.csv
    checkpoint_path: str | None = None  # generative checkpoint, for membership inference
    held_out: list[str] = field(default_factory=lambda: ["val", "test"])  # splits that the generator never saw
    img_size: int | None = None  # side of the squares that are compared, pixels; default: as the synthetic pairs
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
