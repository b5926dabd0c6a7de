"""Perceptual features are left out where a test does not ask for them: the network takes 15 ms a picture."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_perceptual_features(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "perceptual" not in request.keywords:
        monkeypatch.setattr("medsegdiff.evaluation.perceptual.packaged_weights", lambda: None)
