"""Settings of the joint diffusion model: network, noise process, training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from medsegdiff.engine.settings import Device, Precision


@dataclass(frozen=True)
class ModelConfig:
    """Size of the denoising network, and parts of it to leave out."""

    in_channels: int = 1  # image channels (grey)
    out_channels: int = 1  # mask channels
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
    conditions: list[str] = field(default_factory=lambda: ["label"])  # what samples can be asked by
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
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
