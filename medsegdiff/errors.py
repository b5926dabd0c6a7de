"""The one kind of error that a user can mend, and the one place where its wording is put together."""

from __future__ import annotations

import errno
import os

GO_ON = "the same command goes on from the last saved state."
ROOM = ("room to write", f"Free some space; {GO_ON}")
ANOTHER = "Check the path, or choose another one."
# What the operating system refuses: what it would have needed, and what to do.
ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ("a disk and limits (ulimit -f) that take files of this size", f"Raise the limit; {GO_ON}"),
    errno.EACCES: ("permission to use it", "Change its permissions, or choose another path."),
    errno.EPERM: ("permission to use it", "Change its permissions, or choose another path."),
    errno.EROFS: ("a disk that can be written", "Choose a folder on another disk."),
    errno.EMFILE: ("fewer open files at once", "Raise the limit (ulimit -n)."),
    errno.ENFILE: ("fewer open files at once", "Close other programs."),
    errno.ENOENT: ("a file or folder of that name", "Check the path."),
    errno.ENOTDIR: ("folders all along the path", ANOTHER),
    errno.EEXIST: ("a folder", ANOTHER),
    errno.EISDIR: ("a file", ANOTHER),
    errno.ENAMETOOLONG: ("a shorter name", ANOTHER),
    errno.EIO: ("a disk that works", f"Check the disk; {GO_ON}"),
}
OTHERWISE = ("a system that allows it", f"Mend the cause; {GO_ON}")
STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class UserError(Exception):
    """Bad input, reported in one line: where it is, what was found, what was expected, what to do.

    Command lines print it without a traceback and exit with status 2 (`medsegdiff.cli`). Characters that would break
    the line, or that a terminal would obey, are reported as escapes: file names may hold them.
    """

    def __init__(self, where: object, found: object, expected: object, hint: str) -> None:
        self.where, self.rest = str(where), (found, expected, hint)
        text = f"{where}: found {found}; expected {expected}. {hint}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))

    def at(self, where: object) -> UserError:
        """The same error in another place."""
        return UserError(where, *self.rest)


def from_os_error(error: Exception) -> UserError | None:
    """What the operating system refused, as a `UserError`; None where `error` is something else, such as a bug.

    A file that torch fails to write ends in a RuntimeError, raised while the refusal was being handled.
    """
    # torch has a class of its own on a GPU, and a RuntimeError on a CPU
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if short or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        hint = "Lower --batch_size, --chunk_size or --img_size, or close other programs."
        found = (str(error).splitlines() or ["too little of it"])[0]
        return UserError("memory", found, "room for the data and the network", hint)
    refusal = error.__context__ if isinstance(error, RuntimeError) else error
    if not isinstance(refusal, OSError) or refusal.errno is None:
        return None
    if refusal is not error and refusal.errno not in STORAGE:
        return None
    name = refusal.filename2 or refusal.filename  # the second one is where something was to go
    where = os.fsdecode(name) if isinstance(name, bytes) else name
    expected, hint = ADVICE.get(refusal.errno, OTHERWISE)
    return UserError(where or "the output", refusal.strerror or refusal, expected, hint)


def require(condition: bool, where: str, found: object, expected: str, hint: str = "Change the setting.") -> None:
    """Raise `UserError` for the setting `where`, unless `condition` holds."""
    if not condition:
        raise UserError(where, found, expected, hint)


def require_fraction(name: str, value: float) -> None:
    """A share between 0 and 1."""
    require(0 <= value <= 1, f"--{name}", value, "a number from 0 to 1")


def require_positive(**values: float) -> None:
    """Every named setting is above zero."""
    for name, value in values.items():
        require(value > 0, f"--{name}", value, "a number above 0")
