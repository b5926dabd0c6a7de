"""A figure and its 95 % interval, and how both are written."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; what does not apply is None."""

    value: float  # of the data as they are, without resampling
    low: float
    high: float
    n: int | None = None  # pictures
    runs: int | None = None  # training runs that `value` is the mean over; of a difference those of the smaller arm
    undefined: float | None = None  # share of the resamples that had no value (AUC of one class), and are left out

    def within(self, lowest: float, highest: float) -> Interval:
        """The same with bounds that the figure can have: an interval that was shifted may stick out."""
        low, high = (min(max(bound, lowest), highest) for bound in (self.low, self.high))
        return dataclasses.replace(self, low=low, high=high)

    def to_json(self) -> dict[str, Any]:
        """{value, low, high} and what else applies."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def json_fields(found: Any) -> dict[str, Any]:
    """The fields of a dataclass for a JSON file, its intervals as `Interval.to_json` has them."""
    return {name: v.to_json() if isinstance(v, Interval) else v for name, v in vars(found).items()}


def number(value: float) -> str:
    """Three significant digits or so: 0.123, 12.3, 1234."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in a table")
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if 10 <= abs(value) < 100 else f"{value:.0f}" if abs(value) >= 100 else f"{value:.1e}"
