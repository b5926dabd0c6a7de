"""Classification scores against scikit-learn and torchmetrics on random cases with ties."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_sensitivity_at_specificity, multiclass_auroc

from medsegdiff.downstream.classification.scores import MEASURES, SPECIFICITY, operating_threshold

CASES = range(100)


def binary_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N,) on a coarse grid, so that many tie, and labels (N,) bool of both kinds; N from 4 to 63."""
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 64))
    labels = random.random(count) < random.uniform(0.1, 0.9)
    labels[:2] = [False, True]
    levels = int(random.integers(2, 40))
    return (random.random(count) * 0.7 + labels * 0.3).round(4) // (1 / levels) / levels, labels


def columns(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, np.ndarray]:
    """What `scoring.rows` makes of rows with probabilities (N, K) and labels (N,); classes are called c0, c1, ..."""
    names = [f"c{k}" for k in range(probabilities.shape[1])]
    return {
        "label": np.array([names[k] for k in labels]),
        "predicted": np.array([names[k] for k in probabilities.argmax(axis=1)]),
        "positive": np.full(len(labels), names[positive]),
        "probability": probabilities[:, positive],
        "threshold": np.full(len(labels), 0.5),
        "probabilities": np.array([json.dumps(dict(zip(names, row.tolist(), strict=True))) for row in probabilities]),
    }


def test_auc_of_two_classes() -> None:
    """Damage: ties that count as whole wins or as none."""
    for seed in CASES[:30]:
        values, labels = binary_case(seed)
        table = columns(np.stack([1 - values, values], axis=1), labels.astype(int), positive=1)
        expected = binary_auroc(torch.tensor(values), torch.tensor(labels).long())
        assert MEASURES["auc"](table, np.arange(len(labels))) == pytest.approx(float(expected), abs=1e-6)


def test_auc_of_three_classes() -> None:
    """Macro, one against the rest. Damage: classes weighted by how frequent they are; the rows of a resample unused."""
    for seed in CASES[:30]:
        random = np.random.default_rng(seed)
        labels = np.concatenate([[0, 1, 2], random.choice(3, size=40, p=[0.6, 0.3, 0.1])])
        raw = random.integers(1, 6, size=(len(labels), 3)) + 3.0 * np.eye(3)[labels]
        probabilities = raw / raw.sum(axis=1, keepdims=True)
        rows = np.concatenate([[0, 1, 2], random.integers(0, len(labels), size=len(labels))])
        expected = multiclass_auroc(torch.tensor(probabilities[rows]), torch.tensor(labels[rows]), num_classes=3)
        found = MEASURES["auc"](columns(probabilities, labels, 1), rows)
        assert found == pytest.approx(float(expected), abs=1e-6)


def test_balanced_accuracy() -> None:
    """Damage: classes weighted by how frequent they are."""
    for seed in CASES[:30]:
        random = np.random.default_rng(seed)
        labels = np.concatenate([[0, 1, 2], random.choice(3, size=30, p=[0.7, 0.2, 0.1])])
        probabilities = random.dirichlet(np.ones(3), size=len(labels))
        found = MEASURES["balanced_accuracy"](columns(probabilities, labels, 2), np.arange(len(labels)))
        assert found == pytest.approx(
            np.mean([(probabilities[labels == k].argmax(axis=1) == k).mean() for k in range(3)])
        )


def test_sensitivity_at_specificity() -> None:
    """The best point of the ROC curve left of 1 - 0.9. Damage: ties with the threshold that count as positive."""
    for seed in CASES:
        values, labels = binary_case(seed)
        table = columns(np.stack([1 - values, values], axis=1), labels.astype(int), positive=1)
        found = MEASURES["sensitivity_at_90"](table, np.arange(len(labels)))
        wrong, right, _ = roc_curve(labels, values, drop_intermediate=False)
        assert found == pytest.approx(right[wrong <= 1 - SPECIFICITY + 1e-9].max(), abs=1e-12)


def test_sensitivity_at_specificity_as_torchmetrics_has_it() -> None:
    """Values without ties, 20 negatives. Damage: of 20 negatives only one may be wrong."""
    for seed in CASES[:30]:
        random = np.random.default_rng(seed)
        values = random.permutation(45) / 50
        labels = random.permutation(np.arange(45) < 25)
        table = columns(np.stack([1 - values, values], axis=1), labels.astype(int), positive=1)
        found = MEASURES["sensitivity_at_90"](table, np.arange(45))
        expected, _ = binary_sensitivity_at_specificity(
            torch.tensor(values), torch.tensor(labels).long(), min_specificity=SPECIFICITY - 1e-6
        )
        assert found == pytest.approx(float(expected), abs=1e-6)


def test_threshold_has_the_specificity_and_no_lower_one_does() -> None:
    """Damage: the threshold of another negative than the first that must not be wrong."""
    for seed in CASES:
        values, labels = binary_case(seed)
        threshold = operating_threshold(values, labels)
        assert (values[~labels] <= threshold).mean() >= SPECIFICITY - 1e-9
        lower = np.unique(values)[np.unique(values) < threshold]
        assert all((values[~labels] <= t).mean() < SPECIFICITY - 1e-9 for t in lower)
