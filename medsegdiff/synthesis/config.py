"""Settings of generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medsegdiff.engine.settings import Device, Precision
from medsegdiff.generators.base import Mode


@dataclass(frozen=True)
class GenerateConfig:
    """Phase 3: checkpoint -> samples of synthetic pairs, or masks of conditioning images."""

    checkpoint_path: str  # .safetensors file; a .pth name finds the .safetensors beside it
    output_dir: str  # folder to write: a sample folder, or for image_to_mask masks with their doubt
    mode: Mode | None = None  # default: mask_to_image with --masks, image_to_mask with --images, else joint
    masks: str | None = None  # mask_to_image: sample images for the masks here (sample folder, class folders, pictures)
    images: str | None = None  # image_to_mask: find masks of the images here (sample folder, class folders, pictures)
    split: Literal["train", "val", "test"] | None = None  # of a sample folder; default: train of masks, all of images
    num_samples_per_input: int | None = None  # Samples of each conditioning mask (default 1) or image (default 8)
    num_samples_per_class: int = 100  # pairs of each class (joint and mask_first)
    classes: list[str] | None = None  # which ones; default: all that the checkpoint knows, or as conditioning masks say
    sampler: Literal["dpmpp_2m", "heun", "ddim", "ddpm"] = "dpmpp_2m"  # update rule
    steps: int = 15  # noise levels that a modality goes through; mask_first takes so many twice
    mask_guidance: float | None = None  # how strongly images follow masks; 1: as learnt; default: 2 where it was learnt
    guidance: float = 1.0  # guidance weight, away from the network without the class; 1: none
    guidance_checkpoint: str | None = None  # ... or away from this one, less trained on the same data (autoguidance)
    guidance_low: float = 0.3  # guidance acts where the image's noise level is above this ...
    guidance_high: float = 5.0  # ... and up to this
    sigma_scale: float = 1.0  # share of the image's noise level below 0.3 that the network is passed; less: finer grain
    chunk_size: int = 50  # pairs sampled together; decides memory and speed, and pixels only in their last bits
    max_redraws: int = 20  # further samples of a pair whose lesion mask is empty or degenerate before giving up
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    seed: int = 0  # of everything random
