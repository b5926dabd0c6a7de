"""Settings of segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medsegdiff.engine.settings import Device, Precision


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
