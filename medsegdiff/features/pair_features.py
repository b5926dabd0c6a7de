"""Twelve plain features of a pair, cheap enough to look at during training, and how far two sets of them are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from scipy.stats import wasserstein_distance

from medsegdiff.features.lesion_shape import lesion_descriptors

LESION = ("area", "depth_to_width", "irregularity", "depth", "echogenicity", "posterior", "sharpness")
PAIR_FEATURES = (*LESION, "mean", "std", "fine_texture", "middle_texture", "coarse_texture")


def pair_features(image: np.ndarray, mask: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """`PAIR_FEATURES` of a (H, W) uint8 image and its mask as (12,) float64; NaN where there is nothing to measure.

    Those of the `LESION` are `lesion_descriptors`; texture is the standard deviation within three bands of spatial
    frequency, in grey levels of 1.
    """
    grey = image.astype(np.float32) / 255
    blurs = [cv2.GaussianBlur(grey, (0, 0), sigma * image.shape[0] / 128) for sigma in (1.0, 3.0, 9.0)]
    textures = [(fine - coarse).std() for fine, coarse in zip([grey, *blurs[:2]], blurs, strict=True)]
    lesion = lesion_descriptors(image, mask, aspect)
    return np.array([*(lesion[name] for name in LESION), grey.mean(), grey.std(), *textures], dtype=np.float64)


def feature_matrix(pairs: Iterable[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """(N, 12) features of N triples (image, mask, pixel aspect)."""
    rows = [pair_features(*pair) for pair in pairs]
    return np.stack(rows) if rows else np.zeros((0, len(PAIR_FEATURES)))


def feature_distance(first: np.ndarray, second: np.ndarray, scale: Sequence[float] | np.ndarray) -> float:
    """Mean over features of the 1-D Wasserstein distance between two (N, F) and (K, F) sets, in units of `scale` (F,).

    One feature at a time, because a few dozen pictures do not determine a covariance. Empty masks (NaN) are left out
    of the features that they do not have; 0 means equal distributions, 1 a shift of a standard deviation.
    """
    distances = []
    for column in range(first.shape[1]):
        a, b = (x[~np.isnan(x[:, column]), column] for x in (first, second))
        if len(a) and len(b):
            distances.append(wasserstein_distance(a, b) / max(float(scale[column]), 1e-9))
    return float(np.mean(distances)) if distances else math.nan
