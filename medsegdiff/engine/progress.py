"""Progress bars: as tqdm draws them in terminals and notebooks; elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm as drawn
from tqdm.std import tqdm

LINE_EVERY = 30.0  # seconds between two lines
_quiet = False


class Lines(tqdm):
    """A bar that says where it stands in a line of its own, every 30 seconds, and at its end where it is to stay."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"mininterval": LINE_EVERY, "maxinterval": LINE_EVERY, "delay": LINE_EVERY})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        """Print the state as a line; nothing for an empty message, by which tqdm takes a bar away."""
        text = (str(self) if msg is None else msg).strip()
        if text:
            self.fp.write(f"{text}\n")
            self.fp.flush()
        return False

    def close(self) -> None:
        """Print the last line, once."""
        if not self.disable and self.leave:
            self.display()
        self.leave = False
        super().close()


def progress_bar(
    iterable: Iterable[Any] | None = None, desc: str | None = None, total: int | None = None, **options: Any
) -> tqdm[Any]:
    """A tqdm bar, with its options: drawn in a terminal or notebook, in lines elsewhere, none after `hide_bars`."""
    kind = drawn if sys.stderr.isatty() or "ipykernel" in sys.modules else Lines
    found: tqdm[Any] = kind(iterable, desc, total, **options | ({"disable": True} if _quiet else {}))
    return found


def hide_bars(hidden: bool = True) -> None:
    """Show no bars in this process from here on; `hidden=False` shows them again."""
    global _quiet
    _quiet = hidden
