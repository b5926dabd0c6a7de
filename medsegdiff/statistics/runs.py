"""95 % intervals of scores: a bootstrap over training runs and over clusters of test pictures.

The data are S training runs (the same settings, other seeds) scored on the same N test pictures. Pictures come in
clusters, of one patient or of near-duplicates, and are alike within them. Runs and clusters are crossed: every run saw
every cluster. One resample takes S runs with replacement and, independently, as many clusters as there are, with all
pictures of each; all sampled runs are measured on these same pictures, and the statistic is the mean over them. With
one run only clusters are sampled (`bootstrap`): Saravanan et al., "Application of the hierarchical bootstrap to
multi-level data in neuroscience", Neurons, Behavior, Data analysis, and Theory 3(5), 2020. Both factors are sampled
apart: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007. No bootstrap is exact for crossed
factors. This one counts the variance of what single runs do on single clusters up to three times: it errs towards
wider intervals there.

**What three seeds say.** That a result does not hang on one lucky seed, and roughly how far runs lie apart. They do
not measure the variance between runs: on average the bootstrap finds (S - 1) / S of it, two thirds, and no resample
leaves the range of the runs there are. Where runs alone differ, and pictures hardly matter, the interval of three runs
is their range, from lowest to highest, and holds the true mean in about 75 % of cases rather than 95 % (all three lie
on one side of it with probability 2 / 2^3). Where the spread over pictures outweighs that over runs, as it does for
the mean of an arm on a hundred pictures, this hardly shows. It shows most in a paired `contrast`, from which the
spread over pictures is gone. The runs themselves are therefore reported beside every interval
(`summary.per_run_means`).

Nothing here speaks of other training data: all runs learnt from the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medsegdiff.statistics.bootstrap import ROWS, Clusters, percentiles
from medsegdiff.statistics.interval import Interval

Columns = dict[str, np.ndarray]  # the scores of one run: name -> (N,), one entry a test picture
# Columns of one run and picture indices (K,), which may repeat -> a number; NaN where these pictures have none
Measure = Callable[[Columns, np.ndarray], float]

RUNS, BASELINE_RUNS = 2, 3  # purposes of random numbers


def mean_of(name: str) -> Measure:
    """The measure that is the mean of one column over pictures."""
    return lambda columns, index: float(columns[name][index].sum() / len(index))


def interval(runs: Sequence[Columns], measure: Measure, clusters: Sequence[str], resamples: int, seed: int) -> Interval:
    """`measure`, averaged over runs, and its interval; all runs have the same N pictures in the same order.

    `clusters` (N,) names the cluster of each picture. The same arguments give the same interval. One cluster alone
    gives an interval without width, which says nothing. Value, low and high are NaN where nothing is defined.
    Raises `ValueError` without runs or pictures, and where columns and clusters are not equally long.
    """
    _check(runs, clusters)
    samples = _resample_runs(_table(runs, measure, clusters, resamples, seed), seed, RUNS)
    return _interval(_mean(runs, measure), samples, len(clusters), len(runs))


class Contrast(NamedTuple):
    """One arm against another, paired by picture."""

    difference: Interval  # the arm minus the baseline
    ratio: Interval  # the arm over the baseline; undefined where the baseline is 0


def contrast(
    runs: Sequence[Columns],
    baseline_runs: Sequence[Columns],
    measure: Measure,
    clusters: Sequence[str],
    resamples: int,
    seed: int,
) -> Contrast:
    """`measure` of `runs` minus and over that of `baseline_runs`, each averaged over its runs, and their intervals.

    Paired by picture, which takes out how hard the pictures are: both arms are measured on the same sampled pictures.
    Runs of the arms are sampled independently, as a seed has no meaning across arms that were trained on different
    data. Raises `ValueError` as `interval` does.
    """
    _check(runs, clusters)
    _check(baseline_runs, clusters)
    table = _table([*runs, *baseline_runs], measure, clusters, resamples, seed)
    ours, others = (
        _resample_runs(table[:, : len(runs)], seed, RUNS),
        _resample_runs(table[:, len(runs) :], seed, BASELINE_RUNS),
    )
    our_mean, other_mean = (np.array([_mean(arm, measure)]) for arm in (runs, baseline_runs))
    counts = len(clusters), min(len(runs), len(baseline_runs))
    return Contrast(
        _interval(float((our_mean - other_mean)[0]), ours - others, *counts),
        _interval(float(_over(our_mean, other_mean)[0]), _over(ours, others), *counts),
    )


def _over(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.divide(ours, others, out=np.full_like(ours, np.nan), where=others != 0)


def _check(runs: Sequence[Columns], clusters: Sequence[str]) -> None:
    if not len(runs) or not len(clusters):
        raise ValueError("an interval needs a run and a picture")
    lengths = {len(column) for columns in runs for column in columns.values()}
    if lengths != {len(clusters)}:
        raise ValueError(f"columns of {sorted(lengths)} pictures beside clusters of {len(clusters)}")


def _mean(runs: Sequence[Columns], measure: Measure) -> float:
    everything = np.arange(len(next(iter(runs[0].values()))))
    return float(np.mean([measure(columns, everything) for columns in runs]))


def _table(runs: Sequence[Columns], measure: Measure, clusters: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """(resamples, S): what every run measures on the pictures of each resample."""
    sampled, random = Clusters.of(np.asarray(clusters)), np.random.default_rng([seed, ROWS])
    return np.array(
        [[measure(columns, index) for columns in runs] for index in map(sampled.resample, [random] * resamples)]
    )


def _resample_runs(table: np.ndarray, seed: int, purpose: int) -> np.ndarray:
    """(resamples,): in each row of `table` the mean over as many sampled columns as there are."""
    sampled = np.random.default_rng([seed, purpose]).integers(table.shape[1], size=table.shape)
    means: np.ndarray = np.take_along_axis(table, sampled, axis=1).mean(axis=1)
    return means


def _interval(value: float, samples: np.ndarray, pictures: int, runs: int) -> Interval:
    return Interval(value, *percentiles(samples), pictures, runs, float(np.isnan(samples).mean()))
