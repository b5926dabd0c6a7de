"""Bootstrap intervals over runs and clusters: closed forms, simulated coverage, what is sampled with what."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from medsegdiff.statistics.runs import Columns, Interval, contrast, interval, mean_of

MEAN = mean_of("score")


def run_of(values: object) -> Columns:
    """One run with these scores, one a picture."""
    return {"score": np.asarray(values, dtype=np.float64)}


def alone(count: int) -> list[str]:
    """Every picture a cluster of its own."""
    return [f"{number:03}" for number in range(count)]


class Recorder:
    """A measure that remembers the pictures that it was asked for, and of which run."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, list[int]]] = []

    def __call__(self, columns: Columns, index: np.ndarray) -> float:
        """The score of the run, which is one number."""
        self.asked.append((float(columns["score"][0]), index.tolist()))
        return float(columns["score"][0])


def test_one_run_has_the_normal_interval() -> None:
    """400 pictures: mean +- 1.96 standard errors. Damage: a 90 % interval, or sums instead of means."""
    values = np.random.default_rng(1).normal(0.7, 0.2, size=400)
    found = interval([run_of(values)], MEAN, alone(400), 4000, seed=3)
    half = 1.96 * float(values.std()) / 20
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], abs=0.1 * half)
    assert (found.n, found.runs, found.undefined) == (400, 1, 0)


def test_crossed_runs_and_pictures_have_the_exact_variance() -> None:
    """The bootstrap variance of a crossed mean is known: tr(X V X' W) / (SN)^2 - mean^2.

    W = I + (1 - 1/S) 11' are second moments of how often each run is sampled, and V those of pictures (multinomial).

    Damage: runs are sampled anew for every picture, or are not sampled at all.
    """
    random = np.random.default_rng(0)
    runs, pictures = 12, 60
    x = random.normal(0, 0.3, (runs, 1)) + random.normal(0, 0.5, (1, pictures)) + random.normal(0, 1, (runs, pictures))
    W = np.eye(runs) + (1 - 1 / runs)
    V = np.eye(pictures) + (1 - 1 / pictures)
    variance = float(np.trace(x @ V @ x.T @ W)) / (runs * pictures) ** 2 - x.mean() ** 2
    found = interval([run_of(row) for row in x], MEAN, alone(pictures), 4000, seed=1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.06)


def test_copies_of_pictures_say_nothing_new() -> None:
    """Five copies of each of 40 pictures, as clusters: the interval of 40 pictures. Damage: pictures are sampled one
    by one, which would make it narrower by the square root of 5."""
    values = np.random.default_rng(2).normal(0.5, 0.1, size=40)
    copied, clusters = run_of(np.tile(values, 5)), alone(40) * 5
    once = interval([run_of(values)], MEAN, alone(40), 500, seed=0)
    found = interval([copied], MEAN, clusters, 500, seed=0)
    assert [found.value, found.low, found.high] == pytest.approx([once.value, once.low, once.high])
    assert found.n == 200
    apart = interval([copied], MEAN, alone(200), 500, seed=0)
    assert apart.high - apart.low < 0.6 * (found.high - found.low)


def test_a_resample_is_whole_clusters_the_same_for_all_runs() -> None:
    """Clusters of 1, 2 and 3 pictures, shuffled. Damage: a member of a sampled cluster is missing, or if runs or arms
    see different pictures."""
    clusters = list("cabcbc")
    members = {name: [i for i, c in enumerate(clusters) if c == name] for name in "abc"}
    seen = Recorder()
    contrast([run_of([k] * 6) for k in (0, 1)], [run_of([2] * 6)], seen, clusters, 30, seed=0)
    sampled = {
        run: [index for who, index in seen.asked if who == run and sorted(index) != list(range(6))] for run in range(3)
    }
    assert sampled[0] == sampled[1] == sampled[2]
    assert len({len(index) for index in sampled[0]}) > 1
    for index in sampled[0]:
        times = {name: index.count(places[0]) for name, places in members.items()}
        assert sum(times.values()) == 3
        assert sorted(index) == sorted(i for name, places in members.items() for i in places * times[name])


def test_three_runs_that_differ_give_their_range() -> None:
    """Every picture alike, runs 0.70, 0.74 and 0.81: as the docstring says. Damage: the runs are averaged before the
    bootstrap, which leaves no width."""
    runs = [run_of([value] * 10) for value in (0.70, 0.81, 0.74)]
    found = interval(runs, MEAN, alone(10), 1000, seed=0)
    assert [found.value, found.low, found.high] == pytest.approx([0.75, 0.70, 0.81])
    assert (found.n, found.runs) == (10, 3)


def test_three_times_the_same_run_is_one_run() -> None:
    """Only pictures differ. Damage: each sampled run gets pictures of its own, which would narrow the interval."""
    run = run_of(np.random.default_rng(4).random(30))
    once = interval([run], MEAN, alone(30), 300, seed=5)
    found = interval([run] * 3, MEAN, alone(30), 300, seed=5)
    assert [found.value, found.low, found.high] == pytest.approx([once.value, once.low, once.high])


def test_the_seed_decides() -> None:
    """Same seed, same interval. Damage: pictures or runs are sampled by a generator without the seed."""
    random = np.random.default_rng(0)
    pictures_differ = [run_of(random.random(20))]
    runs_differ = [run_of([value] * 20) for value in random.random(9)]
    for runs in (pictures_differ, runs_differ):
        found = [interval(runs, MEAN, alone(20), 200, seed) for seed in (1, 1, 2)]
        assert found[0] == found[1]
        assert found[0] != found[2]


def test_difference_is_paired_by_picture() -> None:
    """Every picture 0.1 better: no width. Damage: the arms are measured on different pictures, or the sign turns."""
    hard = np.random.default_rng(0).random(25)
    found = contrast([run_of(hard + 0.1)], [run_of(hard)], MEAN, alone(25), 300, seed=0).difference
    assert [found.value, found.low, found.high] == pytest.approx([0.1] * 3)
    same = contrast([run_of(hard)], [run_of(hard)], MEAN, alone(25), 300, seed=0).difference
    assert same == Interval(0.0, 0.0, 0.0, 25, 1, 0.0)


def test_ratio_is_paired_by_picture() -> None:
    """Every picture 0.9 of the other: no width. Damage: the arms are measured on different pictures, change places, or
    the ratios of pictures are averaged; and if a baseline of 0 gives a number."""
    hard = np.random.default_rng(0).random(25)
    found = contrast([run_of(0.9 * hard)], [run_of(hard)], MEAN, alone(25), 300, seed=0).ratio
    assert [found.value, found.low, found.high] == pytest.approx([0.9] * 3)
    shifted = contrast([run_of(hard + 0.1)], [run_of(hard)], MEAN, alone(25), 300, seed=0).ratio
    assert shifted.value == pytest.approx((hard.mean() + 0.1) / hard.mean())
    nothing = contrast([run_of([1, 1])], [run_of([0, 1])], MEAN, alone(2), 300, seed=0).ratio
    assert nothing.undefined == pytest.approx(0.25, abs=0.1)


def test_runs_of_two_arms_are_drawn_apart() -> None:
    """The same two runs, 0 and 1, in both arms: differences reach from -1 to 1. Damage: runs are paired by seed, which
    would find no doubt at all."""
    runs = [run_of([value] * 5) for value in (0, 1)]
    found = contrast(runs, runs, MEAN, alone(5), 500, seed=0).difference
    assert [found.value, found.low, found.high] == pytest.approx([0, -1, 1])
    three = contrast([*runs, runs[0]], runs, MEAN, alone(5), 500, seed=0).difference
    assert three.runs == 2


def both_classes(columns: Columns, index: np.ndarray) -> float:
    """The mean score, where both classes are there."""
    return MEAN(columns, index) if len(set(columns["label"][index].tolist())) == 2 else math.nan


def test_resamples_without_a_value_are_left_out() -> None:
    """Two pictures of each class: 1 in 8 resamples has one class only. Damage: one NaN makes the interval NaN, or if
    those left out are not counted."""
    run = run_of([0.1, 0.2, 0.3, 0.4]) | {"label": np.array(list("aabb"))}
    found = interval([run], both_classes, alone(4), 2000, seed=0)
    assert found.undefined == pytest.approx(1 / 8, abs=0.03)
    assert 0.1 < found.low < found.value < found.high < 0.4
    nothing = interval([run | {"label": np.array(list("aaaa"))}], both_classes, alone(4), 20, seed=0)
    assert nothing.undefined == 1
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_coverage() -> None:
    """100 simulated test sets: 3 runs, 30 clusters of 4 like pictures, the truth is 0. Damage: pictures are sampled
    without regard to clusters (covers about two thirds), or with a 68 % interval."""
    clusters = np.repeat(alone(30), 4).tolist()
    inside = {"clusters": 0, "pictures": 0}
    for number in range(100):
        random = np.random.default_rng([11, number])
        hard = np.repeat(random.normal(0, 0.2, 30), 4) + random.normal(0, 0.05, 120)
        runs = [run_of(hard + random.normal(0, 0.01) + random.normal(0, 0.05, 120)) for _ in range(3)]
        for name, groups in (("clusters", clusters), ("pictures", alone(120))):
            found = interval(runs, MEAN, groups, 100, seed=number)
            inside[name] += found.low <= 0 <= found.high
    assert 88 < inside["clusters"] < 99
    assert inside["pictures"] < 80


def test_what_does_not_fit_is_refused() -> None:
    """Damage: clusters of other pictures, no runs, or a shorter run are accepted."""
    run = run_of([1, 2, 3])
    with pytest.raises(ValueError, match="clusters of 2"):
        interval([run], MEAN, alone(2), 10, seed=0)
    with pytest.raises(ValueError, match="needs a run"):
        interval([], MEAN, alone(2), 10, seed=0)
    with pytest.raises(ValueError, match=r"columns of \[2, 3\]"):
        interval([run, run_of([1, 2])], MEAN, alone(3), 10, seed=0)
    with pytest.raises(ValueError, match="needs a run"):
        contrast([run], [], MEAN, alone(3), 10, seed=0)
    assert dataclasses.astuple(interval([run], MEAN, ["a"] * 3, 10, seed=0)) == (2, 2, 2, 3, 1, 0)
