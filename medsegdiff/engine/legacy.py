"""Names that older files use, as the code calls these things now: checkpoints of version 2, dataset.json until then."""

from __future__ import annotations

from typing import Any

NAMES = {  # settings, in cards of checkpoints and where a folder says what made it; keys of dataset.json
    "tell_moves": "augment_conditioning",
    "told_share": "augment_prob",
    "noise_told": "sigma_scale",
    "small_share": "progressive_resizing",
    "coarse_factor": "low_res_factor",
    "coarse_sigma": "low_res_sigma",
    "mask_radius": "sdf_truncation",
    "flip_test": "tta_flip",
    "draws": "num_samples_per_input",
    "judge_steps": "reference_model_steps",
    "guide_sha256": "guidance_sha256",
    "quality/feature_distance_floor": "quality/feature_distance_baseline",
    "identity": "fingerprint",
    "given": "inputs",
    "given_masks": "conditioning_masks",
}
# Where such names stand too
NESTED = {"fingerprint", "config", "real", "synthetic", "model", "diffusion", "codec", "scores"}


def renamed(values: Any) -> Any:
    """`values`, as read from JSON, with every old name of a setting or key under its name of today."""
    if not isinstance(values, dict):
        return values
    today = {NAMES.get(key, key): value for key, value in values.items()}
    return {key: renamed(value) if key in NESTED else value for key, value in today.items()}
