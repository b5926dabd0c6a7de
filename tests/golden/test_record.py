"""The golden record: what the code makes of fixed inputs stays what it was when `record/record.json` was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import recorder

pytestmark = pytest.mark.slow

CLOSE = 3  # grey values


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    """The record as it was written, and as it is now."""
    return json.loads(recorder.RECORD_FILE.read_text()), json.loads(json.dumps(recorder.record()))


def test_everything_is_as_recorded(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Damage: another order of random numbers, a changed sampler, codec, loss, split, score or figure."""
    before, now = both
    if before["machine"] != recorder.machine():
        pytest.skip(f"recorded on {before['machine']}: last bits differ here")
    old, new = recorder.leaves(before), recorder.leaves(now)
    assert {key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)} == {}


def test_samples_of_the_reference_weights_look_as_recorded(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Damage: as above, seen on every machine: small copies of what the reference weights generate stay close."""
    before, now = (recorder.leaves(part["reference"]) for part in both)
    thumbs = [key for key in before if "/thumb/" in key]
    assert len(thumbs) > 1000
    far = [key for key in thumbs if abs(before[key] - now[key]) > CLOSE]
    assert len(far) <= 0.02 * len(thumbs)


def test_a_checkpoint_of_version_2_generates_what_it_did(tmp_path: Path) -> None:
    """Damage: names of settings or weights of older checkpoints that are no longer read, or read as something else."""
    before = json.loads(recorder.RECORD_FILE.read_text())
    if before["machine"] != recorder.machine():
        pytest.skip(f"recorded on {before['machine']}: last bits differ here")
    with recorder.one_thread():
        recorder.generate(recorder.CHECKPOINT, tmp_path / "synthetic")
    assert recorder.pairs(tmp_path / "synthetic")["pictures"] == before["phases"]["generate"]["pictures"]
