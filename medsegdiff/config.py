"""Settings of every phase: frozen dataclasses, filled from YAML (`--config`) and flags by jsonargparse.

Flags win over the YAML file, wherever they stand on the command line. Unknown keys and wrong types are errors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from medsegdiff.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
Mode = Literal["joint", "mask_first", "mask_to_image", "image_to_mask"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


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
class ModelConfig:
    """Size of the denoising network, and parts of it to leave out."""

    in_channels: int = 1  # image channels (grey)
    out_channels: int = 1  # mask channels
    num_classes: int = 2  # lesion classes of the condition; set from the data
    augment_conditioning: bool = False  # whether the network knows how pictures were augmented; set by --augment_prob
    patch_size: int = 4  # space-to-depth factor of the stem, pixels
    model_channels: int = 96  # channels at the finest level of the U-Net
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 3])  # channels a level, times model_channels
    num_res_blocks: int = 1  # residual blocks a level, on the way down and on the way up
    use_transformer: bool = True  # transformer blocks at the bottleneck
    transformer_depth: int = 4  # how many of them
    num_heads: int = 4  # attention heads of each
    dropout: float = 0.1  # in residual and transformer blocks
    low_res_factor: int = 1  # how many times smaller the pictures are on which high noise is taken off; 1: not
    low_res_sigma: float = 1.5  # noise level from which they are
    mask_share: float = 0.5  # width of the mask stream, share of the image stream's (medsegdiff_v2)
    use_anchor: bool = True  # streams gate each other in the encoder, U-SA (medsegdiff_v2)
    use_spectrum: bool = True  # SS-Former at the bottleneck; false: plain attention there (medsegdiff_v2)
    use_band_pass: bool = True  # neural band-pass filter in SS-Former (medsegdiff_v2)


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process: how training samples noise levels, weighs the loss, and which levels sampling walks."""

    process: Literal["edm", "ddpm"] = "edm"  # edm: log-normal levels (Karras 2022); ddpm: levels of the table below
    timesteps: int = 1000  # T of the DDPM table
    beta_schedule: Literal["linear", "cosine"] = "linear"  # of the DDPM table
    beta_start: float = 1e-4  # first beta of the linear schedule
    beta_end: float = 0.02  # last beta of the linear schedule
    sigma_data: float = 0.5  # standard deviation of every channel after the codec
    sigma_min: float = 0.01  # lowest noise level that edm sampling visits before 0
    sigma_max: float = 80.0  # highest noise level of edm
    rho: float = 7.0  # spacing of edm sampling levels (Karras 2022, eq. 5)
    image_p_mean: float = 0.0  # mean of ln(sigma) of the image in training (edm)
    image_p_std: float = 1.7  # its standard deviation
    mask_p_mean: float = 0.0  # mean of ln(sigma) of the mask in training (edm)
    mask_p_std: float = 1.7  # its standard deviation
    share_independent: float = 0.25  # share of samples with independent levels of image and mask
    share_mask_clean: float = 0.12  # share of samples with the mask clean (learns mask -> image)
    share_image_clean: float = 0.08  # share of samples with the image clean (learns image -> mask)
    share_marginal: float = 0.05  # share of samples with one modality at the highest level (learns the other alone)
    mask_weight: float = 1.0  # weight of the mask loss beside the image loss
    sdf_truncation: float = 0.0  # masks as distances to the lesion's edge, cut at so many pixels; 0: binary
    min_snr: float = 5.0  # cap of the ddpm loss weight min(1 / sigma^2, cap); edm weighs by its own formula


@dataclass(frozen=True)
class TrainConfig:
    """Phase 2: samples -> generative checkpoint."""

    data_dir: str  # sample folder; its train split is learnt, its val split watched, its test split not touched
    output_dir: str = "./checkpoints"  # checkpoints, sample grids, TensorBoard scalars
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
    label_dropout: float = 0.1  # share of pairs whose class is hidden, for classifier-free guidance
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
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


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


@dataclass(frozen=True)
class SegmentConfig:
    """Phase 5: samples -> segmentation (or classification) model, and its scores on real test pictures."""

    data_dir: str  # sample folder: train is learnt, val picks the weights, test is scored once at the end
    output_dir: str = "./segmentation"  # weights, scores, overlays
    task: Literal["segment", "classify"] = "segment"  # segment: outline the lesion; classify: predict its class
    model: str | None = None  # architecture of smp, or madgnet (default unet); for classify one of timm (resnet18)
    encoder: str | None = None  # its encoder (segment only); default: resnet18, for madgnet resnest50d
    encoder_weights: str | None = None  # "imagenet" (downloaded), a file with weights, or nothing: from scratch
    epochs: int | None = None  # instead of --steps; of 384 pairs each, however many there are
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


def fingerprint_of(config: Any, phase: str, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What decides the content of a phase's output, as JSON-like values; `leave_out` names fields that do not."""
    values = dataclasses.asdict(config)
    return {"phase": phase, **{k: v for k, v in values.items() if k not in leave_out}}


def require(condition: bool, where: str, found: object, expected: str, hint: str = "Change the setting.") -> None:
    """Raise `UserError` for the setting `where`, unless `condition` holds."""
    if not condition:
        raise UserError(where, found, expected, hint)


def require_fraction(name: str, value: float) -> None:
    """A share between 0 and 1."""
    require(0 <= value <= 1, f"--{name}", value, "a number from 0 to 1")


def require_positive(**values: float) -> None:
    """Every named setting is above zero."""
    for name, value in values.items():
        require(value > 0, f"--{name}", value, "a number above 0")
