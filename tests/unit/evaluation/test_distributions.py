"""Distances, tests and differences of single numbers: closed forms and hand-worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.evaluation.metrics.distributions import column_distances, missing, preserved, spread, together
from medsegdiff.statistics.comparisons import Sample, difference_of_means, holm, same_distribution
from medsegdiff.statistics.interval import Interval


def sample(values: object, groups: object = None) -> Sample:
    """Features with a group of its own for every picture, where none are given."""
    features = np.asarray(values, dtype=np.float64)
    return Sample(features, np.arange(len(features)) if groups is None else np.asarray(groups))


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling. Damage: Bonferroni's 4 for all, or
    0.04 that stays below the 0.06 before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_shift_is_its_own_distance() -> None:
    """Held-out equals train, synthetic is train plus 3: 3 / scale, and a baseline of 0. Damage: the scale is
    forgotten, or if synthetic and held-out are mixed up."""
    values = np.tile(np.arange(40.0)[:, None], (1, 2))
    sets = [sample(values), sample(values), sample(values + np.array([3, 0]))]
    found = column_distances(sets, ["a", "b"], np.array([2.0, 1.0]), resamples=20, seed=0)
    assert found["a"].synthetic.value == pytest.approx(1.5)
    assert found["a"].baseline.value == pytest.approx(0)
    assert found["b"].synthetic.value == pytest.approx(0)


def test_pictures_without_a_value_are_left_out_of_their_column_alone() -> None:
    """Damage: one empty cell takes its picture out of all columns, or gets into a distance."""
    values = np.tile(np.arange(40.0)[:, None], (1, 2))
    holed = values.copy()
    holed[:15, 1] = np.nan
    found = column_distances(
        [sample(values), sample(values), sample(holed)], ["a", "b"], np.ones(2), resamples=9, seed=0
    )
    assert (found["a"].n, found["b"].n) == (40, 25)
    assert found["a"].synthetic.value == pytest.approx(0)
    assert found["b"].synthetic.value > 4


def test_columns_that_cannot_be_compared_say_why() -> None:
    """Damage: a column of too few values, or without spread, is compared."""
    values = np.tile(np.arange(40.0)[:, None], (1, 2))
    holed = values.copy()
    holed[5:, 1] = np.nan
    sets = [sample(values), sample(values), sample(holed)]
    assert list(column_distances(sets, ["a", "b"], np.ones(2), resamples=5, seed=0)) == ["a"]
    assert missing(sets, 0, np.ones(2)) is None
    assert "5 pictures" in str(missing(sets, 1, np.ones(2)))
    assert "the same in all" in str(missing(sets, 0, np.zeros(2)))
    assert spread(np.array([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]])).tolist() == [1.0, 0.0, 0.0]
    assert together([("a", "x"), ("b", None), ("c", "x")]) == {"x": "a, c"}


def test_near_duplicates_count_once() -> None:
    """Ten copies of 12 pictures as 12 groups: the p of 12. Damage: all 120 are tested, which makes p small."""
    first, second = np.arange(12.0), np.arange(12.0) + 4
    once = same_distribution(sample(first), sample(second))
    copied = same_distribution(sample(np.repeat(first, 10), np.repeat(np.arange(12), 10)), sample(second))
    assert copied == pytest.approx(once)
    assert same_distribution(sample(np.repeat(first, 10)), sample(second)) < 0.5 * once


def test_difference_of_means_has_the_normal_interval() -> None:
    """Difference +- 1.96 standard errors of both sides. Damage: one side's spread is left out, or copies count."""
    random = np.random.default_rng(0)
    a, b = random.normal(2, 1, 200), random.normal(0, 2, 100)
    found = difference_of_means(sample(np.repeat(a, 3), np.repeat(np.arange(200), 3)), sample(b), 4000, 0)
    half = 1.96 * np.sqrt(a.var() / 200 + b.var() / 100)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], abs=0.1 * half)


@pytest.mark.parametrize(
    ("real", "synthetic", "outcome"),
    [
        ((-1, 2), (4, 5), "none in real"),
        ((2, 4), (3, 5), "kept"),
        ((2, 4), (0.5, 1), "kept (weaker)"),
        ((-4, -2), (-8, -6), "kept (stronger)"),
        ((2, 4), (-1, 1), "lost"),
        ((2, 4), (-1, 3), "too few pictures to decide"),
        ((2, 4), (-3, -1), "reversed"),
    ],
)
def test_what_is_left_of_a_difference(real: tuple[float, float], synthetic: tuple[float, float], outcome: str) -> None:
    """Damage: signs are ignored, or a wide interval passes for a lost difference."""
    intervals = [Interval(sum(ends) / 2, *ends) for ends in (real, synthetic)]
    assert preserved(*intervals) == outcome
