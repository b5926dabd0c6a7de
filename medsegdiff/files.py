"""Writing that leaves either the old state or the new one, never a half: temporary names and `os.replace`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.errors import UserError

DATASET_FILE = "dataset.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary name, flushed to disk before the rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a `UserError` that names it."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable JSON file", "Check the path.") from error
    except ValueError as error:
        raise UserError(path, f"text that is not JSON ({error})", "a JSON file", "Make it anew.") from error


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
    """Create `path` and its parents; what the file system refuses becomes a `UserError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            path, error.strerror or error, "a folder that can be written", "Choose another folder."
        ) from error
    return path


def require_folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder; else a `UserError` that says what was looked for there."""
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise UserError(path, found, f"a folder with {what}", "Check the path.")
    return path


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys whose values differ between two JSON-like mappings, each as `key: old -> new`."""
    keys = sorted(set(old) | set(new))
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]


def check_output_folder(output: Path, identity: dict[str, Any]) -> None:
    """Refuse an output folder that holds something else, or was made by other settings.

    `identity` is what decides the content (phase and settings). A folder made by the same identity may be made anew.
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
    changed = differing_keys(read_json(record).get("identity", {}), identity)
    if changed:
        raise UserError(
            output,
            f"a data set made with other settings ({'; '.join(changed)})",
            "the same settings",
            "Delete that folder or choose another.",
        )


def is_finished(output: Path, identity: dict[str, Any]) -> bool:
    """Whether `output` is a data set that the same settings made. Raises `UserError` as `check_output_folder` does."""
    check_output_folder(output, json.loads(json.dumps(identity)))
    return (output / DATASET_FILE).is_file()


@contextmanager
def staged_folder(output: Path, identity: dict[str, Any], keep_partial: bool = False) -> Iterator[Path]:
    """Yield `<output>.partial` to write into; on success it takes the place of `output` in one rename.

    With `keep_partial`, what an interrupted run left there with the same identity is kept, so that it can go on.
    Raises `UserError` where `output` holds something else or was made by other settings.
    """
    output = Path(os.path.abspath(output))
    check_output_folder(output, json.loads(json.dumps(identity)))
    staging = output.with_name(output.name + ".partial")
    begun = staging / "identity.json"
    same = begun.is_file() and not differing_keys(json.loads(begun.read_text()), json.loads(json.dumps(identity)))
    if staging.is_dir() and not begun.is_file() and any(p.suffix != ".tmp" for p in staging.iterdir()):
        raise UserError(staging, "other files", "no such folder: it is where the output grows", "Move it away.")
    if staging.exists() and not (keep_partial and same):
        shutil.rmtree(staging)
    make_folder(staging)
    write_json(begun, identity)
    yield staging
    if output.exists():
        shutil.rmtree(output)  # made by the same settings, or empty
    os.replace(staging, output)
    (output / begun.name).unlink()  # only now: until the rename it says whose half-made work this is
