"""One run in a folder at a time: a lock that is nobody's once its process has died, SIGKILL included."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at a lock that is waited for
NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}  # file systems without flock


def lock_file(folder: Path, beside: bool) -> Path:
    """Where the lock of `folder` lies: in it, or beside it under a hidden name, for folders that get renamed."""
    return folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"


@contextmanager
def locked(folder: Path, beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the lock file is gone at the end.

    One that a killed run left is nobody's: the kernel has freed it or, on a file system without flock, the process that
    it names is dead. Where another run holds the folder, `wait` says so once and waits for its end; else that is a
    `UserError`.
    """
    path = lock_file(folder, beside)
    lock = _acquire(folder, path, wait)
    try:
        if not isinstance(lock, SoftFileLock):  # whose file says process and machine already: by these it is seen dead
            path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        if not isinstance(lock, SoftFileLock):
            # While it is still held: whoever opened the old file sees that its name is gone, and does not count it.
            path.unlink(missing_ok=True)
        lock.release()


def clear_stale_lock(folder: Path, beside: bool = False) -> None:
    """Remove the lock file that a killed run left; one that is held stays, as does one that may not be removed."""
    if lock_file(folder, beside).exists():
        with contextlib.suppress(UserError, OSError), locked(folder, beside):
            pass


def _acquire(folder: Path, path: Path, wait: bool) -> BaseFileLock:
    """The lock, taken at once or after `wait`ing."""
    holder = _holder(path)  # first: some versions of filelock empty the file in trying
    lock: BaseFileLock = FileLock(path, timeout=0)
    try:
        lock = _try(lock)
    except Timeout as error:
        if wait:
            logger.info("%s: waiting until another run that is writing here%s has ended", folder, holder)
            lock.acquire(timeout=-1, poll_interval=POLL)
            return lock
        found = f"another run that is writing here{holder}"
        hint = "Wait until it has ended, or choose another output folder."
        raise UserError(folder, found, "a folder of its own for every run", hint) from error
    return lock


def _try(lock: BaseFileLock) -> BaseFileLock:
    """`lock`, taken; on a file system without flock a soft one. Raises `Timeout` where another process has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock falls back by itself for one of these, with a warning
        try:
            lock.acquire()
        except Timeout:
            if not isinstance(lock, SoftFileLock):
                raise
            lock.acquire()  # the first attempt may have taken away what a dead process left
        except OSError as error:
            if error.errno not in NO_FLOCK or isinstance(lock, SoftFileLock):
                raise
            path = Path(lock.lock_file)
            if path.exists() and not path.stat().st_size:  # that attempt's own; a soft lock that is held has content
                path.unlink()
            return _try(SoftFileLock(lock.lock_file, timeout=0))
    return lock


def _holder(path: Path) -> str:
    """` (process 123)`, as the lock file says, or nothing."""
    try:
        return f" (process {int(path.read_text().split()[0])})"
    except (OSError, ValueError, IndexError):
        return ""
