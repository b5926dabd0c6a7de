"""Summaries, comparisons and tables of repeated runs, by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from medsegdiff.downstream.summary import (
    compare,
    comparison_lines,
    label_subgroups,
    per_run_means,
    summarise,
    summary_lines,
)
from medsegdiff.statistics.runs import Columns, Measure, mean_of


@dataclass(frozen=True)
class Picture:
    """A row of scores."""

    id: str
    group: str
    label: str
    dice: float
    hd95: float


def run_of(scores: dict[str, float], label: str = "benign") -> list[Picture]:
    """Rows of pictures with these Dice scores; every picture a group of its own, hd95 a hundred times Dice."""
    return [Picture(id, f"group of {id}", label, dice, 100 * dice) for id, dice in scores.items()]


def spread(columns: Columns, index: np.ndarray) -> float:
    """Largest minus smallest Dice; needs two different values."""
    values = columns["dice"][index]
    return float(np.ptp(values)) or math.nan


MEASURES: dict[str, Measure] = {"dice": mean_of("dice"), "hd95": mean_of("hd95"), "spread": spread}
FIRST = run_of({"a": 0.2, "b": 0.4, "c": 0.9})
SECOND = run_of({"c": 0.7, "a": 0.4, "b": 0.4})  # the same pictures in another order
SUBGROUPS = {"all": np.arange(3), "tail": np.array([1, 2]), "last": np.array([2])}


def test_label_subgroups() -> None:
    """Damage: the class without a name gets a subgroup, or classes come in the order of their appearance."""
    found = {name: index.tolist() for name, index in label_subgroups(["m", "", "b", "m"]).items()}
    assert list(found.items()) == [("all", [0, 1, 2, 3]), ("b", [2]), ("m", [0, 3])]


def test_summary_by_hand() -> None:
    """Means over two runs and the pictures of a subgroup. Damage: subgroups index each run in its own order."""
    found = summarise([FIRST, SECOND], MEASURES, SUBGROUPS, 50, seed=0)
    assert found["all"]["dice"]["value"] == pytest.approx(0.5)
    assert found["tail"]["dice"]["value"] == pytest.approx((0.4 + 0.9 + 0.4 + 0.7) / 4)
    assert found["last"]["hd95"] == pytest.approx(
        {"value": 80, "low": 70, "high": 90, "n": 1, "runs": 2, "undefined": 0}
    )
    assert found["all"]["spread"]["value"] == pytest.approx((0.7 + 0.3) / 2)
    assert found["tail"]["spread"]["undefined"] == pytest.approx(0.5, abs=0.2)
    assert "spread" not in found["last"]


def test_groups_are_the_clusters() -> None:
    """One group of all pictures: nothing to sample. Damage: ids are taken for clusters."""
    together = [Picture(row.id, "one", row.label, row.dice, row.hd95) for row in FIRST]
    cell = summarise([together], MEASURES, SUBGROUPS, 50, seed=0)["all"]["dice"]
    assert [cell["low"], cell["high"]] == pytest.approx([0.5, 0.5])
    apart = summarise([FIRST], MEASURES, SUBGROUPS, 50, seed=0)["all"]["dice"]
    assert apart["low"] < 0.4 < 0.6 < apart["high"]
    paired = compare([together], [SECOND], MEASURES, SUBGROUPS, 50, seed=0)["all"]["dice"]["difference"]
    assert [paired["low"], paired["high"]] == pytest.approx([0, 0])


def test_means_of_each_run() -> None:
    """Damage: runs are averaged, or a metric that has no value in a subgroup is reported as NaN."""
    found = per_run_means([FIRST, SECOND], MEASURES, SUBGROUPS)
    assert found["tail"]["dice"] == pytest.approx([0.65, 0.55])
    assert list(found["last"]) == ["dice", "hd95"]


def test_comparison_is_paired_by_id() -> None:
    """Every picture 0.1 better, in another order: no width. Damage: pictures are paired by their place, or if the
    difference is baseline - run."""
    better = run_of({"b": 0.5, "c": 1.0, "a": 0.3})
    found = compare([better], [FIRST], MEASURES, {"all": np.arange(3), "first": np.array([0])}, 50, seed=0)
    cell = found["all"]["dice"]
    assert [cell["run"], cell["baseline"]] == pytest.approx([0.6, 0.5])
    assert [cell["difference"][key] for key in ("value", "low", "high")] == pytest.approx([0.1] * 3)
    assert (cell["difference"]["n"], cell["difference"]["runs"]) == (3, 1)
    assert cell["ratio"]["value"] == pytest.approx(1.2)
    assert 1 / 0.9 - 1e-9 <= cell["ratio"]["low"] < 1.2 < cell["ratio"]["high"] <= 1.5 + 1e-9
    assert found["first"]["dice"]["run"] == pytest.approx(0.5)
    assert "spread" not in found["first"]


def test_other_pictures_are_refused() -> None:
    """Damage: runs of different pictures are cut down to those they share, or an id may come twice."""
    other = run_of({"a": 0.2, "b": 0.4, "d": 0.9})
    with pytest.raises(ValueError, match="other pictures: 'c'"):
        compare([FIRST], [other], MEASURES, SUBGROUPS, 10, seed=0)
    with pytest.raises(ValueError, match="other pictures: 'c'"):
        summarise([FIRST, other], MEASURES, SUBGROUPS, 10, seed=0)
    with pytest.raises(ValueError, match="same id"):
        per_run_means([FIRST + FIRST], MEASURES, SUBGROUPS)


def cell_of(mean: float, low: float, high: float, undefined: float = 0.0) -> dict[str, float]:
    """An interval as `summarise` says it."""
    return {"value": mean, "low": low, "high": high, "n": 7, "runs": 2, "undefined": undefined}


def test_summary_table() -> None:
    """Damage: hd95 gets three decimals, a run has no line of its own, a missing metric shifts the columns, or
    undefined resamples go unconditioned."""
    summary = {
        "all": {"dice": cell_of(0.5, 0.4, 0.6), "hd95": cell_of(12.34, 10, 15), "auc": cell_of(0.9, 0.8, 1, 0.06)},
        "benign": {"dice": cell_of(0.25, 0.2, 0.3), "hd95": cell_of(9.99, 9, 11)},
    }
    means = {"all": {"dice": [0.45, 0.55], "hd95": [12.0, 13.0], "auc": [0.9, 0.9]}, "benign": {"dice": [0.2, 0.3]}}
    assert summary_lines(summary, means, ["seed_0", "seed_1"]) == [
        "                n  dice                   hd95                   auc",
        "all             7  0.500 [0.400, 0.600]   12.3 [10.0, 15.0]      0.900 [0.800, 1.000]*",
        "  seed_0           0.450                  12.0                   0.900",
        "  seed_1           0.550                  13.0                   0.900",
        "benign          7  0.250 [0.200, 0.300]   10.0 [9.0, 11.0]       -",
        "  seed_0           0.200                  -                      -",
        "  seed_1           0.300                  -                      -",
        "* more than 5% of the resamples have no value; the interval leaves them out",
    ]
    single = summary_lines({"benign": summary["benign"]}, means, ["seed_0"])
    assert single == [
        "                n  dice                   hd95",
        "benign          7  0.250 [0.200, 0.300]   10.0 [9.0, 11.0]",
    ]


def test_comparison_table() -> None:
    """Damage: the sign of a gain is not reported, or run and baseline change places."""
    subgroups: dict[str, Any] = {
        "all": {
            "dice": {"run": 0.6, "baseline": 0.5, "difference": cell_of(0.1, -0.01, 0.2)},
            "hd95": {"run": 10.04, "baseline": 12.06, "difference": cell_of(-2.02, -4, -1)},
        }
    }
    subgroups["all"]["dice"]["ratio"] = cell_of(1.2, 0.98, 1.4)
    assert comparison_lines(subgroups) == [
        "            metric        this run  baseline  difference [95 % interval]  ratio",
        "all         dice             0.600     0.500  +0.100 [-0.010, +0.200]     1.200 [0.980, 1.400]",
        "all         hd95              10.0      12.1  -2.0 [-4.0, -1.0]           -",
    ]
