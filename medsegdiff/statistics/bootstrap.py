"""The bootstrap over clusters: pictures of one patient, or near-duplicates, are sampled together or not at all.

Whole clusters are sampled with replacement, and nothing within them (Davison and Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8). The interval is that of the percentiles (Efron and Tibshirani, "An Introduction to
the Bootstrap", 1993, section 13.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng

from medsegdiff.statistics.interval import Interval

CONFIDENCE = 0.95
ROWS, PAIRS = 1, 2  # purposes of random numbers

# Row numbers (K,), which may repeat -> a number; NaN where these rows have none
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Clusters:
    """N rows in K clusters, and how they are sampled."""

    number: np.ndarray  # (N,) of the cluster of each row
    members: np.ndarray  # (N,) row numbers, cluster by cluster
    sizes: np.ndarray  # (K,) rows of each cluster

    @classmethod
    def of(cls, groups: np.ndarray) -> Clusters:
        """Clusters by (N,) names."""
        _, number, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        return cls(number, np.argsort(number, kind="stable"), sizes)

    def resample(self, random: Generator) -> np.ndarray:
        """Row numbers of as many sampled clusters as there are, whole."""
        return self._rows(random.integers(len(self.sizes), size=len(self.sizes)))

    def resample_rows(self, count: int, random: Generator) -> np.ndarray:
        """`count` row numbers: cluster after cluster with replacement, the last one cut."""
        return self._until(random.integers(len(self.sizes), size=count), count)

    def subset(self, count: int, random: Generator) -> np.ndarray:
        """`count` row numbers: cluster after cluster without replacement, the last one cut.

        Single rows would thin near-duplicates out on the side of which fewer are taken, which then shows more scenes
        with as many pictures.
        """
        return self._until(random.permutation(len(self.sizes)), count)

    def times(self, resamples: int, random: Generator) -> np.ndarray:
        """(resamples, K) how often each cluster is sampled; for statistics that are sums, which need no row numbers."""
        count = len(self.sizes)
        return random.multinomial(count, np.full(count, 1 / count), size=resamples)

    def _until(self, sampled: np.ndarray, count: int) -> np.ndarray:
        enough = int(np.searchsorted(np.cumsum(self.sizes[sampled]), count)) + 1
        return self._rows(sampled[:enough])[:count]

    def _rows(self, sampled: np.ndarray) -> np.ndarray:
        """All members of the sampled clusters (M,)."""
        counts = self.sizes[sampled]
        first = (np.cumsum(self.sizes) - self.sizes)[sampled]  # where each cluster begins in `members`
        # the k-th row of a sampled cluster stands at first + k, where k is its place minus where the cluster begins
        places = np.repeat(first - (np.cumsum(counts) - counts), counts)
        rows: np.ndarray = self.members[places + np.arange(len(places))]
        return rows


def percentiles(samples: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % interval of bootstrap samples; those without a value (NaN) are left out, NaN where all
    are."""
    defined = samples[~np.isnan(samples)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [tail, 100 - tail]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def centred_interval(value: float | np.floating, samples: np.ndarray) -> Interval:
    """95 % interval of samples, shifted so that their mean is `value`: what sampling twice adds is taken out."""
    return Interval(float(value), *percentiles(samples - samples.mean() + value))


def statistic_interval(statistic: Statistic, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """A statistic of N rows with its 95 % interval over their `groups` (N,).

    Resamples in which it is not defined (NaN) are left out. Raises `ValueError` where it is defined in none.
    """
    clusters, random = Clusters.of(groups), default_rng([seed, ROWS])
    samples = np.array([statistic(clusters.resample(random)) for _ in range(resamples)])
    value = float(statistic(np.arange(len(groups))))
    if np.isnan(value) or np.isnan(samples).all():
        raise ValueError("a figure that is not defined for these pictures")
    return Interval(value, *percentiles(samples))


def mean_interval(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of one number a picture (N,), with its 95 % interval over `groups` (N,)."""
    return statistic_interval(lambda rows: float(values[rows].mean()), groups, resamples, seed)


def pairs_interval(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of one number a pair of pictures, with a 95 % bootstrap interval over groups of pictures.

    `values` (K,); `groups` (K, 2), those of the two pictures of each pair. A picture that stands in several pairs is
    met in all of them, so pairs are not sampled on their own: groups are, as many as there are, and a pair counts as
    often as its two groups were sampled, multiplied. Resamples without any pair are left out; raises `ValueError` where
    none is left. Where chance lies in the single pairs rather than in their pictures, the interval is too wide.
    """
    clusters = Clusters.of(groups.ravel())
    first, second = clusters.number.reshape(groups.shape).T
    sampled = clusters.times(resamples, default_rng([seed, PAIRS]))
    weights = (sampled[:, first] * sampled[:, second]).astype(float)  # (resamples, K)
    weights = weights[weights.any(axis=1)]
    if not len(weights):
        raise ValueError("no resample holds a pair")
    return Interval(float(values.mean()), *percentiles(weights @ values / weights.sum(axis=1)))


def equal_subsets(first: np.ndarray, second: np.ndarray, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of equally many pictures of two sides, as many as the smaller one has, by the groups of each."""
    count = min(len(first), len(second))
    return Clusters.of(first).subset(count, random), Clusters.of(second).subset(count, random)


def resample_choices(
    alone: np.ndarray, first: np.ndarray, second: np.ndarray, random: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of one resample of three sets, given the groups of each: of the last two a new `equal_subsets`."""
    rows = (np.arange(len(alone)), *equal_subsets(first, second, random))
    sampled = [
        r[Clusters.of(groups[r]).resample_rows(len(r), random)]
        for r, groups in zip(rows, (alone, first, second), strict=True)
    ]
    return sampled[0], sampled[1], sampled[2]
