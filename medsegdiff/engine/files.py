"""Writing that leaves either the old state or the new one, never a half: temporary names and `os.replace`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.engine.legacy import renamed
from medsegdiff.errors import STORAGE, UserError

# What the phases write last of all, as the sign that they are finished (`run_folder.Kind`)
DATASET_FILE, SUMMARY_FILE, SCORES_FILE = "dataset.json", "summary.json", "scores.json"
REPORT_FILE = "report.json"
STATE_FOLDER = "state"  # of a run that grows in place: saved states and its fingerprint
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# Keys whose values are digests, which nobody can read, and what differs where they do
CONTENT = {
    "input_hash": "other pictures or masks than before",
    "data": "another data set than before",
    "inputs": "other pictures than before",
    "requests": "other rows in --requests than before",
    "real_hash": "another real data set than before",
    "synthetic_hash": "another synthetic data set than before",
    "checkpoint_sha256": "another checkpoint than before",
    "guidance_sha256": "another --guidance_checkpoint than before",
}


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys whose values differ, each as `key: old -> new`, digests as words; `old` is from JSON, `new` may hold
    tuples.

    Within mappings on both sides the keys that differ are named, as `outer.inner`.
    """
    new = json.loads(json.dumps(new))
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += [f"{key}.{line}" for line in differing_keys(before, after)]
        elif before != after or (key in old) != (key in new):
            if key in CONTENT and key in old and key in new:
                lines.append(CONTENT[key])
                continue
            sides = [repr(values[key]) if key in values else "nothing" for values in (old, new)]
            lines.append(f"{key}: {sides[0]} -> {sides[1]}")
    return lines


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk, so that what was renamed or made in it outlasts a power cut.

    Where the system has no way to do that (some network disks, Windows), nothing is flushed; a disk that fails is an
    `OSError` with the name of the folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in STORAGE:
            error.filename = str(folder)
            raise


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
