"""Features of a pair, and the distance of two sets of them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from medsegdiff.features.pair_features import PAIR_FEATURES, feature_distance, feature_matrix, pair_features


def test_features_of_a_drawn_pair() -> None:
    """Damage: a feature stands under another's name, or texture does not see the grain of its band."""
    mask = cv2.ellipse(np.zeros((128, 128), np.uint8), (64, 50), (30, 25), 0, 0, 360, 255, -1)
    image = np.where(mask > 0, 40, 120).astype(np.uint8)
    image[80:, 34:94] = 200  # enhancement below
    found = dict(zip(PAIR_FEATURES, pair_features(image, mask), strict=True))
    assert found["area"] == pytest.approx((mask > 0).mean())
    assert found["depth_to_width"] == pytest.approx(25 / 30, rel=0.03)
    assert found["echogenicity"] == pytest.approx(-80, abs=30)
    assert found["posterior"] > 25
    assert found["mean"] == pytest.approx(image.mean() / 255, abs=1e-4)
    flat = dict(zip(PAIR_FEATURES, pair_features(np.full((128, 128), 9, np.uint8), mask), strict=True))
    grain = np.random.default_rng(0).integers(0, 60, (128, 128)).astype(np.uint8)
    rough = dict(zip(PAIR_FEATURES, pair_features(grain, mask), strict=True))
    assert flat["fine_texture"] == pytest.approx(0, abs=1e-6)
    assert rough["fine_texture"] > 3 * rough["coarse_texture"] > 0
    assert found["sharpness"] > flat["sharpness"]


def test_feature_distance() -> None:
    """Damage: no division by scale; NaN rows kept."""
    random = np.random.default_rng(0)
    first = random.normal(size=(4000, 2)) * [1, 10]
    assert feature_distance(first, first, [1, 10]) == 0
    assert feature_distance(first, np.add(first, [1, 10]), [1, 10]) == pytest.approx(1)
    holes = np.concatenate([first, [[math.nan, 0.0]]])
    assert feature_distance(holes, np.add(first, [1, 0]), [1, 10]) == pytest.approx(0.5, abs=0.01)
    assert feature_matrix([]).shape == (0, len(PAIR_FEATURES))
