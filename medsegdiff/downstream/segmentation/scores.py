"""How well a predicted mask agrees with the true one, picture by picture.

Empty masks: both empty is perfect agreement (overlaps 1, distance 0); exactly one empty is complete failure (overlaps
0, distance the diagonal of the picture). So every picture has every score, and a network that finds nothing gains
nothing by it.

Where neither mask is empty, all scores are those of MONAI 1.6 (`compute_dice`, `compute_iou`, sensitivity and precision
of `compute_confusion_matrix_metric`, `compute_hausdorff_distance` with `percentile=95` and `spacing`), also for masks
at the edge of the picture, up to its float32; `tests/golden/test_segmentation_metrics.py` compares them. With empty
masks others leave a picture out (NaN) where this module scores it:

| empty | here | MONAI | torchmetrics 1.9 (functional.classification) |
|---|---|---|---|
| both | overlaps 1, hd95 0 | all NaN; with `ignore_empty=False` Dice and IoU 1 | overlaps 0 |
| predicted | overlaps 0, hd95 diagonal | Dice, IoU, sensitivity 0, precision NaN, hd95 NaN | overlaps 0 |
| true | overlaps 0, hd95 diagonal | all NaN but precision 0; with `ignore_empty=False` Dice and IoU 0 | overlaps 0 |
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

METRICS = ("dice", "iou", "sensitivity", "precision", "hd95")


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
