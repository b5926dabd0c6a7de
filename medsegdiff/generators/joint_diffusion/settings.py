"""What training refuses before it begins: settings that cannot work."""

from __future__ import annotations

import math

from medsegdiff.conditioning.augmentation import Augmentation
from medsegdiff.conditioning.registry import condition_class
from medsegdiff.errors import require, require_fraction, require_positive
from medsegdiff.generators.joint_diffusion.backbones import check_backbone
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.noise import highest_sigma, lowest_sigma

SMALLEST = 64  # side of the smallest pictures of the first steps, pixels: below that, steps hardly become cheaper


def size_multiple(config: TrainConfig) -> int:
    """What sides of pictures have to be multiples of: the patch, halved at every level of the U-Net."""
    return int(config.model.patch_size * 2 ** (len(config.model.channel_mult) - 1))


def first_size(config: TrainConfig) -> int:
    """Side of the pictures of the first steps, pixels: half the full one, or that where a half does not fit."""
    half, odd = divmod(config.img_size, 2)
    fits = config.progressive_resizing > 0 and not odd and half >= SMALLEST and half % size_multiple(config) == 0
    return half if fits else config.img_size


def check_settings(config: TrainConfig) -> None:
    """Raise `UserError` for a setting that cannot work."""
    require_positive(
        img_size=config.img_size, batch_size=config.batch_size, accumulate=config.accumulate, lr=config.lr,
        num_epochs=config.num_epochs, evals=config.evals, save_every=config.save_every,
        eval_samples=config.eval_samples,
        warmup_steps=config.warmup_steps, grad_clip=config.grad_clip,
    )  # fmt: skip
    require(config.eval_steps >= 2, "--eval_steps", config.eval_steps, "2 or more")
    require(config.seed >= 0, "--seed", config.seed, "0 or more")
    require(config.weight_decay >= 0, "--weight_decay", config.weight_decay, "0 or more")
    require_fraction("condition_dropout", config.condition_dropout)
    for name in config.conditions:
        condition_class(name)
    hint = "--augment_prob, which adds it"
    require(Augmentation.name not in config.conditions, "--conditions", Augmentation.name, hint, "Leave it out.")
    require(0 <= config.augment_prob < 1, "--augment_prob", config.augment_prob, "0 or more, and below 1")
    augmentable = config.augment or not config.augment_prob
    require(augmentable, "--augment_prob", config.augment_prob, "0 with --augment false", "Leave one of them out.")
    require(
        0 <= config.progressive_resizing < 1,
        "--progressive_resizing",
        config.progressive_resizing,
        "0 or more, and below 1",
    )
    fits = bool(config.ema_lengths) and 0 < min(config.ema_lengths) <= max(config.ema_lengths) <= 0.28
    require(fits, "--ema_lengths", config.ema_lengths, "numbers above 0 and up to 0.28")
    m = config.model
    require(0 < m.mask_share <= 1, "--model.mask_share", m.mask_share, "above 0 and up to 1")
    sizes = ("patch_size", "model_channels", "num_res_blocks", "num_heads")
    require_positive(**{f"model.{name}": getattr(m, name) for name in sizes})
    require(bool(m.channel_mult) and min(m.channel_mult) > 0, "--model.channel_mult", m.channel_mult, "1 or more each")
    require(m.transformer_depth >= 0, "--model.transformer_depth", m.transformer_depth, "0 or more")
    require_fraction("model.dropout", m.dropout)
    multiple = size_multiple(config)
    require(
        config.img_size % multiple == 0,
        "--img_size",
        config.img_size,
        f"a multiple of {multiple} (patch_size times the halvings of the U-Net)",
        f"Try {max(1, round(config.img_size / multiple)) * multiple}.",
    )
    widest = m.model_channels * m.channel_mult[-1]
    check_backbone(config.backbone, m)
    require(widest % m.num_heads == 0, "--model.num_heads", m.num_heads, f"a divisor of {widest} channels")
    require((m.in_channels, m.out_channels) == (1, 1), "--model.in_channels", (m.in_channels, m.out_channels), "1, 1")
    _check_noise(config.diffusion)
    _check_low_res(config)
    shares = [getattr(config.diffusion, f"share_{k}") for k in ("independent", "mask_clean", "image_clean", "marginal")]
    require(min(shares) >= 0 and sum(shares) <= 1, "--diffusion.share_*", shares, "shares that add up to at most 1")


def _check_low_res(config: TrainConfig) -> None:
    """Raise `UserError` where high noise cannot be taken off smaller pictures, or the level is set and nothing else."""
    m = config.model
    require_positive(**{"model.low_res_factor": m.low_res_factor})
    if m.low_res_factor == 1:
        plain, expected = ModelConfig.low_res_sigma, "--model.low_res_factor above 1 beside it"
        require(m.low_res_sigma == plain, "--model.low_res_sigma", m.low_res_sigma, expected, "Leave it out.")
        return
    lowest, highest = lowest_sigma(config.diffusion), highest_sigma(config.diffusion)
    expected = f"a noise level between {lowest:.3g} and {highest:.3g}, so that both sizes are used"
    require(lowest < m.low_res_sigma < highest, "--model.low_res_sigma", m.low_res_sigma, expected)
    side, left = divmod(config.img_size, m.low_res_factor)
    multiple = size_multiple(config)
    expected = f"one that divides {config.img_size} pixels and leaves 2, 3, ... times {multiple} (patch and halvings)"
    fits = not left and side % multiple == 0 and side > multiple
    require(fits, "--model.low_res_factor", m.low_res_factor, expected, "1 keeps pictures at their size.")


def _check_noise(d: DiffusionConfig) -> None:
    require_positive(
        **{"diffusion.timesteps": d.timesteps, "diffusion.min_snr": d.min_snr, "diffusion.rho": d.rho},
        **{"diffusion.image_p_std": d.image_p_std, "diffusion.mask_p_std": d.mask_p_std},
    )
    require(
        0 <= d.sdf_truncation < math.inf,
        "--diffusion.sdf_truncation",
        d.sdf_truncation,
        "a number of pixels, 0 or more",
    )
    require(d.mask_weight >= 0, "--diffusion.mask_weight", d.mask_weight, "0 or more")
    betas, levels = (d.beta_start, d.beta_end), (d.sigma_min, d.sigma_max)
    require(0 < betas[0] <= betas[1] < 1, "--diffusion.beta_start, beta_end", betas, "0 < start <= end < 1")
    require(0 < levels[0] < levels[1], "--diffusion.sigma_min, sigma_max", levels, "0 < min < max")
    require(d.sigma_data == SIGMA_DATA, "--diffusion.sigma_data", d.sigma_data, f"{SIGMA_DATA}, as the codec makes it")
