"""Names that a user may have meant, and those of timm."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import timm

from medsegdiff.errors import UserError

IMAGENET = "imagenet"  # the value of --encoder_weights that downloads what timm has


def near_names(name: str, names: Iterable[str]) -> str:
    """Up to five of `names` that look like `name`, the likeliest first, with commas between; "" where none does."""
    return ", ".join(difflib.get_close_matches(name, list(names), n=5, cutoff=0.5))


def check_timm_name(name: str, weights: str | None, where: str, examples: str, prefix: str = "") -> None:
    """Raise `UserError`, before anything is built or downloaded, for a network or weights that timm does not have.

    `name` may have the tag of weights after a point ("resnet18.a1_in1k"). `weights`: None, or "imagenet" to download
    them. `where` is the setting that holds the name, `prefix` what stands before the name there; `examples` are offered
    where no name is near.
    """
    if not timm.is_model(name):
        near = near_names(prefix + name, [prefix + known for known in timm.list_models()]) or examples
        expected = f"{prefix} and a model of timm" if prefix else "a model of timm"
        raise UserError(where, repr(prefix + name), expected, f"Near: {near}.")
    bare = name.split(".")[0]
    tags = timm.list_models(f"{bare}.*", pretrained=True)
    if name not in (bare, *tags):  # `is_model` does not look behind the point
        expected = f"one of {', '.join(prefix + tag for tag in tags) or prefix + bare}"
        raise UserError(where, repr(prefix + name), expected, "What follows the point names weights.")
    if weights not in (None, IMAGENET):
        raise UserError("--encoder_weights", repr(weights), f"{IMAGENET} or a file", "Or leave it out: from scratch.")
    if weights == IMAGENET and not timm.is_model_pretrained(name):
        near = near_names(name, timm.list_models(pretrained=True)) or "none"
        expected = "a file with weights, or --encoder_weights left out"
        raise UserError(f"--encoder_weights {IMAGENET}", f"no weights for {name}", expected, f"Near: {near}.")
