"""Distances between two sets of pictures, with the baseline that real pictures set among themselves, and intervals.

With a few hundred pictures every distance between sets is biased by how many there are, so the synthetic set and the
real held-out one are compared with train in equal numbers: `n` train pictures against `n` synthetic ones, and `n` train
against `n` held-out ones (the *baseline*: what a perfect generator would reach).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from medsegdiff.evaluation.section import Interval

SUBSETS = 10  # random choices of equal numbers, over which the figure is averaged
TRAIN, OTHER = 1, 2  # purposes of random numbers

# (n, F) features of real train pictures, (n, F) of the others -> figures by name
Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


@dataclass(frozen=True)
class Sample:
    """Features of one set, and which pictures belong together."""

    features: np.ndarray  # (N, F) float
    groups: np.ndarray  # (N,)


@dataclass(frozen=True)
class Comparison:
    """A figure of the synthetic set beside its baseline."""

    synthetic: Interval
    baseline: Interval
    n: int  # pictures on each side

    def within(self, lowest: float, highest: float) -> Comparison:
        """The same with intervals cut to what the figure can be."""
        return Comparison(self.synthetic.within(lowest, highest), self.baseline.within(lowest, highest), self.n)


def against_baseline(
    measure: Measure, train: Sample, held_out: Sample, synthetic: Sample, *, resamples: int, seed: int
) -> dict[str, Comparison]:
    """Every figure of `measure` for train against synthetic, and for train against held-out: its baseline.

    The value is the mean over `SUBSETS` random choices without replacement of n = the size of the smallest set. The
    interval comes from a bootstrap of both sides over groups, n pictures each; as pictures sampled twice push such
    distances up, the samples are shifted so that their mean is the value.
    """
    n = min(len(s.features) for s in (train, held_out, synthetic))
    sides = {"synthetic": synthetic, "baseline": held_out}
    found = {name: _measured(measure, train, other, n, resamples, seed) for name, other in sides.items()}
    return {name: Comparison(found["synthetic"][name], found["baseline"][name], n) for name in found["baseline"]}


def _measured(measure: Measure, train: Sample, other: Sample, n: int, resamples: int, seed: int) -> dict[str, Interval]:
    random = np.random.default_rng([seed, TRAIN])
    plain = [
        measure(train.features[_subset(train, n, random)], other.features[_subset(other, n, random)])
        for _ in range(SUBSETS)
    ]
    random = np.random.default_rng([seed, OTHER])
    resampled = [
        measure(train.features[_resample(train, n, random)], other.features[_resample(other, n, random)])
        for _ in range(resamples)
    ]
    return {
        name: centred_interval(np.mean([p[name] for p in plain]), np.array([d[name] for d in resampled]))
        for name in plain[0]
    }


def centred_interval(value: float | np.floating, resampled: np.ndarray) -> Interval:
    """95 % percentile interval of bootstrap samples, shifted so that their mean is `value`."""
    low, high = np.percentile(resampled - resampled.mean() + value, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def mean_interval(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of one number a picture, with a 95 % bootstrap interval over groups."""
    return statistic_interval(lambda rows: float(values[rows].mean()), groups, resamples, seed)


def statistic_interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, resamples: int, seed: int
) -> Interval:
    """A figure of (K,) row numbers, with a 95 % bootstrap interval over groups.

    Resamples in which it is not defined (NaN) are left out. Raises `ValueError` where it is defined in none.
    """
    random, everything = np.random.default_rng([seed, OTHER]), Sample(np.arange(len(groups)), groups)
    resampled = np.array([statistic(_resample(everything, len(groups), random)) for _ in range(resamples)])
    value, resampled = float(statistic(everything.features)), resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(resampled):
        raise ValueError("a figure that is not defined for these pictures")
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def pairs_interval(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of one number a pair of pictures, with a 95 % bootstrap interval over groups of pictures.

    `values` (K,); `groups` (K, 2), those of the two pictures of each pair. A picture that stands in several pairs is
    met in all of them, so pairs are not sampled on their own: groups are, as many as there are, and a pair counts as
    often as its two groups were sampled, multiplied. Resamples without any pair are left out; raises `ValueError` where
    none is left. Where chance lies in the single pairs rather than in their pictures, the interval is too wide.
    """
    _, number = np.unique(groups, return_inverse=True)
    first, second = number.reshape(groups.shape).T
    count = number.max() + 1
    resampled = np.random.default_rng([seed, OTHER]).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = (resampled[:, first] * resampled[:, second]).astype(float)  # (resamples, K)
    weights = weights[weights.any(axis=1)]
    if not len(weights):
        raise ValueError("no resample holds a pair")
    low, high = np.percentile(weights @ values / weights.sum(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _subset(sample: Sample, n: int, random: np.random.Generator) -> np.ndarray:
    return random.permutation(len(sample.features))[:n]


def _resample(sample: Sample, n: int, random: np.random.Generator) -> np.ndarray:
    """n row numbers: whole groups sampled with replacement until there are n, the last one cut."""
    _, number = np.unique(sample.groups, return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    rows: list[np.ndarray] = []
    count = 0
    while count < n:
        rows.append(members[random.integers(len(members))])
        count += len(rows[-1])
    return np.concatenate(rows)[:n]
