"""Output folders: whole or not there, finished ones left alone, strangers' work refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsegdiff.errors import UserError
from medsegdiff.files import DATASET_FILE, is_finished, staged_folder, write_bytes, write_json

IDENTITY = {"phase": "test", "classes": ("a", "b"), "seed": 0}


def finish(output: Path, identity: dict[str, object] = IDENTITY) -> None:
    """Write a data set of one file into `output`."""
    with staged_folder(output, identity) as folder:
        (folder / "x.txt").write_text("x")
        write_json(folder / DATASET_FILE, {"identity": identity})


def test_a_finished_folder_is_whole_and_known(tmp_path: Path) -> None:
    """Damage: leave identity.json behind, or compare tuples with the lists that JSON makes of them."""
    output = tmp_path / "out"
    assert not is_finished(output, IDENTITY)
    finish(output)
    assert is_finished(output, IDENTITY)
    assert sorted(p.name for p in output.iterdir()) == [DATASET_FILE, "x.txt"]
    assert not (tmp_path / "out.partial").exists()


def test_an_interrupted_run_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    """Damage: rename in a `finally`; or throw away what `keep_partial` should keep."""
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staged_folder(output, IDENTITY, keep_partial=True) as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert not output.exists()
    with staged_folder(output, IDENTITY, keep_partial=True) as folder:
        assert (folder / "half.txt").read_text() == "half"
    with staged_folder(tmp_path / "other", IDENTITY) as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["identity.json"]


def test_other_settings_start_anew_in_the_partial_folder(tmp_path: Path) -> None:
    """Damage: keep the partial work of other settings."""
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staged_folder(output, IDENTITY, keep_partial=True) as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    with staged_folder(output, IDENTITY | {"seed": 1}, keep_partial=True) as folder:
        assert not (folder / "half.txt").exists()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    """Damage: overwrite a data set that other settings made."""
    finish(tmp_path / "out")
    with pytest.raises(UserError, match=r"made with other settings \(seed: 0 -> 1\)"):
        is_finished(tmp_path / "out", IDENTITY | {"seed": 1})


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_peoples_files_are_refused(tmp_path: Path, name: str) -> None:
    """Damage: delete a folder that holds something else."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="found other files"):
        finish(tmp_path / "out")
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    """Damage: write in place, so that a reader can see a half."""
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    before = path.stat().st_ino
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
