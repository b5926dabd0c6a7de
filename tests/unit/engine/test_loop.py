"""The step loop: what it says of its pace."""

from __future__ import annotations

import pytest

from medsegdiff.engine.loop import PACE, Pace


def test_steps_that_became_ten_times_slower_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Damage: nobody learns why a training crawls, or one slow step, or larger pictures, raise the alarm."""
    pace = Pace()
    for seconds in [0.5] * PACE + [9.0] + [2.0] * 2 * PACE + [0.5]:
        pace.add(seconds)
    assert caplog.messages == []
    for _ in range(3 * PACE):
        pace.add(6.0)
    assert len(caplog.messages) == 1
    assert "steps take 6 s, at first 0.5 s" in caplog.messages[0]
