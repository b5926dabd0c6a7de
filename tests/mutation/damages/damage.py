"""What a damage is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """One text in the package replaced by another one; some test has to notice it.

    `old` has to occur exactly once in `file`. `tests` are what should fail: whole files, or single tests of slow ones,
    by name, whichever file they stand in.
    """

    name: str
    breaks: str  # what no longer holds, in a phrase
    file: str  # below medsegdiff/
    old: str
    new: str
    tests: tuple[str, ...]
