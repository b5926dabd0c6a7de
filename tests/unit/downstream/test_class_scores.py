"""Scores of classes by hand, sets that lack a class, rows and the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.downstream.classification.results import ClassScore, draw_roc, subgroups
from medsegdiff.downstream.classification.scores import MEASURES, operating_threshold, positive_class
from medsegdiff.downstream.rows import columns, read_rows, write_rows
from medsegdiff.statistics.roc import macro_auc
from medsegdiff.statistics.runs import interval

# label, probability of malignant; the threshold is 0.55
PICTURES = [
    ("benign", 0.1),
    ("benign", 0.52),
    ("benign", 0.6),
    ("malignant", 0.3),
    ("malignant", 0.55),
    ("malignant", 0.9),
]


def rows(pictures: list[tuple[str, float]], threshold: float = 0.55) -> list[ClassScore]:
    """Rows of two classes."""
    return [
        ClassScore(
            f"p{number}", f"g{number}", label, "malignant" if value > 0.5 else "benign", "malignant", value, threshold,
            json.dumps({"benign": 1 - value, "malignant": value}),
        )
        for number, (label, value) in enumerate(pictures)
    ]  # fmt: skip


def test_measures_by_hand() -> None:
    """Damage: sensitivity and specificity are swapped, or the threshold itself counts as positive."""
    found = {name: measure(columns(rows(PICTURES)), np.arange(6)) for name, measure in MEASURES.items()}
    assert found == pytest.approx(
        {
            "auc": 6 / 9,  # 0.3 beats one, 0.55 two, 0.9 three of three
            "balanced_accuracy": (1 / 3 + 2 / 3) / 2,
            "sensitivity_at_90": 1 / 3,  # no negative may be wrong: above 0.6
            "sensitivity": 1 / 3,
            "specificity": 2 / 3,
        }
    )


def test_index_chooses_pictures() -> None:
    """A resample with repeats. Damage: a measure looks at all pictures whatever the index says."""
    table, index = columns(rows(PICTURES)), np.array([0, 0, 2, 5, 4])
    resampled = columns([rows(PICTURES)[i] for i in index])
    for measure in MEASURES.values():
        assert measure(table, index) == measure(resampled, np.arange(5))


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_one_class_alone(label: str) -> None:
    """What can be reported is reported, the rest is NaN. Damage: a class that is not there counts as 0, or raises."""
    table = columns(rows([picture for picture in PICTURES if picture[0] == label]))
    found = {name: measure(table, np.arange(3)) for name, measure in MEASURES.items()}
    reported = {"benign": "specificity", "malignant": "sensitivity"}[label]
    assert {name for name, value in found.items() if not math.isnan(value)} == {reported}


def test_a_class_that_a_resample_misses_does_not_count() -> None:
    """Three classes of which two are there. Damage: the third makes the mean NaN."""
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert macro_auc(probabilities, np.array([0, 1])) == 1
    assert math.isnan(macro_auc(probabilities, np.array([1, 1])))


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    """Class names with quotes and commas. Damage: `probabilities` is a type that a CSV line does not keep."""
    odd = json.dumps({'"benign", sort of': 0.25, "malignant": 0.75})
    table = [*rows(PICTURES), ClassScore("p9", "g9", "malignant", "malignant", "malignant", 0.75, 0.5, odd)]
    write_rows(tmp_path / "per_image.csv", table)
    assert read_rows(tmp_path / "per_image.csv", ClassScore) == table


def test_interval_of_an_auc() -> None:
    """Six pictures: resamples of one class are left out. Damage: such a resample raises, or counts as 0."""
    table = rows(PICTURES)
    found = interval([columns(table)], MEASURES["auc"], [row.group for row in table], 200, seed=0)
    assert found.value == pytest.approx(6 / 9)
    assert 0 <= found.low < found.value < found.high <= 1
    assert {name: index.tolist() for name, index in subgroups(table).items()} == {"all": [0, 1, 2, 3, 4, 5]}


def test_malignant_is_positive_wherever_it_stands() -> None:
    """Damage: the last class is taken in any case."""
    assert positive_class(["benign", "malignant", "normal"]) == "malignant"
    assert positive_class(["cyst", "solid"]) == "solid"


def test_a_tenth_of_ten_may_be_wrong() -> None:
    """Damage: 10 * (1 - 0.9), which is 0.9999999999999998, is rounded down."""
    values = np.arange(11) / 20
    assert operating_threshold(values, values == 0) == values[-2]
    with pytest.raises(ValueError, match="needs negatives"):
        operating_threshold(values, values >= 0)


@pytest.mark.parametrize("count", [3, 6])
def test_picture_is_drawn(tmp_path: Path, count: int) -> None:
    """One class and both. Damage: the curve is drawn without a positive, or one class has no histogram."""
    draw_roc(tmp_path / "roc.png", rows(PICTURES[:count]))
    picture = cv2.imread(str(tmp_path / "roc.png"))
    assert picture is not None
    right = picture[:, picture.shape[1] // 2 :].reshape(-1, 3)
    orange_and_blue = [(14, 127, 255), (180, 119, 31)]
    found = [bool((right == colour).all(axis=1).sum() > 500) for colour in orange_and_blue]
    assert found == [count == 6, True]
