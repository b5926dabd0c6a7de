"""Names that older files use, as the code calls these things now: checkpoints of version 2, dataset.json until then."""

from __future__ import annotations

from typing import Any, TypeVar

from medsegdiff.data.transforms import MOVE_UNITS

T = TypeVar("T")

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
NESTED = {
    "fingerprint",
    "config",
    "real",
    "synthetic",
    "model",
    "diffusion",
    "codec",
    "scores",
}  # where names stand too
PREFIXES = {  # of weights
    "backbone.seam.": "backbone.refiner.",
    "backbone.label.": "backbone.conditions.label.table.",
    "backbone.moves.": "backbone.conditions.augmentation.linear.",
}
LABEL_DROPOUT = 0.1  # what cards that do not say conditions were trained with, unless set otherwise


def renamed(values: Any) -> Any:
    """`values`, as read from JSON, with every old name of a setting or key under its name of today."""
    if not isinstance(values, dict):
        return values
    today = {NAMES.get(key, key): value for key, value in values.items()}
    return {key: renamed(value) if key in NESTED else value for key, value in today.items()}


def with_conditions(card: dict[str, Any]) -> dict[str, Any]:
    """A card that says its conditions: one that does not is of a network that knows the class and, where its settings
    say so, how pictures were augmented."""
    model = dict(card["model"])
    if "conditions" in card:
        return card
    model.pop("num_classes", None)
    augmented = model.pop("augment_conditioning", False)
    conditions: list[dict[str, Any]] = [{"name": "label", "drop_rate": LABEL_DROPOUT, "classes": card["classes"]}]
    if augmented:
        conditions.append({"name": "augmentation", "units": list(MOVE_UNITS)})
    return card | {"model": model, "conditions": conditions}


def renamed_weights(weights: dict[str, T]) -> dict[str, T]:
    """Weights under the names of today's modules."""
    return {_today(name): value for name, value in weights.items()}


def _today(name: str) -> str:
    old = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return PREFIXES.get(old, "") + name.removeprefix(old)
