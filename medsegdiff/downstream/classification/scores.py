"""How well classes are distinguished: AUC, balanced accuracy, sensitivity at a fixed specificity.

"Positive" is the class that must not be missed: malignant. A measure that needs a class which is not there is NaN.
"""

from __future__ import annotations

import json
import math
import warnings
from functools import lru_cache

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from medsegdiff.statistics.roc import macro_auc, rank_auc
from medsegdiff.statistics.runs import Columns, Measure

MALIGNANT = "malignant"
SPECIFICITY = 0.9  # at which the sensitivity for the positive class is reported


def positive_class(classes: list[str]) -> str:
    """The class whose sensitivity counts: malignant where there is one, else the last."""
    return MALIGNANT if MALIGNANT in classes else classes[-1]


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
    labels = columns["label"][index]
    if len(np.unique(labels)) < 2:
        return math.nan
    with warnings.catch_warnings():  # a class that is predicted here and not there does not count
        warnings.simplefilter("ignore", UserWarning)
        return float(balanced_accuracy_score(labels, columns["predicted"][index]))


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
