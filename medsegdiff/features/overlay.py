"""Marks burnt into a picture: calipers, text, arrows. They are thin, sharp and brighter than all tissue around."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 0.018  # of what counts as thin, share of the height
BRIGHT, STEP, SHARP = 190, 110, 90  # grey levels: of a mark, above what is wider, above the median around
BORDER = 0.06  # of the picture, left out: logos and skin lines, share of the height
LEAST = 3e-4  # share of the picture that marks cover


def has_overlay(image: np.ndarray) -> bool:
    """Whether a (H, W) uint8 picture has marks burnt into it.

    Seen at native size: in pictures of 128 pixels marks are as faint as bright speckle. Thresholds by looking at 200
    pictures of BUSI, of which a fifth has marks.
    """
    height = image.shape[0]
    width = max(3, round(WIDTH * height) // 2 * 2 + 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    grey = image.astype(int)
    above = grey - cv2.morphologyEx(image, cv2.MORPH_OPEN, disc)
    sharp = grey - cv2.medianBlur(image, max(3, width - 2))
    marks = (grey > BRIGHT) & (above > STEP) & (sharp > SHARP)
    edge = max(1, round(BORDER * height))
    inside = marks[edge:-edge, edge:-edge]
    return bool(inside.size and inside.mean() > LEAST)
