"""Two sets of pictures against each other: distances beside the real-vs-real baseline, differences, tests.

With a few hundred pictures every distance between sets is biased by how many there are, so the synthetic set and the
real held-out one are compared with train in equal numbers: `n` train pictures against `n` synthetic ones, and `n` train
against `n` held-out ones (the *baseline*: what a perfect generator would reach).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

from medsegdiff.statistics.bootstrap import Clusters, centred_interval, percentiles
from medsegdiff.statistics.interval import Interval

SUBSETS = 10  # random choices of equal numbers, over which the figure is averaged
SUBSET, SAMPLE_STREAM = 1, 2  # purposes of random numbers of one side, ...
FIRST, SECOND = 1, 2  # ... and of a difference

# (n, F) features of real train pictures, (n, F) of the others -> figures by name
Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]


@dataclass(frozen=True)
class Sample:
    """Features of one set, and which pictures belong together."""

    features: np.ndarray  # (N, F) float
    groups: np.ndarray  # (N,)


@dataclass(frozen=True)
class Comparison:
    """A figure of the synthetic set beside its real-vs-real baseline."""

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
    random = np.random.default_rng([seed, SUBSET])
    plain = [
        measure(*(side.features[random.permutation(len(side.features))[:n]] for side in (train, other)))
        for _ in range(SUBSETS)
    ]
    random, sides = (
        np.random.default_rng([seed, SAMPLE_STREAM]),
        [(s.features, Clusters.of(s.groups)) for s in (train, other)],
    )
    samples = [
        measure(*(features[clusters.resample_rows(n, random)] for features, clusters in sides))
        for _ in range(resamples)
    ]
    return {
        name: centred_interval(np.mean([p[name] for p in plain]), np.array([d[name] for d in samples]))
        for name in plain[0]
    }


def same_distribution(first: Sample, second: Sample) -> float:
    """p of the two-sample Kolmogorov-Smirnov test of (N,) and (K,) values, of the first picture of every group.

    Near-duplicates and pictures of one patient are not independent, and would make p too small.
    """
    once = [s.features[np.unique(s.groups, return_index=True)[1]] for s in (first, second)]
    return float(ks_2samp(*once).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number by the step-down method of Holm (Scandinavian J. Statistics 6, 1979).

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it, nor above 1.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(v) for v in corrected]


def difference_of_means(first: Sample, second: Sample, resamples: int, seed: int) -> Interval:
    """Mean of (N,) values minus that of (K,) others, with a 95 % percentile interval over groups of both.

    As many whole groups are sampled as there are, independently on both sides.
    """
    samples = _resampled_means(first, resamples, [seed, FIRST]) - _resampled_means(second, resamples, [seed, SECOND])
    return Interval(float(first.features.mean() - second.features.mean()), *percentiles(samples))


def _resampled_means(sample: Sample, resamples: int, seed: Sequence[int]) -> np.ndarray:
    """(resamples,) means over sampled groups."""
    clusters = Clusters.of(sample.groups)
    times = clusters.times(resamples, np.random.default_rng(seed))
    sums = np.bincount(clusters.number, weights=sample.features)
    return np.asarray((times @ sums) / (times @ clusters.sizes))
