"""Copies that are planted to see whether an audit finds them: positive controls.

Six kinds of what a model that memorises can give back: the picture itself, and the picture mirrored, moved, brightened,
roughened and smoothed again (as sampling from noise does), or cut and enlarged.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# One (S, S) uint8 picture and a source of chance -> one of the same shape
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

SHIFT = 0.06  # largest shift, share of the side
KEPT = 0.88  # share of the side that cutting keeps
SPECKLE = 0.3  # standard deviation of multiplicative noise
GAIN, OFFSET = 1.25, 15.0  # of brightened copies; grey values


def _exact(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return image.copy()


def _flipped(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    side = len(image)
    right, down = random.choice([-1.0, 1.0], size=2) * random.uniform(SHIFT / 2, SHIFT, size=2) * side
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved)


def _brightened(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (image * GAIN + OFFSET).clip(0, 255).astype(np.uint8)


def _denoised(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Speckle, and what a 3 x 3 median leaves of it."""
    noisy = image * (1 + SPECKLE * random.standard_normal(image.shape)) + 5 * random.standard_normal(image.shape)
    return np.asarray(cv2.medianBlur(noisy.clip(0, 255).astype(np.uint8), 3))


def _cropped(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    side = len(image)
    kept = round(KEPT * side)
    top, left = random.integers(0, side - kept + 1, size=2)
    return np.asarray(
        cv2.resize(image[top : top + kept, left : left + kept], (side, side), interpolation=cv2.INTER_LINEAR)
    )


KINDS: dict[str, Change] = {
    "exact": _exact,
    "flipped": _flipped,
    "shifted": _shifted,
    "brightened": _brightened,
    "noised and denoised": _denoised,
    "cropped": _cropped,
}


def altered(images: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Copies of one of `KINDS` of (N, S, S) uint8 pictures, of the same shape; the same seed gives the same copies."""
    purpose = list(KINDS).index(kind)
    changed = [KINDS[kind](image, np.random.default_rng([seed, purpose, i])) for i, image in enumerate(images)]
    return np.stack(changed) if changed else images.copy()
