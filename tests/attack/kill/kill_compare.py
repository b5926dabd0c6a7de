"""Whether two output folders hold the same, apart from seconds of computing and how TensorBoard cuts its files."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

ELAPSED = ("seconds", "images_per_second")
SCALARS = "tensorboard"  # a folder of files that are named after time and process, one for each part of a run


def contents(parent: Path) -> dict[str, str]:
    """Path and digest of every file and folder below `parent`, hidden ones and those beside the output too."""
    found = {}
    for path in sorted(parent.rglob("*")):
        name = str(path.relative_to(parent))
        if path.name == SCALARS:
            found[name] = _scalars(path)
        elif SCALARS not in path.parts:
            found[name] = "folder" if path.is_dir() else _digest(path)
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What is in one alone, or not the same in both."""
    words = [(set(one) - set(other), "missing"), (set(other) - set(one), "extra")]
    words += [({name for name in set(one) & set(other) if one[name] != other[name]}, "different")]
    return [f"{word}: {name}" for names, word in words for name in sorted(names)]


def stamps(parent: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, to see that nothing was touched."""
    files = (p for p in sorted(parent.rglob("*")) if p.is_file())
    return {str(p.relative_to(parent)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def _digest(path: Path) -> str:
    data = path.read_bytes()
    try:
        if path.name in ("summary.json", "scores.json"):
            values = {k: v for k, v in json.loads(data).items() if k not in ELAPSED}
            return _hash(json.dumps(values).encode())
        if path.suffix == ".safetensors":
            # Its header is JSON whose metadata come in any order
            length = struct.unpack("<Q", data[:8])[0]
            header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True)
            return _hash(header.encode() + data[8 + length :])
        if path.name == "state.pt":
            return _state_digest(path)
    except Exception as error:  # a damaged file differs from a sound one, and is reported as such
        return f"unreadable: {error}"
    return _hash(data)


def _scalars(folder: Path) -> str:
    """What TensorBoard would sample, apart from speed: steps and values of every curve."""
    from tensorboard.backend.event_processing import event_accumulator as events

    reader = events.EventAccumulator(str(folder), size_guidance={events.SCALARS: 0}).Reload()
    tags = [tag for tag in sorted(reader.Tags()[events.SCALARS]) if not tag.endswith(ELAPSED)]
    return _hash(json.dumps({tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags}).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _state_digest(path: Path) -> str:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    state["progress"] = {k: v for k, v in state["progress"].items() if k not in ELAPSED}
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key, part in value.items():
                digest.update(repr(key).encode())
                add(part)
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)}".encode())
            for part in value:
                add(part)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()[:16]
