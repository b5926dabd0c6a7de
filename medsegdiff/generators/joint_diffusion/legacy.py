"""Older cards of checkpoints, fingerprints of trainings and names of weights, as they are called and kept today."""

from __future__ import annotations

from typing import Any, TypeVar

from medsegdiff.data.transforms import MOVE_UNITS

T = TypeVar("T")

PREFIXES = {  # of weights
    "backbone.seam.": "backbone.refiner.",
    "backbone.label.": "backbone.conditions.label.table.",
    "backbone.moves.": "backbone.conditions.augmentation.linear.",
}
LABEL_DROPOUT = 0.1  # what cards that do not say conditions were trained with, unless set otherwise
DEAD = {  # settings that had one legal value, or were set from elsewhere
    "model": ("in_channels", "out_channels", "num_classes", "augment_conditioning"),
    "diffusion": ("sigma_data",),
}
LATER = {"layout_code": False}  # settings of patch_unet that came later, with what networks without them had
STREAMS = ("mask_share", "use_anchor", "use_spectrum", "use_band_pass")  # settings of medsegdiff_v2 that all had


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """A card, or the fingerprint of a training, with the settings of today."""
    model = values.get("model")
    if not isinstance(model, dict):
        return values
    dead = DEAD if values.get("backbone") == "medsegdiff_v2" else DEAD | {"model": (*DEAD["model"], *STREAMS)}
    kept = {part: {k: v for k, v in values[part].items() if k not in dead[part]} for part in DEAD if part in values}
    if values.get("backbone", "patch_unet") == "patch_unet":
        kept["model"] = LATER | kept["model"]
    return {**values, **kept}


def with_conditions(card: dict[str, Any]) -> dict[str, Any]:
    """A card that says its conditions: one that does not is of a network that knows the class and, where its settings
    say so, how pictures were augmented."""
    if "conditions" in card:
        return card
    conditions: list[dict[str, Any]] = [{"name": "label", "drop_rate": LABEL_DROPOUT, "classes": card["classes"]}]
    if card["model"].get("augment_conditioning"):
        conditions.append({"name": "augmentation", "units": list(MOVE_UNITS)})
    return card | {"conditions": conditions}


def renamed_weights(weights: dict[str, T]) -> dict[str, T]:
    """Weights under the names of today's modules."""
    return {_today(name): value for name, value in weights.items()}


def _today(name: str) -> str:
    old = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return PREFIXES.get(old, "") + name.removeprefix(old)
