"""Settings that several phases share, and which settings decide the content of an output."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

Device = Literal["auto", "cpu", "cuda"]


Precision = Literal["auto", "bf16", "fp16", "fp32"]


def fingerprint_of(config: Any, phase: str, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What decides the content of a phase's output, as JSON-like values; `leave_out` names fields that do not."""
    values = dataclasses.asdict(config)
    return {"phase": phase, **{k: v for k, v in values.items() if k not in leave_out}}
