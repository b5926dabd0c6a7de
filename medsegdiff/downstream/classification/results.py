"""What a classification leaves behind: a row a test picture, and the ROC curve."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.records import SampleRecord
from medsegdiff.downstream.classification.scores import SPECIFICITY, positive_class
from medsegdiff.downstream.classification.training import predict_probabilities
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.summary import ALL
from medsegdiff.engine.files import write_bytes
from medsegdiff.errors import UserError
from medsegdiff.statistics.roc import rank_auc, roc_curve

BINS = 20  # of the histograms


@dataclass(frozen=True)
class ClassScore:
    """What was found on one test picture."""

    id: str
    group: str
    label: str  # the true class
    predicted: str  # the most probable class
    positive: str  # the class that `probability` and `threshold` are about
    probability: float  # of it
    threshold: float  # above which a picture is called positive; chosen on val
    probabilities: str  # of all classes, as JSON


def score_pairs(
    model: nn.Module, settings: dict[str, Any], data: SampleTensors, config: SegmentConfig, picture: Path
) -> list[ClassScore]:
    """Score a network of `load_classifier`, on its device, on all pairs; draws `draw_roc` to the file `picture`.

    Raises `UserError` for a pair of a class that the network was not trained to predict.
    """
    classes = settings["classes"]
    for record in data.records:
        if record.label not in classes:
            expected, hint = f"one of {', '.join(classes)}", "Leave such pictures out, or train with that class."
            raise UserError(f"test picture {record.id}", f"class {record.label!r}", expected, hint)
    device = next(model.parameters()).device
    probabilities = predict_probabilities(model, data, settings["mean"], settings["std"], config, device)
    rows = class_rows(data.records, probabilities, classes, settings["threshold"])
    draw_roc(picture, rows)
    return rows


def class_rows(
    records: Sequence[SampleRecord], probabilities: np.ndarray, classes: list[str], threshold: float
) -> list[ClassScore]:
    """The rows of N pictures; `probabilities` (N, K) in the order of `classes`."""
    positive = positive_class(classes)
    return [
        ClassScore(
            id=record.id,
            group=record.group,
            label=record.label,
            predicted=classes[int(row.argmax())],
            positive=positive,
            probability=float(row[classes.index(positive)]),
            threshold=threshold,
            probabilities=json.dumps(dict(zip(classes, row.tolist(), strict=True)), ensure_ascii=False),
        )
        for record, row in zip(records, probabilities, strict=True)
    ]


def subgroups(rows: Sequence[ClassScore]) -> dict[str, np.ndarray]:
    """Row numbers of all pictures. One class alone has no AUC, so that classes are no subgroups here."""
    return {ALL: np.arange(len(rows))}


def draw_roc(path: Path, rows: Sequence[ClassScore]) -> None:
    """Draw the ROC curve of the positive class with the operating point, and how its probability is distributed."""
    values = np.array([row.probability for row in rows])
    labels = np.array([row.label for row in rows])
    name, threshold = rows[0].positive, rows[0].threshold
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, values, labels == name, threshold)
    left.set_title(f"{name} against the rest, {len(rows)} pictures", fontsize=10)
    present = sorted(set(labels.tolist()))
    bins = np.linspace(0, 1, BINS + 1).tolist()
    right.hist([values[labels == label] for label in present], bins=bins, label=present)
    right.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold from val {threshold:.3f}")
    right.set(xlabel=f"probability of {name}", ylabel="pictures", xlim=(0, 1))
    right.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())


def _draw_curve(axes: Axes, values: np.ndarray, positive: np.ndarray, threshold: float) -> None:
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if positive.all() or not positive.any():
        axes.text(0.5, 0.5, "one class only: no curve", ha="center")
        return
    above = values > threshold
    point = float(above[~positive].mean()), float(above[positive].mean())
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.axvline(1 - SPECIFICITY, color="grey", linewidth=0.8, linestyle="--", label=f"specificity {SPECIFICITY:g}")
    axes.plot(*roc_curve(values, positive), linewidth=1.8, label=f"AUC {rank_auc(values, positive):.3f}")
    text = f"threshold from val: sensitivity {point[1]:.2f}, specificity {1 - point[0]:.2f}"
    axes.plot(*point, "o", color="black", label=text)
    axes.legend(loc="lower right", fontsize=8)
