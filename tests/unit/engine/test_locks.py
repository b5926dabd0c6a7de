"""One run in a folder: a second process is refused, a killed one holds nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medsegdiff.engine import locks
from medsegdiff.engine.files import DATASET_FILE, write_json
from medsegdiff.engine.locks import clear_stale_lock, locked
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.errors import UserError

NO_FLOCK = """
import fcntl, os
def flock(*_):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = flock
"""
HOLD = """
import sys, time
from pathlib import Path
from medsegdiff.engine.locks import locked
with locked(Path(sys.argv[1]), beside=sys.argv[2] == "beside"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path, where: str, before: str = "") -> subprocess.Popen[str]:
    """Another process that holds `folder`, until it is killed; first of all it runs the lines `before`."""
    command = [sys.executable, "-c", before + HOLD, str(folder), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_a_second_process_is_refused_until_the_first_is_killed(where: str, tmp_path: Path) -> None:
    """Damage: a lock that is the mere presence of a file, which a killed run leaves behind for ever; no lock at all."""
    folder, beside = tmp_path / "out", where == "beside"
    folder.mkdir()
    process = hold(folder, where)
    reported = rf"out: found another run that is writing here \(process {process.pid}\); expected a folder of its own"
    try:
        for _ in range(2):  # being refused does not wear the lock down
            with pytest.raises(UserError, match=reported):
                locked(folder, beside).__enter__()
        clear_stale_lock(folder, beside)
        assert len([*tmp_path.glob(".*.lock"), *folder.glob(".lock")]) == 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len([*tmp_path.glob(".*.lock"), *folder.glob(".lock")]) == 1
    with locked(folder, beside):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_flock(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: writing over the process and machine by which a killed holder is seen to be dead; no lock at all."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    process = hold(tmp_path, "inside", NO_FLOCK.format(number=number))
    monkeypatch.setattr("fcntl.flock", refuse)
    try:
        for _ in range(2):
            with pytest.raises(UserError, match=rf"another run that is writing here \(process {process.pid}\)"):
                locked(tmp_path).__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".lock").exists()
    for _ in range(2):
        with locked(tmp_path), pytest.raises(UserError, match=rf"writing here \(process {os.getpid()}\)"):
            locked(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_with_an_error_too(tmp_path: Path) -> None:
    """Damage: releasing only after success, so that a failed run shuts its folder to the next one in this process."""
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path):  # noqa: PT012
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_another_run_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage: waiting without a word, with one at every look, or not at all; a lock that is held by two afterwards."""
    monkeypatch.setattr(locks, "POLL", 0.02)
    caplog.set_level("INFO", "medsegdiff")
    process = hold(tmp_path, "inside")
    threading.Timer(0.5, process.kill).start()
    started = time.monotonic()
    with locked(tmp_path, wait=True):
        assert time.monotonic() - started > 0.4
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(UserError, match="another run that is writing here"):
            locked(tmp_path).__enter__()
    process.wait()
    reported = f"{tmp_path}: waiting until another run that is writing here (process {process.pid}) has ended"
    assert caplog.messages == [reported]
    assert list(tmp_path.iterdir()) == []


def test_two_runs_into_one_data_set(tmp_path: Path) -> None:
    """Damage: locking the folder that grows, or after it was cleared: the second run throws away the first one's."""
    fingerprint = {"phase": "test"}
    output = tmp_path / "out"
    run = RunFolder(output, DATA_SET, fingerprint)
    with run.staged(keep_partial=True) as folder:
        (folder / "half.txt").write_text("half")
        code = f"""
from pathlib import Path
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
with RunFolder({str(output)!r}, DATA_SET, {fingerprint!r}).staged():
    pass
"""
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"another run that is writing here (process {os.getpid()})" in second.stderr
        assert (folder / "half.txt").read_text() == "half"
        write_json(folder / DATASET_FILE, {"fingerprint": fingerprint})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    with pytest.raises(UserError, match=r"found a finished data set.*the same command again"):
        run.staged().__enter__()
    assert run.is_finished()
