"""Burnt-in marks are found, and tissue is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medsegdiff.features.overlay import has_overlay


def tissue(seed: int) -> np.ndarray:
    """(200, 260) uint8 speckle with a bright band as wide as a fascia."""
    noise = np.random.default_rng(seed).rayleigh(1.0, (200, 260))
    grey = 60 * cv2.GaussianBlur(noise, (0, 0), 1.2)
    grey[90:100] += 120
    return grey.clip(0, 255).astype(np.uint8)


def calipers(image: np.ndarray) -> np.ndarray:
    """A cross and a dotted line."""
    cv2.line(image, (100, 60), (112, 60), 255, 1)
    cv2.line(image, (106, 54), (106, 66), 255, 1)
    image[150, 60:160:4] = 255
    return image


def text(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.putText(image, "RT 9", (40, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1))


@pytest.mark.parametrize("seed", range(4))
def test_marks_are_found(seed: int) -> None:
    """Damage: bright speckle or a fascia taken for a mark; thin lines not seen; those of the border counted."""
    assert not has_overlay(tissue(seed))
    assert has_overlay(calipers(tissue(seed)))
    assert has_overlay(text(tissue(seed)))
    logo = tissue(seed)
    logo[2:8, 2:8:2] = 255
    assert not has_overlay(logo)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (16, 300)])
def test_small_pictures(shape: tuple[int, int]) -> None:
    """Damage: a crash or a warning where a border is all there is."""
    assert not has_overlay(np.full(shape, 255, np.uint8))
