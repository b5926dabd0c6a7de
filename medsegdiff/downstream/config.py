"""Settings of segment and predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import require, require_fraction, require_positive

SIZE_FACTOR = 32  # encoders halve the picture five times


@dataclass(frozen=True)
class SegmentConfig:
    """Phase 5: samples -> segmentation (or classification) model, and its scores on real test pictures."""

    data_dir: str  # sample folder: train is learnt, val picks the weights, test is scored once at the end
    output_dir: str = "./segmentation"  # weights, scores, overlays
    task: Literal["segment", "classify"] = "segment"  # segment: outline the lesion; classify: predict its class
    model: str | None = None  # architecture of smp, or madgnet (default unet); for classify one of timm (resnet18)
    encoder: str | None = None  # its encoder (segment only); default: resnet18, for madgnet resnest50d
    encoder_weights: str | None = None  # "imagenet" (downloaded), a file with weights, or nothing: from scratch
    epochs: int | None = None  # instead of --steps: passes over the train split
    steps: int | None = None  # optimiser steps; default 600
    progressive_resizing: float = 0.7  # share of steps, the first, on pictures growing from half the size; 0: none
    patience: int = 5  # evaluations on val without a better score before training stops
    evals: int = 6  # evaluations on val, spread over the steps at full size
    batch_size: int = 8  # pairs an optimiser step
    lr: float = 2e-3  # peak learning rate of AdamW, cosine decay
    weight_decay: float = 0.01  # of AdamW
    warmup_steps: int = 50  # optimiser steps of linear warm-up
    grad_clip: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.99  # of the averaged weights that are evaluated and saved (shorter at the start)
    dropout: float = 0.0  # share of channels dropped before the last layer
    label_smoothing: float = 0.0  # targets run from half of it to 1 minus half of it
    augment: Literal["none", "standard", "strong"] = "standard"  # geometry, gain, speckle, shadow, blur
    img_size: int = 128  # side of the square that pictures are resized to, pixels; Dice is computed at this size
    balance_classes: bool = False  # sample every class equally often
    mixing: Literal["all", "gradual"] = "all"  # gradual: synthetic pairs first, the share of real ones rising to 1
    tta_flip: bool = True  # average predictions of the picture and its mirror image
    test_data: list[str] | None = None  # external test sets, scored too: in a published layout, or sample folders
    baseline: str | None = None  # output folder of an earlier run on the same test pairs, to compare with
    bootstrap: int = 2000  # resamples of the intervals
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    save_every: int = 200  # optimiser steps between two states to resume from
    seed: int = 0  # of everything random
    seeds: list[int] | None = None  # train once with each of these seeds, into <output_dir>/seed_<n>; report all

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(
            patience=self.patience,
            evals=self.evals,
            lr=self.lr,
            grad_clip=self.grad_clip,
            img_size=self.img_size,
            bootstrap=self.bootstrap,
            save_every=self.save_every,
        )
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name}", value, "a number above 0")
        both = self.epochs is not None and self.steps is not None
        require(not both, "--epochs and --steps", "both", "one of them", "Leave one out.")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        require(self.weight_decay >= 0, "--weight_decay", self.weight_decay, "0 or more")
        require(self.warmup_steps >= 0, "--warmup_steps", self.warmup_steps, "0 or more")
        require(0 <= self.ema_decay < 1, "--ema_decay", self.ema_decay, "from 0 to below 1")
        require(0 <= self.dropout < 1, "--dropout", self.dropout, "from 0 to below 1")
        require(0 <= self.label_smoothing < 1, "--label_smoothing", self.label_smoothing, "from 0 to below 1")
        require_fraction("progressive_resizing", self.progressive_resizing)
        require(self.batch_size >= 2, "--batch_size", self.batch_size, "2 or more, as batch normalisation needs")
        below = max(SIZE_FACTOR, self.img_size // SIZE_FACTOR * SIZE_FACTOR)
        expected = f"a multiple of {SIZE_FACTOR}, such as {below} or {below + SIZE_FACTOR}"
        require(self.img_size % SIZE_FACTOR == 0, "--img_size", self.img_size, expected)
        if self.seeds is not None:
            good = bool(self.seeds) and min(self.seeds) >= 0 and len(set(self.seeds)) == len(self.seeds)
            require(good, "--seeds", self.seeds, "one or more numbers of 0 or more, each once")
            require(self.seed == 0, "--seed and --seeds", "both", "one of them", "Leave one out.")
        if self.task == "classify":
            require(self.encoder is None, "--encoder", self.encoder, "none with --task classify", "Name it as --model.")


@dataclass(frozen=True)
class PredictConfig:
    """A trained network of phase 5 -> masks (or classes) of new pictures."""

    model_path: str  # what phase 5 wrote: its folder, or best_model.safetensors
    images: str  # folder of pictures: any, in class folders, or a sample folder
    output_dir: str = "./predictions"  # masks, probabilities, predictions.csv, contact_sheet.png
    split: Literal["train", "val", "test"] | None = None  # of a sample folder; default: all of it
    device: Device = "auto"  # auto: a GPU where there is one
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)

    def __post_init__(self) -> None:
        expand_home(self)
