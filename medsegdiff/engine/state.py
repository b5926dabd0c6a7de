"""States to resume from: step-named directories, written, flushed, renamed. The newest one counts.

Beside them lies the fingerprint of the run, from before its first step on.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from medsegdiff.engine.files import (
    FINGERPRINT_FILE,
    clear_leftovers,
    differing_keys,
    make_folder,
    read_json,
    sync_folder,
    write_json,
)
from medsegdiff.errors import UserError

STATE_FOLDER = "state"


def begin_run(output_dir: Path, fingerprint: dict[str, Any]) -> None:
    """Write down whose run `output_dir` holds, and clear what a killed one left half-written in its states.

    Raises `UserError` where a run with other settings was begun there.
    """
    folder, record = output_dir / STATE_FOLDER, _record(output_dir)
    for known in (record, *folder.glob(f"step_*[0-9]/{FINGERPRINT_FILE}")):  # older runs have the second alone
        if known.is_file():
            refuse_other_run(output_dir, read_json(known), fingerprint)
    clear_leftovers(folder, "*")
    if not record.is_file():
        make_folder(folder)
        write_json(record, fingerprint)
        sync_folder(folder)


def knows_run(output_dir: Path) -> bool:
    """Whether a run was begun in `output_dir`."""
    return _record(output_dir).is_file()


def begun_run(output_dir: Path) -> dict[str, Any]:
    """The fingerprint of the run that was begun in `output_dir`; {} where there is none."""
    found: dict[str, Any] = read_json(_record(output_dir)) if knows_run(output_dir) else {}
    return found


def _record(output_dir: Path) -> Path:
    """Where the fingerprint of a run stands."""
    return output_dir / STATE_FOLDER / FINGERPRINT_FILE


def refuse_other_run(output_dir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise `UserError`, naming the differences, where two fingerprints are not the same."""
    changed = differing_keys(old, new)
    if changed:
        raise UserError(
            output_dir,
            f"a run with other settings ({'; '.join(changed)})",
            "the settings of the run to resume",
            "Use the same command to go on, or another --output_dir to start anew.",
        )


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
