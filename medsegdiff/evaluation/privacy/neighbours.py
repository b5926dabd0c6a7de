"""Are synthetic pictures nearer to the pictures learnt than to real ones that were not? Statistics of similarity.

Without copying, the nearest real picture of a synthetic one is a train picture as often as a held-out one, where there
are equally many of both (Meehan et al. 2020, "A non-parametric test to detect data-copying in generative models",
compare the same two distances). A copy is a picture beyond the limit that 95 % of held-out pictures, which cannot be
copies, stay below in their similarity to train (Dar et al. 2025, "Unconditional latent diffusion models memorize
patient imaging data").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsegdiff.evaluation.privacy.copying import SUBSETS, nearer
from medsegdiff.evaluation.privacy.rules import CURRENT
from medsegdiff.statistics.bootstrap import centred_interval, equal_subsets, resample_choices
from medsegdiff.statistics.interval import Interval

SUBSET, SAMPLE_STREAM = 1, 2  # purposes of random numbers


def limit_of(baseline: np.ndarray, percentile: float = CURRENT.limit_percentile) -> float:
    """Similarity to train that 95 % of held-out pictures stay below, of their similarities (H, T) to train."""
    return float(np.percentile(baseline.max(axis=1), percentile))


@dataclass(frozen=True)
class Alike:
    """Similarities by one measure, and which real pictures belong together."""

    to_train: np.ndarray  # (N, T) of synthetic pictures
    to_held_out: np.ndarray  # (N, H)
    baseline: np.ndarray  # (H, T) of held-out pictures to train; they share no group
    within: np.ndarray  # (H, H) of held-out pictures to each other
    train_groups: np.ndarray  # (T,)
    held_out_groups: np.ndarray  # (H,)
    synthetic_groups: np.ndarray  # (N,) pictures sampled for one mask have one
    percentile: float = CURRENT.limit_percentile  # of held-out similarities to train, which is the limit

    @property
    def limit(self) -> float:
        """Similarity to train that 95 % of held-out pictures stay below."""
        return limit_of(self.baseline, self.percentile)


@dataclass(frozen=True)
class Statistics:
    """What the similarities by one measure say; every share from 0 to 1."""

    nearest_to_train: Interval  # share of synthetic pictures; 0.5 without copying
    baseline: Interval  # the same of held-out pictures, against train and the held-out pictures of other groups
    beyond_95: Interval  # share of synthetic pictures beyond the limit towards train; 0.05 without copying
    excess: Interval  # that share minus the one towards held-out pictures, equally many of both; 0 without copying
    train_copied: float  # share of train pictures that are the nearest one of a synthetic picture beyond the limit
    limit: float
    compared: int  # train and held-out pictures on each side


@dataclass(frozen=True)
class _Rows:
    """Which pictures a figure is computed from; rows may repeat."""

    synthetic: np.ndarray  # (N,)
    train: np.ndarray  # (n,)
    held_out: np.ndarray  # (n,)


def statistics(alike: Alike, *, resamples: int, seed: int) -> Statistics:
    """All statistics, averaged over random choices of equally many real pictures, with 95 % bootstrap intervals.

    A resample takes whole groups: of synthetic pictures, as those of one mask are alike, and of real ones from a new
    choice on both sides. Samples with replacement lose pictures on both sides alike; what that does to the level is
    taken out by shifting the samples.
    """
    count = min(alike.baseline.shape)
    everything = np.arange(len(alike.to_train))
    random = np.random.default_rng([seed, SUBSET])
    plain = [
        _shares(alike, _Rows(everything, *equal_subsets(alike.train_groups, alike.held_out_groups, random)))
        for _ in range(SUBSETS)
    ]
    random = np.random.default_rng([seed, SAMPLE_STREAM])
    groups = (alike.synthetic_groups, alike.train_groups, alike.held_out_groups)
    resampled = [_shares(alike, _Rows(*resample_choices(*groups, random))) for _ in range(resamples)]
    reported = [
        centred_interval(np.mean([p[k] for p in plain]), np.array([d[k] for d in resampled])).within(lowest, 1.0)
        for k, lowest in enumerate((0.0, 0.0, 0.0, -1.0))
    ]
    limit = alike.limit
    copied = np.unique(alike.to_train.argmax(axis=1)[alike.to_train.max(axis=1) > limit])
    return Statistics(
        reported[0], reported[1], reported[2], reported[3], len(copied) / alike.to_train.shape[1], limit, count
    )


def _shares(alike: Alike, rows: _Rows) -> tuple[float, float, float, float]:
    """nearest_to_train, baseline, beyond_95 and excess of some pictures."""
    to_train = alike.to_train[:, rows.train].max(axis=1)[rows.synthetic]
    to_held_out = alike.to_held_out[:, rows.held_out].max(axis=1)[rows.synthetic]
    limit = limit_of(alike.baseline[rows.held_out], alike.percentile)
    beyond = (alike.to_train.max(axis=1)[rows.synthetic] > limit).mean()
    excess = (to_train > limit).mean() - (to_held_out > limit).mean()
    other = alike.held_out_groups[rows.held_out][:, None] != alike.held_out_groups[rows.held_out][None]
    within = np.where(other, alike.within[np.ix_(rows.held_out, rows.held_out)], -np.inf).max(axis=1)
    baseline = nearer(alike.baseline[np.ix_(rows.held_out, rows.train)].max(axis=1), within)
    return nearer(to_train, to_held_out), baseline, float(beyond), float(excess)
