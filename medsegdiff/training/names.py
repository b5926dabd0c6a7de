"""Names that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_names(name: str, names: Iterable[str]) -> str:
    """Up to five of `names` that look like `name`, the likeliest first, with commas between; "" where none does."""
    return ", ".join(difflib.get_close_matches(name, list(names), n=5, cutoff=0.5))
