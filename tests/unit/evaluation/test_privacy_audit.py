"""What keeps the audit from false alarms and false passes: alarms by one picture, missed kinds, the wrong pictures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from evaluation_sets import context
from test_privacy import HOW, texture_sets

from medsegdiff.evaluation.metrics import privacy
from medsegdiff.evaluation.metrics.privacy import run
from medsegdiff.evaluation.privacy.audit import alarm, audit


@pytest.fixture(autouse=True)
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs in the figures: twenty pictures take most of the time."""
    monkeypatch.setattr(privacy, "SHOWN", 2)


def of_chance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A likeness that sees exact copies and is otherwise chance, from the pictures alone."""
    numbers = [np.random.default_rng(int(image[:8].astype(int).sum())).normal(size=len(b)) for image in a]
    same = (a[:, None] == b[None]).all(axis=(2, 3))
    return np.where(same, 9.0, np.stack(numbers))


def test_alarm_by_hand() -> None:
    """Fails if the alarm falls back to the most alike held-out picture where copies are no more alike."""
    copied, held_out = np.array([0.5, 0.6, 0.7, 0.8, 0.9]), np.array([0.1, 0.55])
    assert alarm(copied, held_out) == pytest.approx(0.6)
    assert math.isinf(alarm(copied, np.array([0.1, 0.6])))
    assert math.isinf(alarm(copied, np.array([0.1, 0.95])))


def test_chance_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if one of forty pictures that have nothing in common with train is beyond all of thirty, and fails the set."""
    sets = texture_sets()
    found = audit(sets, of_chance, **HOW)
    assert found.similarity.max() > found.floor.max()  # the likely case: 40 synthetic against 30 held-out pictures
    assert found.unmistakable is None
    monkeypatch.setattr(privacy, "likeness", lambda a, b: of_chance(np.stack(a), np.stack(b)))
    section = run(context(sets))
    assert section.verdict is not None
    assert section.verdict.outcome != "fail"
    assert any("one single copy cannot be told from chance" in sentence for sentence in section.text)
    assert section.values["fine_detail"]["unmistakable"] is None
    assert json.dumps(section.values, allow_nan=False)
