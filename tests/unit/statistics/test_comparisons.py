"""Distances beside their floor, and intervals over groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from medsegdiff.statistics.bootstrap import centred_interval, mean_interval, pairs_interval, statistic_interval
from medsegdiff.statistics.comparisons import SUBSETS, Sample, against_baseline
from medsegdiff.statistics.interval import Interval, number


def mean_distance(first: np.ndarray, second: np.ndarray) -> Mapping[str, float]:
    """Distance of means."""
    return {"mean": float(abs(first.mean() - second.mean()))}


def sample(count: int, seed: int, shift: float = 0.0) -> Sample:
    """(count, 2) normal features, each picture a group."""
    features = np.random.default_rng(seed).normal(shift, 1, (count, 2))
    return Sample(features, np.array([f"{seed}/{i}" for i in range(count)]))


def test_both_sides_are_equally_many() -> None:
    """Damage: the synthetic set is compared with more pictures than the floor is."""
    seen: list[tuple[int, int]] = []

    def measure(first: np.ndarray, second: np.ndarray) -> Mapping[str, float]:
        seen.append((len(first), len(second)))
        return {"x": 0.0}

    found = against_baseline(measure, sample(50, 1), sample(30, 2), sample(200, 3), resamples=7, seed=0)
    assert set(seen) == {(30, 30)}
    assert len(seen) == 2 * (SUBSETS + 7)
    assert found["x"].n == 30


def test_a_shift_stands_out_of_the_baseline_and_no_shift_does_not() -> None:
    """Damage: floor and synthetic are swapped, or both are measured on the same set."""
    train, held = sample(100, 1), sample(100, 2)
    moved = against_baseline(mean_distance, train, held, sample(100, 3, shift=2.0), resamples=100, seed=0)["mean"]
    alike = against_baseline(mean_distance, train, held, sample(100, 4), resamples=100, seed=0)["mean"]
    assert moved.synthetic.value == pytest.approx(2, abs=0.3)
    assert moved.synthetic.low > moved.baseline.high
    assert alike.synthetic.low < alike.baseline.high
    assert moved.baseline.low <= moved.baseline.value <= moved.baseline.high


def test_the_value_is_that_of_the_sets_where_all_are_equally_large() -> None:
    """Damage: the value comes from resamples, whose repetitions push distances up."""
    train, held, own = sample(40, 1), sample(40, 2), sample(40, 3)
    found = against_baseline(mean_distance, train, held, own, resamples=5, seed=0)["mean"]
    assert found.synthetic.value == pytest.approx(mean_distance(train.features, own.features)["mean"])


def test_one_seed_gives_one_result() -> None:
    """Damage: chance comes from anywhere but the seed."""
    sets = (sample(40, 1), sample(30, 2), sample(50, 3))
    first = against_baseline(mean_distance, *sets, resamples=20, seed=4)
    assert first == against_baseline(mean_distance, *sets, resamples=20, seed=4)
    assert first != against_baseline(mean_distance, *sets, resamples=20, seed=5)


def test_centred_interval_takes_the_width_and_leaves_the_bias() -> None:
    """Damage: samples that lie above the value move the interval with them."""
    found = centred_interval(1.0, np.linspace(4, 6, 201))
    assert (found.low, found.high) == pytest.approx((0.05, 1.95))


def test_groups_are_drawn_whole() -> None:
    """Damage: pictures of one group are sampled one by one: the interval would be as narrow as of forty pictures."""
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 10)
    whole = mean_interval(values, np.repeat(["a", "b", "c", "d"], 10), 500, 0)
    single = mean_interval(values, np.arange(40).astype(str), 500, 0)
    assert whole.value == single.value == 0.5
    assert whole.high - whole.low > 2 * (single.high - single.low)


def pairs_of(count: int) -> np.ndarray:
    """(K, 2) all pairs of `count` pictures."""
    return np.stack(np.triu_indices(count, k=1), axis=1)


def test_pictures_stand_in_several_pairs() -> None:
    """Damage: pairs are sampled on their own: of 100 sets of 15 pictures, half of the intervals would miss the
    mean."""
    random, pairs = np.random.default_rng(0), pairs_of(15)
    held, alone = 0, 0
    for _ in range(100):
        values = random.normal(size=15)[pairs].mean(axis=1)  # what a pair is worth comes from its pictures
        found = pairs_interval(values, pairs.astype(str), 200, 0)
        held += found.low <= 0 <= found.high
        half = 1.96 * values.std() / np.sqrt(len(values))  # of an interval over independent pairs
        alone += abs(values.mean()) <= half
    assert held >= 88
    assert alone < 60


def test_groups_of_pairs_are_drawn_whole() -> None:
    """Damage: pictures of a group are sampled one by one: the interval would be that of thrice as many pictures."""
    pairs, worth = pairs_of(36), np.repeat(np.random.default_rng(0).normal(size=12), 3)
    pairs = pairs[pairs[:, 0] // 3 != pairs[:, 1] // 3]
    whole = pairs_interval(worth[pairs].mean(axis=1), pairs // 3, 500, 0)
    single = pairs_interval(worth[pairs].mean(axis=1), pairs, 500, 0)
    assert whole.value == single.value
    assert whole.high - whole.low > 1.4 * (single.high - single.low)


def test_resamples_without_a_pair_are_left_out() -> None:
    """Damage: a resample of one picture of two, sampled twice, divides by zero."""
    assert pairs_interval(np.array([0.25]), np.array([["a", "b"]]), 30, 0) == Interval(0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no resample"):
        pairs_interval(np.array([0.25]), np.array([["a", "b"]]), 0, 0)


def test_undefined_resamples_are_left_out_and_an_undefined_value_is_refused() -> None:
    """Damage: NaN reaches an interval."""
    groups = np.array(["a", "b", "c"])
    found = statistic_interval(lambda rows: np.nan if 0 not in rows else float(len(rows)), groups, 50, 0)
    assert found == Interval(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="not defined"):
        statistic_interval(lambda rows: np.nan, groups, 5, 0)


def test_an_interval_stays_within_what_a_share_can_be() -> None:
    """Damage: only one side is cut: the lower bound of a share of 0 would lie above the upper one."""
    assert Interval(0.0, -0.2, -0.1).within(0, 1) == Interval(0.0, 0.0, 0.0)
    assert Interval(0.9, 0.8, 1.2).within(0, 1) == Interval(0.9, 0.8, 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.1234, "0.123"), (12.34, "12.3"), (1234.5, "1234"), (0.00012, "1.2e-04"), (-3.14159, "-3.142")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """Damage: a small number is rounded to nothing, or a large one has digits that mean nothing."""
    assert number(value) == text


def test_what_is_no_number_has_no_place_in_a_table() -> None:
    """Damage: NaN is written as a figure."""
    with pytest.raises(ValueError, match="no place"):
        number(float("nan"))
