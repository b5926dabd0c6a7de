"""Progress where no terminal is: lines, few of them; and none where nobody wants any."""

from __future__ import annotations

import contextlib
import io

from medsegdiff.engine.progress import Lines, hide_bars, progress_bar


def test_a_line_every_30_seconds() -> None:
    """Damage: every update is written, thousands of them in a log file, or carriage returns without an end of line."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        bar = progress_bar(total=100, desc="training", unit="step")
        assert isinstance(bar, Lines)
        now = [bar.start_t]
        bar._time = lambda: now[0]
        for _ in range(100):
            now[0] += 10  # seconds a step
            bar.update()
        bar.close()
        bar.close()
    assert "\r" not in log.getvalue()
    lines = log.getvalue().splitlines()
    assert 1000 / 30 - 3 <= len(lines) <= 1000 / 30 + 2
    assert all(line.startswith("training:") for line in lines)
    assert lines[-1].startswith("training: 100%")


def test_what_is_short_and_not_to_stay_says_nothing() -> None:
    """Damage: every bar leaves a line, those of reading a few files too."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        assert list(progress_bar(range(3), "reading", leave=False)) == [0, 1, 2]
        assert log.getvalue() == ""
        assert list(progress_bar(range(3), "sampling")) == [0, 1, 2]
    assert log.getvalue().count("\n") == 1


def test_quiet() -> None:
    """Damage: --quiet hides lines of the log and not the bars, or for ever."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        hide_bars()
        try:
            assert list(progress_bar(range(3), "sampling")) == [0, 1, 2]
            assert log.getvalue() == ""
        finally:
            hide_bars(False)
        assert len(list(progress_bar(range(3), "sampling"))) == 3
    assert "sampling" in log.getvalue()
