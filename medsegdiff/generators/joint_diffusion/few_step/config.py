"""Settings of few-step training."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import require, require_fraction, require_positive


@dataclass(frozen=True)
class FewStepConfig:
    """Subcommand few-step: a trained checkpoint learns to sample sharper pictures in a few network calls."""

    checkpoint_path: str  # joint diffusion checkpoint to start from
    data_dir: str  # sample folder that it learnt; its train split is learnt on, its val split watched
    output_dir: str = "./few_step"  # checkpoints, sample grids, TensorBoard scalars
    feature_weights: str = "download"  # MobileNetV2 for the discriminators: file, or "download"
    sigmas: list[float] = field(default_factory=lambda: [80.0, 6.0, 2.0, 0.7, 0.25])  # noise levels, one a call
    num_steps: int = 4000  # steps of generator and discriminators
    batch_size: int = 16  # pairs a step
    full_share: float = 0.375  # of them at levels seen at full size; the others see smaller pictures, at less cost
    share_first: float = 0.5  # of the others at the first level, where layout is decided
    share_simulated: float = 0.75  # beyond the first level, whose noisy picture is the network's own, not a real one's
    share_mask_clean: float = 0.1  # with the mask known (mask -> image)
    share_image_clean: float = 0.06  # with the image known (image -> mask)
    share_image_hidden: float = 0.06  # with the image at the highest level (mask first)
    regression_weight: float = 0.5  # of the squared error beside the discriminators, times 1 / sigma^2
    lr: float = 2e-4  # learning rate of the generator
    discriminator_lr: float = 4e-4  # ... and of the discriminators
    warmup_steps: int = 100  # steps of linear warm-up of both
    grad_clip: float = 5.0  # largest norm of the gradient of the generator
    ema_length: float = 0.1  # of averaged weights, share of training
    balance_classes: bool = True  # sample every class equally often
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    evals: int = 16  # evaluations in the whole run: sample quality, sample grid, checkpoint
    save_every: int = 250  # steps between two states to resume from
    eval_samples: int = 192  # pairs sampled at each evaluation
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        expand_home(self)
        names = ("num_steps", "batch_size", "lr", "discriminator_lr", "warmup_steps", "grad_clip", "evals")
        require_positive(**{name: getattr(self, name) for name in (*names, "save_every", "eval_samples")})
        levels = self.sigmas
        falling = len(levels) > 1 and min(levels) > 0 and all(a > b for a, b in zip(levels, levels[1:], strict=False))
        require(falling, "--sigmas", levels, "two noise levels or more, above 0, each below the one before")
        for name in ("full_share", "share_first", "share_simulated"):
            require_fraction(name, getattr(self, name))
        known = self.share_mask_clean, self.share_image_clean, self.share_image_hidden
        fits = min(known) >= 0 and sum(known) <= 1
        require(fits, "--share_mask_clean, _image_clean, _image_hidden", known, "shares that add up to at most 1")
        require(self.regression_weight >= 0, "--regression_weight", self.regression_weight, "0 or more")
        require(0 < self.ema_length <= 0.28, "--ema_length", self.ema_length, "above 0 and up to 0.28")
        require(self.batch_size >= 2, "--batch_size", self.batch_size, "2 or more")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
