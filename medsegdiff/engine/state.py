"""States to resume from: step-named directories, written, flushed, renamed. The newest one counts.

Beside them lies the fingerprint of the run, from before its first step on (`run_folder`).
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from medsegdiff.engine.files import FINGERPRINT_FILE, STATE_FOLDER, make_folder, sync_folder, write_json
from medsegdiff.errors import UserError


def save_state(output_dir: Path, step: int, fingerprint: dict[str, Any], state: dict[str, Any]) -> Path:
    """Save `state` as `state/step_<step>`, and drop older ones.

    Flushed in this order: what the run wrote so far, the state, its name. So no state is newer than the weights and
    records that it takes for written.
    """
    folder = make_folder(output_dir / STATE_FOLDER)
    target = folder / f"step_{step:08d}"
    temporary = folder / f"step_{step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with (temporary / "state.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    write_json(temporary / FINGERPRINT_FILE, fingerprint)
    for written in (temporary, output_dir):
        sync_folder(written)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    sync_folder(folder)
    _drop_others(target)
    return target


def latest_state(output_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest state and its folder, or None; older ones, which a killed run did not get to drop, are dropped.

    Raises `UserError` where it cannot be read.
    """
    folders = sorted((output_dir / STATE_FOLDER).glob("step_*[0-9]"))
    if not folders:
        return None
    newest = folders[-1]
    try:
        state: dict[str, Any] = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise damaged_state(newest, error) from error
    _drop_others(newest)
    return newest, state


def damaged_state(folder: Path, error: Exception) -> UserError:
    """The one line for a state that cannot be read or does not fit, whatever torch says about it.

    Raises `error` itself where memory ran out: nothing is wrong with the state then.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError) or "allocat" in str(error):
        raise error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        folder,
        f"a damaged state ({reason})",
        "a state to resume from",
        "Delete that folder: the same command then starts anew.",
    )


def _drop_others(kept: Path) -> None:
    for other in kept.parent.glob("step_*"):
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)
