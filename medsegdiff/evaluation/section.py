"""What a metric says: numbers for report.json and per_pair.csv, and tables, pictures and sentences for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medsegdiff.statistics.interval import Interval

Cell = str | float | int | None  # None: not measured, shown as a dash


@dataclass(frozen=True)
class Table:
    """A table of the page; an `Interval` or a number in a cell is written with three digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Interval]]
    note: str = ""  # how to read it


@dataclass(frozen=True)
class Figure:
    """A picture of the page."""

    png: bytes
    caption: str  # also the text that a reader without pictures gets


@dataclass(frozen=True)
class Verdict:
    """One line that can be acted on."""

    outcome: Literal["pass", "fail", "too few pictures to decide", "not judged"]
    sentence: str


@dataclass
class Section:
    """Everything that one metric has to say."""

    title: str
    text: list[str] = field(default_factory=list)  # sentences for a clinician: what was compared, what it means
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what could not be measured, and why
    values: dict[str, Any] = field(default_factory=dict)  # for report.json: finite numbers, text, lists, dictionaries
    per_pair: dict[str, Sequence[Cell]] = field(default_factory=dict)  # column -> one entry a synthetic pair
    verdict: Verdict | None = None

    def too_few(self, what: str, counts: Mapping[str, int], minimum: int) -> bool:
        """Whether a set has fewer pictures than `minimum`; then `skipped` says that `what` is not measured.

        `counts` are the pictures by what the page calls their set.
        """
        if min(counts.values()) >= minimum:
            return False
        reported = ", ".join(f"{count} {title}" for title, count in counts.items())
        self.skipped.append(f"{what}: {reported} pictures; at least {minimum} of each needed.")
        return True


def cells(values: np.ndarray) -> list[Cell]:
    """(N,) numbers as a column of per_pair.csv, five digits each and NaN as no value."""
    return [None if np.isnan(v) else float(f"{v:.5g}") for v in values]
