"""Writing that leaves either the old state or the new one, never a half: temporary names and `os.replace`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.engine.locks import clear_stale_lock, locked
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.legacy import renamed

# What the phases write last of all, as the sign that they are finished: by it a folder says what it holds.
DATASET_FILE, SUMMARY_FILE, SCORES_FILE = "dataset.json", "summary.json", "scores.json"
REPORT_FILE = "report.json"
HOLDS = {
    DATASET_FILE: "a data set",
    SUMMARY_FILE: "a generative training",
    SCORES_FILE: "a segmentation run",
    REPORT_FILE: "an evaluation",
}
FINGERPRINT_FILE = "fingerprint.json"  # in a folder that is being made: what decides its content


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary name, flushed to disk before the rename.

    Raises `OSError`, with the name of the file, where the system does not take it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()  # half a file on a full disk takes room, and is of no use
        error.filename, error.filename2 = str(path), None  # a write that fails does not say which file it was
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable JSON file", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"text that is not JSON ({error})", "a JSON file", "Make it anew.") from error


def read_record(path: Path) -> Any:
    """Read what a phase wrote of its output, such as dataset.json: keys and settings under their names of today."""
    return renamed(read_json(path))


def encode_png(picture: np.ndarray) -> bytes:
    """PNG bytes of an 8-bit picture, (H, W) grey or (H, W, 3) RGB."""
    ready = picture if picture.ndim == 2 else picture[..., ::-1]
    done, buffer = cv2.imencode(".png", ready, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} and type {picture.dtype} cannot be PNG")
    return buffer.tobytes()


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write an 8-bit picture as PNG, atomically."""
    write_bytes(path, encode_png(picture))


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; `UserError` where a file stands there, `OSError` where the system refuses."""
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(path, kind_of(path), "a folder to write", "Choose another output folder.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def kind_of(path: Path) -> str:
    """What stands at a path where no folder is, for messages."""
    if path.exists():
        return "a file"
    return "a broken link" if path.is_symlink() else "nothing"


def require_folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder; else a `UserError` that says what was looked for there."""
    if not path.is_dir():
        raise UserError(path, kind_of(path), f"a folder with {what}", "Check the path.")
    return path


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys whose values differ, each as `key: old -> new`; `old` is from JSON, `new` may hold tuples.

    Within mappings on both sides the keys that differ are named, as `outer.inner`.
    """
    new = json.loads(json.dumps(new))
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += [f"{key}.{line}" for line in differing_keys(before, after)]
        elif before != after or (key in old) != (key in new):
            reported = [repr(values[key]) if key in values else "nothing" for values in (old, new)]
            lines.append(f"{key}: {reported[0]} -> {reported[1]}")
    return lines


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk, so that what was renamed or made in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(folder: Path, *names: str) -> None:
    """Remove the half-written files and folders of a killed run: `names` (or patterns) with ".tmp" behind."""
    for name in names:
        for path in folder.glob(name + ".tmp"):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def check_output_folder(output: Path, fingerprint: dict[str, Any]) -> None:
    """Refuse an output folder that holds something else, or was made by other settings.

    `fingerprint` is what decides the content (phase and settings).
    """
    if output.is_file():
        raise UserError(output, "a file", "a folder to write", "Choose another output folder.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    record = output / DATASET_FILE
    if not record.is_file():
        raise UserError(
            output, "other files", "an empty folder or one made by this command", "Choose another output folder."
        )
    info = read_record(record)
    made_by = info.get("fingerprint", {}) if isinstance(info, dict) else {}
    phase = made_by.get("phase", fingerprint.get("phase"))
    if phase != fingerprint.get("phase"):  # nothing that this command should have anybody delete
        raise UserError(
            output, f"a data set that {phase} made", "a folder of this command's own", "Choose another output folder."
        )
    changed = differing_keys(made_by, fingerprint)
    if changed:
        raise UserError(
            output,
            f"a data set made with other settings ({'; '.join(changed)})",
            "the same settings",
            "Delete that folder or choose another.",
        )


def refuse_other_phase(output: Path, own: str, expected: str) -> None:
    """Refuse an output folder that another phase has finished; `own` is the file that this one ends with."""
    for name, what in HOLDS.items():
        if name != own and (output / name).exists():
            raise UserError(output, what, expected, "Choose another --output_dir.")


def is_finished(output: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether `output` is a data set that the same settings made. Raises `UserError` as `check_output_folder` does.

    Clears what is left of a run that was killed after its data set had got its name.
    """
    output = Path(os.path.realpath(output))
    check_output_folder(output, fingerprint)
    if not (output / DATASET_FILE).is_file():
        return False
    (output / FINGERPRINT_FILE).unlink(missing_ok=True)
    clear_stale_lock(output, beside=True)
    return True


@contextmanager
def staged_folder(output: Path, fingerprint: dict[str, Any], keep_partial: bool = False) -> Iterator[Path]:
    """Yield `<output>.partial` to write into; on success it takes the place of `output` in one rename.

    With `keep_partial`, what an interrupted run left there with the same fingerprint is kept, so that it can go on.
    Raises `UserError` where `output` is more than an empty folder, and where another run is at it.
    """
    output = Path(os.path.realpath(output))
    make_folder(output.parent)
    with locked(output, beside=True):
        check_output_folder(output, fingerprint)
        if (output / DATASET_FILE).is_file():  # another run was quicker, between `is_finished` and the lock
            hint = "Start the same command again: it takes what is there."
            raise UserError(output, "a finished data set", "an empty folder or none", hint)
        staging = output.with_name(output.name + ".partial")
        _open_staging(staging, fingerprint, keep_partial)
        yield staging
        _put_in_place(staging, output)


def _open_staging(staging: Path, fingerprint: dict[str, Any], keep: bool) -> None:
    """Make `staging` ready. Whatever a kill leaves of it, it says whose it is, or is empty."""
    begun = staging / FINGERPRINT_FILE
    if staging.is_dir() and not begun.is_file() and any(p.suffix != ".tmp" for p in staging.iterdir()):
        raise UserError(staging, "other files", "no such folder: it is where the output grows", "Move it away.")
    if keep and begun.is_file():
        changed = differing_keys(read_json(begun), fingerprint)
        if not changed:
            clear_leftovers(staging, "**/*")
            return
        if any(path.is_file() for path in staging.rglob("*") if path != begun):  # hours of work, perhaps
            hint = "Use the same command to go on with it, or delete that folder to start anew."
            raise UserError(
                staging, f"work begun with other settings ({'; '.join(changed)})", "the same settings", hint
            )
    for path in make_folder(staging).iterdir():
        if path != begun:  # that one last, by the rename below: without it nobody knows whose the rest is
            remove(path)
    write_json(begun, fingerprint)


def _put_in_place(staging: Path, output: Path) -> None:
    for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        sync_folder(folder)
    try:
        os.replace(staging, output)  # takes the place of an empty folder as well, in one step
    except OSError as error:
        found = error.strerror or error
        hint = f"What was to go there is whole, in {staging}. Move the other files away, and start the command again."
        raise UserError(output, found, "an empty folder or none, as at the start", hint) from error
    (output / FINGERPRINT_FILE).unlink(
        missing_ok=True
    )  # only now: until the rename it says whose half-made work this is
    sync_folder(output.parent)
