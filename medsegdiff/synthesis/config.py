"""Settings of generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import UserError, require, require_positive
from medsegdiff.generators.base import Task


@dataclass(frozen=True)
class GenerateConfig:
    """Phase 3: checkpoint -> synthetic samples, or masks of conditioning images.

    `sampler` to `sigma_scale` are settings of generators; one that is left out is the generator's default. Those of
    joint diffusion are described in `SamplingSettings`.
    """

    checkpoint_path: str  # .safetensors file; a .pth name finds the .safetensors beside it
    output_dir: str  # folder to write: a sample folder, or for image_to_mask masks with their doubt
    mode: Task | None = None  # default: by --masks, by --images, else joint; text_to_image where no masks were learnt
    masks: str | None = None  # for mask_to_image, inpaint, remove: a sample folder, class folders or pictures
    images: str | None = None  # pictures to find masks of, to put lesions into (inpaint) or take them out of (remove)
    region: list[float] | None = None  # inpaint: box for the lesion, left, top, width, height; shares of the picture
    split: Literal["train", "val", "test"] | None = None  # of a sample folder; default: train; image_to_mask: all
    num_samples_per_input: int | None = None  # samples of each conditioning mask (default 1) or image (default 8; 1)
    num_samples_per_class: int = 100  # pairs of each class (joint and mask_first)
    attributes: list[str] | None = None  # that all have, such as area=0.08 or depth_to_width=1.1:1.5 (a range)
    prompt: str | None = None  # the same in words, such as "small oval benign mass, taller than wide, upper left"
    negative_prompt: str | None = None  # what guidance steers away from; needs --condition_guidance (or --guidance)
    modality: str | None = None  # of all, of a checkpoint that learnt several
    requests: str | None = None  # CSV with a row for each pair: label, prompt, noise, attributes; empty cells are free
    classes: list[str] | None = None  # which ones; default: all that the checkpoint knows, or as conditioning masks say
    sampler: str | None = None  # update rule: dpmpp_2m (the default of joint diffusion), heun, ddim, ddpm
    steps: int | None = None  # noise levels that a modality goes through (15); mask_first takes so many twice
    mask_guidance: float | None = None  # how strongly images follow masks; 1: as learnt; default: 2 where it was learnt
    guidance: float | None = None  # guidance weight, away from the network without the class; 1: none, the default
    condition_guidance: list[str] | None = None  # weights of what else is asked for, such as attributes=2 text=3
    guidance_checkpoint: str | None = None  # ... or away from this one, less trained on the same data (autoguidance)
    guidance_low: float | None = None  # guidance acts where the image's noise level is above this (0.3) ...
    guidance_high: float | None = None  # ... and up to this (5)
    text_encoder: str | None = None  # where the text encoder of the checkpoint is; default: where it was in training
    sigma_scale: float | None = None  # share of image noise levels below 0.3 that the network gets (1); less: finer
    chunk_size: int | None = None  # samples computed together; default: 8 on a CPU, 50 on a GPU; decides last bits
    max_redraws: int = 20  # further samples of a pair whose lesion mask is empty or degenerate before giving up
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(num_samples_per_class=self.num_samples_per_class)
        require(self.chunk_size is None or self.chunk_size > 0, "--chunk_size", self.chunk_size, "a number above 0")
        samples = self.num_samples_per_input
        require(samples is None or samples > 0, "--num_samples_per_input", samples, "a number above 0")
        for name in ("seed", "max_redraws"):
            require(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "0 or more")
        chosen = self.classes or []
        require(len(set(chosen)) == len(chosen), "--classes", " ".join(chosen), "each class once")
        self._check_inputs()

    @property
    def settled_mode(self) -> Task:
        """The mode that is set, or that the given masks or images mean."""
        if self.mode is not None:
            return self.mode
        return "image_to_mask" if self.images else "mask_to_image" if self.masks else "joint"

    def _check_inputs(self) -> None:
        """Raise `UserError` where the mode and what is given contradict each other."""
        mode, samples = self.settled_mode, self.num_samples_per_input
        if self.masks and self.images and mode not in ("inpaint", "remove"):
            raise UserError("--masks", "--images beside it", "one of them", "Leave one of them out.")
        for name, owners in (("masks", ("mask_to_image",)), ("images", ("image_to_mask", "inpaint", "remove"))):
            folder = getattr(self, name)
            if mode in owners and not folder:
                raise UserError(f"--mode {mode}", f"no --{name}", f"--{name} FOLDER", f"Give the {name}.")
            fits = mode in (*owners, "inpaint", "remove") or folder is None
            require(fits, f"--{name}", f"mode {mode}", f"mode {' or '.join(owners)}", "Leave one of them out.")
        if self.region is not None:
            self._check_region(self.region)
        if mode in ("joint", "mask_first", "text_to_image"):
            hint = f"Leave it out; --num_samples_per_class says how many {mode} samples."
            expected = "conditioning masks or images"
            require(samples is None, "--num_samples_per_input", f"mode {mode}", expected, hint)
            require(self.split is None, "--split", f"mode {mode}", expected, "Leave it out.")
        if self.requests is not None:
            hint = "It has a row for each pair."
            others = ("masks", "images", "classes", "attributes", "prompt", "negative_prompt")
            given = next((name for name in others if getattr(self, name)), None)
            require(given is None, "--requests", f"--{given} beside it", "one of them", hint)
        if mode == "remove":
            for name in ("classes", "attributes", "prompt", "negative_prompt"):
                asked = getattr(self, name)
                require(asked is None, f"--{name}", "mode remove", "nothing: healthy tissue is drawn", "Leave it out.")
        if mode == "image_to_mask":
            avoided, expected = self.negative_prompt, "a mode that samples images"
            require(avoided is None, "--negative_prompt", f"mode {mode}", expected, "Leave it out.")
            expected = "no class: masks are sampled without one"
            require(self.classes is None, "--classes", f"mode {mode}", expected, "Leave it out.")

    def _check_region(self, region: list[float]) -> None:
        """Raise `UserError` for a box that lies not within the picture, and where there is no use for one."""
        shown = " ".join(f"{number:g}" for number in region)
        mode = self.settled_mode
        require(mode == "inpaint", "--region", f"mode {mode}", "mode inpaint", "Leave it out.")
        require(self.masks is None, "--region", "--masks beside it", "one of them", "The mask says where.")
        box = "left, top, width and height of a box within the picture, such as 0.3 0.2 0.4 0.3"
        require(len(region) == 4, "--region", shown, box)
        left, top, width, height = region
        fits = min(left, top) >= 0 and min(width, height) > 0 and max(left + width, top + height) <= 1 + 1e-9
        require(fits, "--region", shown, box)

    @property
    def generator_settings(self) -> dict[str, Any]:
        """The settings of the generator that were set."""
        values = {name: getattr(self, name) for name in OF_GENERATORS}
        return {name: value for name, value in values.items() if value is not None}


OF_GENERATORS = (
    *("sampler", "steps", "mask_guidance", "guidance", "guidance_checkpoint", "condition_guidance"),
    *("guidance_low", "guidance_high", "text_encoder", "sigma_scale"),
)
