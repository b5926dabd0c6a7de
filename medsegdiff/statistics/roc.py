"""How well numbers distinguish classes, by scikit-learn; NaN where there is one class only."""

from __future__ import annotations

import math

import numpy as np
from sklearn import config_context
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as curve_of


def rank_auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of `values` (N,) for `positive` (N,) bool.

    The probability that a positive has a larger value than a negative, ties counted half (Hanley and McNeil, Radiology
    143, 1982).
    """
    if positive.all() or not positive.any():
        return math.nan
    with config_context(assume_finite=True, skip_parameter_validation=True):  # a bootstrap asks thousands of times
        return float(roc_auc_score(positive, values))


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """AUC of (N, K) probabilities for labels (N,) in 0..K-1: the mean over classes of each against the rest.

    Two classes have one AUC. Classes that are not among the labels do not count.
    """
    if probabilities.shape[1] == 2:
        return rank_auc(probabilities[:, 1], labels == 1)
    return float(np.mean([rank_auc(probabilities[:, k], labels == k) for k in np.unique(labels)]))


def roc_curve(values: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - specificity and sensitivity of "positive where value >= t" for all t, from (0, 0) to (1, 1)."""
    wrong, right, _ = curve_of(positive, values, drop_intermediate=False)
    return wrong, right
