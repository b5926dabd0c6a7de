"""Settings that several phases share, and which settings decide the content of an output."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal

from medsegdiff.errors import require

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


def fingerprint_of(config: Any, phase: str, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What decides the content of a phase's output, as JSON-like values; `leave_out` names fields that do not."""
    values = dataclasses.asdict(config)
    return {"phase": phase, **{k: v for k, v in values.items() if k not in leave_out}}


def expand_home(config: Any) -> None:
    """Put the home folder in the place of a leading ~ in every text of a frozen configuration.

    A shell does that itself, but not in YAML, nor behind an equals sign. Raises `UserError` where there is no home.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            object.__setattr__(config, field.name, [_expanded(item, field.name) for item in value])
        elif isinstance(value, str):
            object.__setattr__(config, field.name, _expanded(value, field.name))


def _expanded(text: str, name: str) -> str:
    path = os.path.expanduser(text)
    hint = "Write the path in full."
    require(not path.startswith("~"), f"--{name}", f"{text}, and no home folder", "a folder that is there", hint)
    return path
