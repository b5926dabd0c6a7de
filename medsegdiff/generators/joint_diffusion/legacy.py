"""Names of weights in older checkpoints, as today's modules are called."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

PREFIXES = {"backbone.seam.": "backbone.refiner."}  # of weights


def renamed_weights(weights: dict[str, T]) -> dict[str, T]:
    """Weights under the names of today's modules."""
    return {_today(name): value for name, value in weights.items()}


def _today(name: str) -> str:
    old = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return PREFIXES.get(old, "") + name.removeprefix(old)
