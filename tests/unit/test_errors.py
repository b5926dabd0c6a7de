"""What the operating system refuses, in the words of `UserError`; bugs keep their traceback."""

from __future__ import annotations

import errno
import io
import os

import pytest

from medsegdiff.errors import UserError, from_os_error


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            errno.ENOSPC,
            "f: found No space left on device; expected room to write. Free some space; the same command goes",
        ),
        (errno.EACCES, "f: found Permission denied; expected permission to use it. Change its permissions, or"),
        (errno.EROFS, "f: found Read-only file system; expected a disk that can be written. Choose a folder on"),
        (errno.EMFILE, "f: found Too many open files; expected fewer open files at once. Raise the limit (ulimit -n)."),
        (errno.ETIMEDOUT, "f: found Connection timed out; expected a system that allows it. Mend the cause; the same"),
    ],
)
def test_refusals_are_reported(code: int, text: str) -> None:
    """Damage: an errno without advice that is let through, or one advice for all."""
    assert str(from_os_error(OSError(code, os.strerror(code), "f"))).startswith(text)


def test_where_something_was_to_go_is_named() -> None:
    """Damage: naming the source of a copy; `None` where the system names no file."""
    full = errno.ENOSPC, os.strerror(errno.ENOSPC)
    assert str(from_os_error(OSError(*full, "from", None, "to"))).startswith("to: found")
    assert str(from_os_error(OSError(*full))).startswith("the output: found")
    assert str(from_os_error(OSError(*full, b"bytes"))).startswith("bytes: found")


def test_a_refusal_that_torch_answers_with_an_error_of_its_own() -> None:
    """Damage: a RuntimeError let through, although the disk is full; or one taken for it that only followed."""

    def failing(code: int) -> RuntimeError:
        try:
            try:
                raise OSError(code, os.strerror(code))
            except OSError:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  (as torch does)
        except RuntimeError as error:
            return error

    assert "No space left" in str(from_os_error(failing(errno.ENOSPC)))
    assert from_os_error(failing(errno.ENOENT)) is None


@pytest.mark.parametrize("bug", [ValueError("x"), RuntimeError("x"), OSError("x"), io.UnsupportedOperation("x")])
def test_bugs_are_none(bug: Exception) -> None:
    """Damage: every exception reported in a line, so that nobody finds the bug."""
    assert from_os_error(bug) is None


def test_too_little_memory() -> None:
    """Damage: a traceback of numpy for a setting that is too large."""
    assert "memory: found Unable to allocate 9 TiB; expected" in str(
        from_os_error(MemoryError("Unable to allocate 9 TiB"))
    )
    assert "memory: found too little of it; expected" in str(from_os_error(MemoryError()))
    reported = str(from_os_error(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")))
    assert reported.startswith("memory: found [enforce fail]")
    assert from_os_error(RuntimeError("a bug")) is None


def test_one_line_whatever_the_file_is_called() -> None:
    """Damage: names printed raw, with line breaks and what a terminal would obey; letters of other languages lost."""
    text = str(UserError("a\nb\x1b[2J\udcff \u00e4", "x", "y", "Mend it."))
    assert text == "a\\nb\\x1b[2J\\udcff \u00e4: found x; expected y. Mend it."
