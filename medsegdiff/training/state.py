"""States to resume from: step-named directories, written, flushed, renamed, then pointed to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from medsegdiff.errors import UserError
from medsegdiff.files import differing_keys, make_folder, read_json, write_bytes, write_json

STATE_FOLDER = "state"
POINTER = "latest"


def save_state(output_dir: Path, step: int, identity: dict[str, Any], state: dict[str, Any]) -> Path:
    """Save `state` as `state/step_<step>`, then point `state/latest` to it and drop older ones."""
    folder = make_folder(output_dir / STATE_FOLDER)
    target = folder / f"step_{step:08d}"
    temporary = folder / f"step_{step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with (temporary / "state.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    write_json(temporary / "identity.json", identity)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    write_bytes(folder / POINTER, target.name.encode())
    for other in folder.glob("step_*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def latest_state(output_dir: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state that `state/latest` points to, or None. Raises `UserError` where other settings made it."""
    pointer = output_dir / STATE_FOLDER / POINTER
    if not pointer.is_file():
        return None
    folder = pointer.parent / pointer.read_text().strip()
    changed = differing_keys(read_json(folder / "identity.json"), json.loads(json.dumps(identity)))
    if changed:
        raise UserError(
            output_dir,
            f"a run with other settings ({'; '.join(changed)})",
            "the settings of the run to resume",
            "Use the same command to go on, or another --output_dir to start anew.",
        )
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state
