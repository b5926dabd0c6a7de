"""Descriptors of a lesion's shape and of a picture's grey values, in true geometry; cheap to compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

PAIR_FEATURES = (
    "area", "depth_to_width", "irregularity", "centre_depth", "contrast", "posterior",
    "mean", "std", "fine_texture", "middle_texture", "coarse_texture", "edge_sharpness",
)  # fmt: skip


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a (H, W) mask, as uint8 {0, 1}; all zero for an empty mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(mask.shape, np.uint8)
    return (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)


def _true_geometry(mask: np.ndarray, pixel_aspect: float, height: int = 256) -> np.ndarray:
    """The mask resampled to square pixels at a fixed height, so that margins are compared at one resolution."""
    width = max(8, round(height * pixel_aspect * mask.shape[1] / mask.shape[0]))
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return (soft > 0.5).astype(np.uint8)


def lesion_shape(mask: np.ndarray, pixel_aspect: float = 1.0) -> dict[str, float]:
    """Shape of the largest lesion of a (H, W) mask, sizes as shares of the picture.

    area: of all lesions. depth_to_width: vertical over horizontal extent, above 1 "taller than wide", a BI-RADS sign
    of malignancy. irregularity: perimeter of the lesion over that of the ellipse with the same second moments, minus
    1; 0 for an ellipse, larger for lobed and spiculated margins. centre_depth: height of the centroid, 0 at the skin.
    NaN for all but the area where the mask is empty.
    """
    area = float((mask > 0).mean())
    part = largest_component(_true_geometry(mask > 0, pixel_aspect))
    if not part.any():
        return {"area": area, "depth_to_width": math.nan, "irregularity": math.nan, "centre_depth": math.nan}
    rows, columns = np.nonzero(part)
    depth, width = float(np.ptp(rows) + 1), float(np.ptp(columns) + 1)
    smooth = cv2.GaussianBlur(part.astype(np.float32), (0, 0), 1.5)  # pixel stairs would count as margin otherwise
    outline, _ = cv2.findContours((smooth > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    perimeter = max((cv2.arcLength(c, True) for c in outline), default=0.0)
    covariance = np.cov(np.stack([rows, columns])) if len(rows) > 2 else np.zeros((2, 2))
    a, b = 2 * np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0.08))  # semi-axes; a pixel's own variance is 1/12
    h = ((a - b) / (a + b)) ** 2
    ellipse = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))  # Ramanujan 1914
    return {
        "area": area,
        "depth_to_width": depth / width,
        "irregularity": perimeter / ellipse - 1,
        "centre_depth": float(rows.mean()) / part.shape[0],
    }


def pair_features(image: np.ndarray, mask: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """`PAIR_FEATURES` of a (H, W) uint8 image and its mask as (12,) float64; NaN where an empty mask leaves no value.

    contrast: lesion minus its surroundings, posterior: below the lesion minus beside that region (grey levels of 1);
    texture: standard deviation within three bands of spatial frequency; edge_sharpness: mean gradient on the outline.
    """
    grey = image.astype(np.float32) / 255
    shape = lesion_shape(mask, pixel_aspect)
    lesion = (mask > 0).astype(np.uint8)
    size = image.shape[0]
    blurs = [cv2.GaussianBlur(grey, (0, 0), sigma * size / 128) for sigma in (1.0, 3.0, 9.0)]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * (size // 16) + 1,) * 2)
    ring = cv2.dilate(lesion, kernel) - lesion
    edge = cv2.morphologyEx(lesion, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    gradient = np.hypot(cv2.Sobel(blurs[0], cv2.CV_32F, 1, 0), cv2.Sobel(blurs[0], cv2.CV_32F, 0, 1))
    return np.array(
        [
            *shape.values(),
            _mean(grey, lesion) - _mean(grey, ring),
            _posterior(grey, lesion),
            grey.mean(),
            grey.std(),
            (grey - blurs[0]).std(),
            (blurs[0] - blurs[1]).std(),
            (blurs[1] - blurs[2]).std(),
            _mean(gradient, edge),
        ],
        dtype=np.float64,
    )


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where > 0].mean()) if where.any() else math.nan


def _posterior(grey: np.ndarray, lesion: np.ndarray) -> float:
    """Mean grey below the lesion minus that beside the same region, NaN where there is no room."""
    if not lesion.any():
        return math.nan
    rows, columns = np.nonzero(lesion)
    top, left, right = rows.max() + 1, columns.min(), columns.max() + 1
    bottom = min(top + max(2, (rows.max() - rows.min()) // 2), grey.shape[0])
    half = max(2, (right - left) // 2)
    below = grey[top:bottom, left:right]
    beside = np.concatenate([grey[top:bottom, max(0, left - half) : left], grey[top:bottom, right : right + half]], 1)
    return float(below.mean() - beside.mean()) if below.size and beside.size else math.nan


def feature_matrix(pairs: Iterable[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """(N, 12) features of N triples (image, mask, pixel aspect)."""
    rows = [pair_features(*pair) for pair in pairs]
    return np.stack(rows) if rows else np.zeros((0, len(PAIR_FEATURES)))


def feature_distance(first: np.ndarray, second: np.ndarray, scale: Sequence[float] | np.ndarray) -> float:
    """Mean over features of the 1-D Wasserstein distance between two (N, F) and (K, F) sets, in units of `scale` (F,).

    One feature at a time, because a few dozen pictures do not determine a covariance. Empty masks (NaN) are left out
    of the features that they do not have; 0 means equal distributions, 1 a shift of a standard deviation.
    """
    from scipy.stats import wasserstein_distance

    distances = []
    for column in range(first.shape[1]):
        a, b = (x[~np.isnan(x[:, column]), column] for x in (first, second))
        if len(a) and len(b):
            distances.append(wasserstein_distance(a, b) / max(float(scale[column]), 1e-9))
    return float(np.mean(distances)) if distances else math.nan
