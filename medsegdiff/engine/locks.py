"""One run in a folder at a time: a lock that the kernel frees when its process dies, SIGKILL included."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at a lock that is waited for


def lock_file(folder: Path, beside: bool) -> Path:
    """Where the lock of `folder` lies: in it, or beside it under a hidden name, for folders that get renamed."""
    return folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"


@contextmanager
def locked(folder: Path, beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the lock file is gone at the end.

    One that a killed run left is nobody's, since the lock itself died with the process: it is taken over. Where another
    run holds the folder, `wait` says so once and waits for its end; else that is a `UserError`.
    """
    path = lock_file(folder, beside)
    lock = FileLock(path, timeout=0)
    _acquire(lock, folder, _holder(path), wait)  # holder first: some versions of filelock empty the file in trying
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        # While it is still held: whoever opened the old file sees that its name is gone, and does not count it.
        path.unlink(missing_ok=True)
        lock.release()


def clear_stale_lock(folder: Path, beside: bool = False) -> None:
    """Remove the lock file that a killed run left; one that is held stays, as does one that may not be removed."""
    if lock_file(folder, beside).exists():
        with contextlib.suppress(UserError, OSError), locked(folder, beside):
            pass


def _acquire(lock: FileLock, folder: Path, holder: str, wait: bool) -> None:
    """Take the lock, at once or after `wait`ing; `holder` is how its process is reported."""
    try:
        lock.acquire()
    except Timeout as error:
        if wait:
            logger.info("%s: waiting until another run that is writing here%s has ended", folder, holder)
            lock.acquire(timeout=-1, poll_interval=POLL)
            return
        found = f"another run that is writing here{holder}"
        hint = "Wait until it has ended, or choose another output folder."
        raise UserError(folder, found, "a folder of its own for every run", hint) from error


def _holder(path: Path) -> str:
    """` (process 123)`, as the lock file says, or nothing."""
    try:
        return f" (process {int(path.read_text())})"
    except (OSError, ValueError):
        return ""
