"""How well a predicted mask agrees with the true one, image by image, and bootstrap intervals over images.

Empty masks: both empty is perfect agreement (overlaps 1, distance 0); exactly one empty is complete failure (overlaps
0, distance the diagonal of the picture).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

METRICS = ("dice", "iou", "sensitivity", "precision", "hd95")
HIGHER_IS_BETTER = {"dice": True, "iou": True, "sensitivity": True, "precision": True, "hd95": False}
CONFIDENCE = 0.95
BOOTSTRAP_CHUNK = 1000  # resamples drawn at once, to bound memory


@dataclass(frozen=True)
class Interval:
    """A mean over images and its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int  # images


def score_image(predicted: np.ndarray, true: np.ndarray, pixel: tuple[float, float]) -> dict[str, float]:
    """All `METRICS` of one (H, W) boolean mask against the true one.

    `pixel` is (width, height) of a pixel (`medsegdiff.data.dataset.pixel_size`); the distance comes in its unit.
    """
    return overlaps(predicted, true) | {"hd95": hausdorff95(predicted, true, pixel)}


def overlaps(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Dice, IoU, sensitivity and precision of (H, W) boolean masks.

    Where one mask alone is empty, sensitivity or precision would be 0 / 0; it is 0 like the others.
    """
    found, there = int(predicted.sum()), int(true.sum())
    if found == 0 or there == 0:
        return dict.fromkeys(("dice", "iou", "sensitivity", "precision"), float(found == there))
    both = int((predicted & true).sum())
    return {
        "dice": 2 * both / (found + there),
        "iou": both / (found + there - both),
        "sensitivity": both / there,
        "precision": both / found,
    }


def hausdorff95(predicted: np.ndarray, true: np.ndarray, pixel: tuple[float, float]) -> float:
    """95th percentile Hausdorff distance of (H, W) boolean masks, in the unit of `pixel` = (width, height).

    The larger one of the two directed 95th percentiles of surface distances, as in Maier-Hein and Reinke et al.,
    "Metrics reloaded", Nature Methods 21 (2024), and in MONAI's `HausdorffDistanceMetric`; tools that pool both sets
    of distances before taking the percentile (MedPy) give slightly other numbers. A surface pixel is a mask pixel with
    a 4-neighbour outside the mask or outside the picture; distances run between pixel centres.
    """
    sampling = (pixel[1], pixel[0])
    if not predicted.any() or not true.any():
        if predicted.any() == true.any():
            return 0.0
        return math.hypot(true.shape[0] * sampling[0], true.shape[1] * sampling[1])
    first, second = _surface(predicted), _surface(true)
    there = distance_transform_edt(~second, sampling=sampling)[first]
    back = distance_transform_edt(~first, sampling=sampling)[second]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _surface(mask: np.ndarray) -> np.ndarray:
    inner: np.ndarray = binary_erosion(mask, border_value=0)
    return mask & ~inner


def bootstrap_interval(values: Sequence[float], resamples: int, seed: int) -> Interval:
    """Mean of `values` (one an image) and its 95 % percentile bootstrap interval over images.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3. Same seed, same interval.
    """
    data = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for start in range(0, resamples, BOOTSTRAP_CHUNK):
        count = min(BOOTSTRAP_CHUNK, resamples - start)
        means.append(data[random.integers(0, len(data), size=(count, len(data)))].mean(axis=1))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired_difference(run: Mapping[str, float], baseline: Mapping[str, float], resamples: int, seed: int) -> Interval:
    """Mean of run - baseline over images, with its interval; both map image id -> score of the same images.

    Pairing takes out how hard an image is, which is most of the variance of either run alone.
    """
    if set(run) != set(baseline):
        raise ValueError("paired runs need the same images")
    return bootstrap_interval([run[id] - baseline[id] for id in sorted(run)], resamples, seed)
