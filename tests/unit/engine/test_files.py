"""Output folders: whole or not there, finished ones left alone, strangers' work refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from medsegdiff.engine import run_folder
from medsegdiff.engine.files import DATASET_FILE, sync_folder, write_bytes, write_json
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.errors import UserError

FINGERPRINT = {"phase": "test", "classes": ("a", "b"), "seed": 0}


def run(output: Path, fingerprint: dict[str, object] = FINGERPRINT) -> RunFolder:
    """The folder of a data set."""
    return RunFolder(output, DATA_SET, fingerprint)


def finish(output: Path, fingerprint: dict[str, object] = FINGERPRINT) -> None:
    """Write a data set of one file into `output`."""
    with run(output, fingerprint).staged() as folder:
        (folder / "x.txt").write_text("x")
        write_json(folder / DATASET_FILE, {"fingerprint": fingerprint})


def test_a_finished_folder_is_whole_and_known(tmp_path: Path) -> None:
    """Damage: leave fingerprint.json behind, or compare tuples with the lists that JSON makes of them."""
    output = tmp_path / "out"
    assert not run(output).is_finished()
    finish(output)
    assert run(output).is_finished()
    assert sorted(p.name for p in output.iterdir()) == [DATASET_FILE, "x.txt"]
    assert not (tmp_path / "out.partial").exists()


def test_an_interrupted_run_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    """Damage: rename in a `finally`; or throw away what `keep_partial` should keep."""
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), run(output).staged(keep_partial=True) as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert not output.exists()
    with run(output).staged(keep_partial=True) as folder:
        assert (folder / "half.txt").read_text() == "half"
    with run(tmp_path / "other").staged() as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["fingerprint.json"]


def test_work_of_other_settings_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    """Damage: keep the partial work of other settings, or throw it away without a word."""
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), run(output).staged(keep_partial=True) as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    reported = r"out\.partial: found work begun with other settings \(seed: 0 -> 1\)"
    with pytest.raises(UserError, match=reported):
        run(output, FINGERPRINT | {"seed": 1}).staged(keep_partial=True).__enter__()
    assert (folder / "half.txt").read_text() == "half"
    with run(output, FINGERPRINT | {"seed": 1}).staged() as folder:  # what is not meant to be gone on with starts anew
        assert not (folder / "half.txt").exists()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    """Damage: overwrite a data set that other settings made."""
    finish(tmp_path / "out")
    with pytest.raises(UserError, match=r"made with other settings \(seed: 0 -> 1\)"):
        run(tmp_path / "out", FINGERPRINT | {"seed": 1}).is_finished()


def test_what_another_phase_made_is_not_to_be_thrown_away(tmp_path: Path) -> None:
    """Damage: the advice for one's own folder of other settings, "delete that folder", for prepared real data too."""
    finish(tmp_path / "out", FINGERPRINT | {"phase": "prepare"})
    with pytest.raises(UserError, match=r"found a data set that prepare made; .*Choose another") as refused:
        run(tmp_path / "out").is_finished()
    assert "elete" not in str(refused.value)


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_peoples_files_are_refused(tmp_path: Path, name: str) -> None:
    """Damage: delete a folder that holds something else."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="found other files"):
        finish(tmp_path / "out")
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"


def test_a_kill_between_rename_and_clearing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: leaving fingerprint.json in the finished folder, or the lock file beside it."""
    output = tmp_path / "out"

    def rename_and_die(staging: Path, output: Path) -> None:
        os.rename(staging, output)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "_put_in_place", rename_and_die)
    with pytest.raises(KeyboardInterrupt):
        finish(output)
    (tmp_path / ".out.lock").write_text("1\n")
    assert (output / "fingerprint.json").is_file()
    assert run(output).is_finished()
    assert sorted(p.name for p in output.iterdir()) == [DATASET_FILE, "x.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_kill_while_the_partial_folder_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: deleting fingerprint.json among the first, after which nobody knows whose the rest is."""
    output, partial = tmp_path / "out", tmp_path / "out.partial"
    removed: list[Path] = []

    def remove_two_and_die(path: Path) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    for number in range(3):
        with pytest.raises(KeyboardInterrupt), run(output).staged(keep_partial=True) as folder:  # noqa: PT012
            for name in ("a", "b", "c"):
                (folder / name).write_text(name)
            raise KeyboardInterrupt
        removed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "remove", remove_two_and_die)
            with pytest.raises(KeyboardInterrupt):
                finish(output, FINGERPRINT | {"seed": number})
        assert len(list(partial.iterdir())) == 2
        assert (partial / "fingerprint.json").is_file()
    finish(output)
    assert sorted(p.name for p in output.iterdir()) == [DATASET_FILE, "x.txt"]


def test_half_written_files_do_not_get_into_the_output(tmp_path: Path) -> None:
    """Damage: keeping with the finished chunks what a kill left half-written among them."""
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), run(output).staged(keep_partial=True) as folder:  # noqa: PT012
        (folder / "images").mkdir()
        for name in ("whole.png", "images/whole.png", "half.png.tmp", "images/half.png.tmp"):
            (folder / name).write_text(name)
        raise KeyboardInterrupt
    with run(output).staged(keep_partial=True):
        pass
    assert sorted(str(p.relative_to(output)) for p in output.rglob("*.*")) == ["images/whole.png", "whole.png"]


def test_what_came_into_the_output_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    """Damage: deleting whatever stands where the data set goes."""
    output = tmp_path / "out"
    output.mkdir()
    reported = r"out: found Directory not empty; .*is whole, in .*out\.partial"
    with pytest.raises(UserError, match=reported), run(output).staged() as folder:  # noqa: PT012
        (folder / "x.txt").write_text("x")
        (output / "thesis.txt").write_text("years of work")
    assert (output / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "out.partial" / "x.txt").is_file()
    (output / "thesis.txt").unlink()
    finish(output)
    assert (output / "x.txt").is_file()


def test_an_unreadable_fingerprint_is_reported_in_one_line(tmp_path: Path) -> None:
    """Damage: a traceback for a file that a power cut left empty."""
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "fingerprint.json").write_text("")
    with pytest.raises(UserError, match=r"fingerprint\.json: found text that is not JSON"):
        run(tmp_path / "out").staged(keep_partial=True).__enter__()
    finish(tmp_path / "out")


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    """Damage: write in place, so that a reader can see a half."""
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    before = path.stat().st_ino
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("name", "number"), [("fsync", errno.EINVAL), ("open", errno.EACCES)])
def test_a_disk_that_cannot_flush_folders(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: requiring the flush of a folder, which some network disks and Windows refuse."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        sync_folder(tmp_path)
    finish(tmp_path / "out")


def test_a_disk_that_fails_to_flush_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: passing over a full or broken disk as well; a refusal that names no folder."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        sync_folder(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: finding out at the end that a finished folder cannot take the place of a mount point or a volume."""
    output, replace = tmp_path / "out", os.replace
    output.mkdir()

    def busy(source: Path, target: Path) -> None:
        if Path(target) == output:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    reported = r"out: found a folder that no other can take the place of \(Device or resource busy\), such as a mount"
    with pytest.raises(UserError, match=reported) as caught, run(output).staged():
        pytest.fail("began to work")
    assert str(caught.value).endswith(f"Give a folder in it, such as {output}/new.")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    finish(output / "new")
    assert run(output / "new").is_finished()
