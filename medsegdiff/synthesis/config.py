"""Settings of generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import UserError, require, require_positive
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

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(num_samples_per_class=self.num_samples_per_class, chunk_size=self.chunk_size)
        samples = self.num_samples_per_input
        require(samples is None or samples > 0, "--num_samples_per_input", samples, "a number above 0")
        require(self.steps >= 2, "--steps", self.steps, "2 or more")
        for name in ("seed", "max_redraws", "guidance"):
            require(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "0 or more")
        chosen = self.classes or []
        require(len(set(chosen)) == len(chosen), "--classes", " ".join(chosen), "each class once")
        require(0 < self.sigma_scale <= 1, "--sigma_scale", self.sigma_scale, "above 0, at most 1")
        weight = 1.0 if self.mask_guidance is None else self.mask_guidance
        require(weight >= 0, "--mask_guidance", weight, "0 or more")
        expected = f"less than --guidance_high {self.guidance_high}"
        require(self.guidance_low < self.guidance_high, "--guidance_low", self.guidance_low, expected)
        self._check_inputs()
        self._check_guidance_checkpoint()

    @property
    def settled_mode(self) -> Mode:
        """The mode that is set, or that the conditioning inputs mean."""
        if self.mode is not None:
            return self.mode
        return "image_to_mask" if self.images else "mask_to_image" if self.masks else "joint"

    def _check_inputs(self) -> None:
        """Raise `UserError` where the mode and what is given contradict each other."""
        mode, samples = self.settled_mode, self.num_samples_per_input
        if self.masks and self.images:
            raise UserError("--masks", "--images beside it", "one of them", "Leave one of them out.")
        for name, owner in (("masks", "mask_to_image"), ("images", "image_to_mask")):
            folder = getattr(self, name)
            if mode == owner and not folder:
                raise UserError(f"--mode {mode}", f"no --{name}", f"--{name} FOLDER", f"Give the {name}.")
            fits = mode == owner or folder is None
            require(fits, f"--{name}", f"mode {mode}", f"mode {owner}", "Leave one of them out.")
        if mode in ("joint", "mask_first"):
            hint = f"Leave it out; --num_samples_per_class says how many {mode} samples."
            expected = "conditioning masks or images"
            require(samples is None, "--num_samples_per_input", f"mode {mode}", expected, hint)
            require(self.split is None, "--split", f"mode {mode}", expected, "Leave it out.")
        if mode == "image_to_mask":
            expected = "no class: it is not passed"
            require(self.classes is None, "--classes", f"mode {mode}", expected, "Leave it out.")

    def _check_guidance_checkpoint(self) -> None:
        """Raise `UserError` where a network to steer away from is given, and nothing is steered."""
        if self.guidance_checkpoint is None:
            return
        where, hint = "--guidance_checkpoint", "Give a weight such as 2, or leave --guidance_checkpoint out."
        require(self.guidance != 1, where, "--guidance 1, which is none", "another --guidance", hint)
        mode = self.settled_mode
        require(mode != "image_to_mask", where, f"mode {mode}", "a mode that samples images", hint)
