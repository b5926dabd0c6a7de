"""Settings of training; those of the network are its backbone's, those of the noise process stand beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from medsegdiff.conditioning.augmentation import Augmentation
from medsegdiff.conditioning.registry import condition_class
from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import require, require_fraction, require_positive
from medsegdiff.generators.joint_diffusion.backbones import settings_of, settle_settings
from medsegdiff.generators.joint_diffusion.backbones.config import ModelConfig, NetworkConfig
from medsegdiff.generators.joint_diffusion.noise import DiffusionConfig, highest_sigma, lowest_sigma

__all__ = ["DiffusionConfig", "ModelConfig", "TrainConfig"]

SMALLEST = 64  # side of the smallest pictures of the first steps, pixels: below that, steps hardly become cheaper


@dataclass(frozen=True)
class TrainConfig:
    """Phase 2: samples -> generative checkpoint."""

    data_dir: str  # sample folder; its train split is learnt, its val split watched, its test split not touched
    output_dir: str = "./checkpoints"  # checkpoints, sample grids, TensorBoard scalars
    init_from: str | None = None  # checkpoint whose weights training starts from; default: from scratch
    backbone: str = "patch_unet"  # denoising network: patch_unet, or medsegdiff_v2 with its two streams
    img_size: int = 256  # side of the square that pictures are resized to, pixels; a multiple of what the model needs
    batch_size: int = 8  # pairs an optimiser step and accumulation part
    accumulate: int = 1  # batches an optimiser step
    progressive_resizing: float = 0.0  # share of steps, the first, on pictures of half the size (64 or more); 0: none
    num_epochs: int = 100  # passes over as many pairs as the train split holds
    lr: float = 1e-4  # peak learning rate of AdamW
    weight_decay: float = 0.01  # of AdamW
    warmup_steps: int = 200  # optimiser steps of linear warm-up; cosine decay to 1 % follows
    grad_clip: float = 1.0  # largest norm of the gradient
    # Of what is averaged the middle length is looked at during training, and the best one on val saved at its end
    ema_lengths: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2])  # of averaged weights, share of training
    conditions: list[str] = field(default_factory=lambda: ["label"])  # label, modality, text, encoded_text, attributes
    text_encoder: str | None = None  # folder of a text encoder trained elsewhere, for --conditions encoded_text
    condition_dropout: float = 0.1  # share of samples of which a condition is hidden, for classifier-free guidance
    augment: bool = True  # joint augmentation: mirroring, zoom, gain
    augment_prob: float = 0.0  # share of pairs turned, moved and stretched further, and the network conditioned on it
    balance_classes: bool = True  # sample every class equally often
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    compile: Literal["auto", True, False] = "auto"  # build kernels for this network (torch.compile); auto: on a GPU
    checkpoint_gradients: bool = False  # compute blocks again in backward: less memory, about a third more time
    find_batch_size: bool = False  # try which batch fits into memory; cut the step's pairs into parts that do
    evals: int = 10  # evaluations in the whole run: val loss, sample quality, sample grid, checkpoint
    save_every: int = 200  # optimiser steps between two states to resume from
    eval_samples: int = 64  # pairs sampled at each evaluation for the sample-quality figure
    eval_steps: int = 16  # noise levels that a pair goes through there
    seed: int = 0  # of everything random
    # Settings of the backbone: `NetworkConfig()` stands for the defaults of the one that is chosen
    model: NetworkConfig = field(default_factory=NetworkConfig, metadata={"chosen_by": ("backbone", settings_of)})
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        expand_home(self)
        object.__setattr__(self, "model", settle_settings(self.backbone, self.model))
        names = ("img_size", "batch_size", "accumulate", "lr", "num_epochs", "evals", "save_every", "eval_samples")
        require_positive(**{name: getattr(self, name) for name in (*names, "warmup_steps", "grad_clip")})
        require(self.eval_steps >= 2, "--eval_steps", self.eval_steps, "2 or more")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        require(self.weight_decay >= 0, "--weight_decay", self.weight_decay, "0 or more")
        require_fraction("condition_dropout", self.condition_dropout)
        for name in self.conditions:
            condition_class(name)
        encoded = "encoded_text" in self.conditions
        hint = "Leave it out, or add encoded_text to --conditions."
        require(encoded or self.text_encoder is None, "--text_encoder", self.text_encoder, "a condition for it", hint)
        hint = "--augment_prob, which adds it"
        require(Augmentation.name not in self.conditions, "--conditions", Augmentation.name, hint, "Leave it out.")
        for name in ("augment_prob", "progressive_resizing"):
            value = getattr(self, name)
            require(0 <= value < 1, f"--{name}", value, "0 or more, and below 1")
        augmentable = self.augment or not self.augment_prob
        require(augmentable, "--augment_prob", self.augment_prob, "0 with --augment false", "Leave one of them out.")
        fits = bool(self.ema_lengths) and 0 < min(self.ema_lengths) <= max(self.ema_lengths) <= 0.28
        require(fits, "--ema_lengths", self.ema_lengths, "numbers above 0 and up to 0.28")
        multiple = self.model.size_multiple
        expected = f"a multiple of {multiple} (patch_size times the halvings of the U-Net)"
        nearest = max(1, round(self.img_size / multiple)) * multiple
        require(self.img_size % multiple == 0, "--img_size", self.img_size, expected, f"Try {nearest}.")
        if self.model.low_res_factor > 1:
            self._check_low_res()

    def _check_low_res(self) -> None:
        """Raise `UserError` where high noise cannot be taken off smaller pictures."""
        m, multiple = self.model, self.model.size_multiple
        lowest, highest = lowest_sigma(self.diffusion), highest_sigma(self.diffusion)
        expected = f"a noise level between {lowest:.3g} and {highest:.3g}, so that both sizes are used"
        require(lowest < m.low_res_sigma < highest, "--model.low_res_sigma", m.low_res_sigma, expected)
        side, left = divmod(self.img_size, m.low_res_factor)
        expected = f"one that divides {self.img_size} pixels and leaves 2, 3, ... times {multiple} (patch and halvings)"
        fits = not left and side % multiple == 0 and side > multiple
        require(fits, "--model.low_res_factor", m.low_res_factor, expected, "1 keeps pictures at their size.")

    @property
    def first_size(self) -> int:
        """Side of the pictures of the first steps, pixels: half the full one, or that where a half does not fit."""
        half, odd = divmod(self.img_size, 2)
        halves = self.progressive_resizing > 0 and not odd and half >= SMALLEST
        return half if halves and half % self.model.size_multiple == 0 else self.img_size
