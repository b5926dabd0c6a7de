"""Scores of masks against MONAI and torchmetrics, and where they differ from both: empty masks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    get_confusion_matrix,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
)

from medsegdiff.downstream.segmentation.scores import METRICS, score_image

OVERLAPS = METRICS[:4]
SHAPE = (40, 52)
PIXEL = (2.5, 0.75)  # width, height: resized pictures have no square pixels
NOTHING = np.zeros(SHAPE, dtype=bool)
CLASSIFICATION = {
    "dice": binary_f1_score,
    "iou": binary_jaccard_index,
    "sensitivity": binary_recall,
    "precision": binary_precision,
}
Pair = tuple[np.ndarray, np.ndarray]


def channels(mask: np.ndarray) -> Tensor:
    """(1, 1, H, W), as MONAI has it."""
    return torch.from_numpy(mask)[None, None].float()


def monai_scores(predicted: np.ndarray, true: np.ndarray, ignore_empty: bool = True) -> dict[str, float]:
    """What MONAI finds."""
    p, t = channels(predicted), channels(true)
    table = get_confusion_matrix(p, t)
    with warnings.catch_warnings():  # about empty masks
        warnings.simplefilter("ignore")
        distance = compute_hausdorff_distance(
            p, t, include_background=True, percentile=95, spacing=[[PIXEL[1], PIXEL[0]]]
        )
    found = {
        "dice": compute_dice(p, t, ignore_empty=ignore_empty),
        "iou": compute_iou(p, t, ignore_empty=ignore_empty),
        "sensitivity": compute_confusion_matrix_metric("sensitivity", table),
        "precision": compute_confusion_matrix_metric("precision", table),
        "hd95": distance,
    }
    return {name: value.item() for name, value in found.items()}


def torchmetrics_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """What torchmetrics finds, of one picture as a list of pixels."""
    p, t = torch.from_numpy(predicted).int(), torch.from_numpy(true).int()
    return {name: float(score(p, t)) for name, score in CLASSIFICATION.items()}


def blob(random: np.random.Generator) -> np.ndarray:
    """A smooth mask of one or more parts, at the border or not, never empty."""
    field = gaussian_filter(random.normal(size=SHAPE), random.uniform(1.5, 6), mode="nearest")
    return np.asarray(field > np.quantile(field, random.uniform(0.4, 0.97)))


def point(y: int, x: int) -> np.ndarray:
    """One pixel."""
    mask = NOTHING.copy()
    mask[y, x] = True
    return mask


def frame(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """A rectangle; ends are exclusive."""
    mask = NOTHING.copy()
    mask[top:bottom, left:right] = True
    return mask


def smooth_pairs() -> list[Pair]:
    """A blob, and either another one or the same one moved and gnawed at, as predictions are."""
    pairs = []
    for number in range(80):
        random = np.random.default_rng([3, number])
        true = blob(random)
        other = blob(random) if number % 2 else np.roll(true, random.integers(-4, 5, 2), (0, 1)) ^ point(20, 26)
        pairs.append((other, true))
    return pairs


EDGES = [frame(0, 9, 10, 20), frame(31, 40, 10, 20), frame(8, 20, 0, 7), frame(8, 20, 45, 52), frame(0, 40, 0, 52)]
POINTS = [point(0, 0), point(39, 51), point(0, 30), point(17, 22)]
SPECIAL: list[Pair] = [(a, b) for a in EDGES + POINTS for b in [EDGES[0], EDGES[4], POINTS[0], frame(1, 39, 1, 51)]]


@pytest.mark.parametrize("pairs", [smooth_pairs(), SPECIAL], ids=["smooth", "special"])
def test_scores_are_those_of_monai(pairs: list[Pair]) -> None:
    """116 pairs of masks; single pixels, masks at the border, the whole picture. Damage: the border of the picture is
    not surface, percentiles of both directions are pooled, or width and height change places."""
    for predicted, true in pairs:
        assert score_image(predicted, true, PIXEL) == pytest.approx(monai_scores(predicted, true), rel=1e-6, abs=1e-6)
    assert len({round(score_image(*pair, PIXEL)["hd95"], 3) for pair in pairs}) > 10  # not all alike


def test_overlaps_are_those_of_torchmetrics() -> None:
    """Damage: sensitivity and precision change places, or IoU is taken for Dice."""
    for predicted, true in smooth_pairs() + SPECIAL:
        ours = score_image(predicted, true, PIXEL)
        assert {name: ours[name] for name in OVERLAPS} == pytest.approx(torchmetrics_scores(predicted, true), rel=1e-6)


NAN = math.nan
DIAGONAL = math.hypot(SHAPE[0] * PIXEL[1], SHAPE[1] * PIXEL[0])
# predicted, true, scores here, scores of MONAI (NaN: left out of its means); all in the order of METRICS
EMPTY: dict[str, tuple[np.ndarray, np.ndarray, list[float], list[float]]] = {
    "both": (NOTHING, NOTHING, [1, 1, 1, 1, 0], [NAN, NAN, NAN, NAN, NAN]),
    "predicted": (NOTHING, EDGES[0], [0, 0, 0, 0, DIAGONAL], [0, 0, 0, NAN, NAN]),
    "predicted, true one pixel": (NOTHING, POINTS[3], [0, 0, 0, 0, DIAGONAL], [0, 0, 0, NAN, NAN]),
    "predicted, true everything": (NOTHING, EDGES[4], [0, 0, 0, 0, DIAGONAL], [0, 0, 0, NAN, NAN]),
    "true": (EDGES[0], NOTHING, [0, 0, 0, 0, DIAGONAL], [NAN, NAN, NAN, 0, NAN]),
    "true, predicted one pixel": (POINTS[3], NOTHING, [0, 0, 0, 0, DIAGONAL], [NAN, NAN, NAN, 0, NAN]),
    "true, predicted everything": (EDGES[4], NOTHING, [0, 0, 0, 0, DIAGONAL], [NAN, NAN, NAN, 0, NAN]),
}


@pytest.mark.parametrize("case", EMPTY)
def test_empty_masks_differ_as_reported(case: str) -> None:
    """The table in the docstring of `scores`. Damage: a convention for empty masks changes, here or there."""
    predicted, true, here, there = EMPTY[case]
    ours = score_image(predicted, true, PIXEL)
    assert [ours[name] for name in METRICS] == pytest.approx(here)
    found = monai_scores(predicted, true)
    assert [found[name] for name in METRICS] == pytest.approx(there, nan_ok=True)
    counted = monai_scores(predicted, true, ignore_empty=False)
    assert [counted[name] for name in ("dice", "iou")] == here[:2]  # MONAI's other convention is ours
    assert list(torchmetrics_scores(predicted, true).values()) == [0, 0, 0, 0]
