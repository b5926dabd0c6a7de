"""How well classes are distinguished: AUC, balanced accuracy, sensitivity at a fixed specificity.

"Positive" is the class that must not be missed: malignant. A measure that needs a class which is not there is NaN.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache

import numpy as np

from medsegdiff.statistics.crossed import Columns, Measure

MALIGNANT = "malignant"
SPECIFICITY = 0.9  # at which the sensitivity for the positive class is reported


def positive_class(classes: list[str]) -> str:
    """The class whose sensitivity counts: malignant where there is one, else the last."""
    return MALIGNANT if MALIGNANT in classes else classes[-1]


def rank_auc(values: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive has a larger value than a negative, ties counted half; NaN without both.

    That is the area under the ROC curve, and U / (n1 n0) of Mann and Whitney (Hanley and McNeil, Radiology 143, 1982).
    `values` (N,) and `positive` (N,) bool.
    """
    ours, others = values[positive], np.sort(values[~positive])
    if not len(ours) or not len(others):
        return math.nan
    wins = np.searchsorted(others, ours, side="left").sum() + np.searchsorted(others, ours, side="right").sum()
    return float(wins / (2 * len(ours) * len(others)))


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """AUC of (N, K) probabilities for labels (N,) in 0..K-1: the mean over classes of each against the rest.

    Two classes have one AUC. Classes that are not among the labels do not count; NaN where there is one class only.
    """
    count = probabilities.shape[1]
    if count == 2:
        return rank_auc(probabilities[:, 1], labels == 1)
    present = np.unique(labels)
    if len(present) < 2:
        return math.nan
    return float(np.mean([rank_auc(probabilities[:, k], labels == k) for k in present]))


def operating_threshold(values: np.ndarray, positive: np.ndarray, specificity: float = SPECIFICITY) -> float:
    """The lowest threshold t for which "positive where value > t" has at least that specificity on these values.

    It is the value of a negative: the highest one after those that may be wrong. `values` (N,), `positive` (N,) bool;
    raises `ValueError` where all are positive.
    """
    others = np.sort(values[~positive])
    if not len(others):
        raise ValueError("a specificity needs negatives")
    allowed = int(len(others) * (1 - specificity) + 1e-9)  # 0.1 * 10 is one, though not to the last bit
    return float(others[-1 - allowed])


# From here on `Columns` are the fields of `results.ClassScore`


def auc(columns: Columns, index: np.ndarray) -> float:
    """AUC for the positive class; of more than two classes the mean of each against the rest (`macro_auc`)."""
    classes = list(_parsed(str(columns["probabilities"][0])))
    if len(classes) == 2:
        return rank_auc(*_positives(columns, index))
    rows = [list(_parsed(text).values()) for text in columns["probabilities"][index].tolist()]
    labels = [classes.index(label) for label in columns["label"][index].tolist()]
    return macro_auc(np.array(rows), np.array(labels))


@lru_cache(maxsize=100_000)  # a bootstrap asks for the same few pictures thousands of times
def _parsed(text: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(text)
    return found


def _positives(columns: Columns, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the positive class (N,), and whether pictures are of it (N,)."""
    return columns["probability"][index], columns["label"][index] == columns["positive"][index]


def balanced_accuracy(columns: Columns, index: np.ndarray) -> float:
    """The mean over the classes that are there of the share recognised (Brodersen et al., ICPR 2010).

    A picture is taken for its most probable class. NaN where there is one class only.
    """
    labels, number = np.unique(columns["label"][index], return_inverse=True)
    if len(labels) < 2:
        return math.nan
    right = columns["predicted"][index] == columns["label"][index]
    return float(np.mean(np.bincount(number, weights=right) / np.bincount(number)))


def sensitivity_at_specificity(columns: Columns, index: np.ndarray) -> float:
    """The highest sensitivity of any threshold with a specificity of at least 0.9 on these same pictures.

    A point of the ROC curve: it says how well the classes are distinguished, not what a user gets, who has to choose
    the threshold beforehand (`sensitivity`, `specificity`).
    """
    values, positive = _positives(columns, index)
    if not positive.any() or positive.all():
        return math.nan
    return float((values[positive] > operating_threshold(values, positive)).mean())


def sensitivity(columns: Columns, index: np.ndarray) -> float:
    """The share of positives above the threshold that was chosen on val."""
    values, positive = _positives(columns, index)
    return float((values > columns["threshold"][index])[positive].mean()) if positive.any() else math.nan


def specificity(columns: Columns, index: np.ndarray) -> float:
    """The share of negatives that are not above the threshold that was chosen on val."""
    values, positive = _positives(columns, index)
    return float((values <= columns["threshold"][index])[~positive].mean()) if not positive.all() else math.nan


MEASURES: dict[str, Measure] = {
    "auc": auc,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity_at_90": sensitivity_at_specificity,
    "sensitivity": sensitivity,
    "specificity": specificity,
}
