"""The one kind of error that a user can mend, and the one place where its wording is put together."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, told in one line: where it is, what was found, what was expected, what to do.

    Command lines print it without a traceback and exit with status 2 (`medsegdiff.cli`).
    """

    def __init__(self, where: object, found: object, expected: object, hint: str) -> None:
        self.where = str(where)
        super().__init__(f"{where}: found {found}; expected {expected}. {hint}")
