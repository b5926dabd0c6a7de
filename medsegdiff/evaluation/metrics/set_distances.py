"""How far two sets of pictures are apart in a space of features: Frechet distance, KID, precision, recall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from medsegdiff.statistics.comparisons import Comparison, Measure, Sample, against_baseline
from medsegdiff.statistics.frechet import frechet_distance

MIN_PICTURES = 20  # of each set, for such figures to say anything
NEAREST = 5  # neighbours that precision, recall, density and coverage look at, as their authors do
# What a figure can be: chance must not carry an interval beyond
RANGES = {
    "frechet": (0.0, math.inf),
    "kid": (-math.inf, math.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "density": (0.0, math.inf),
    "coverage": (0.0, 1.0),
}


def compared(sets: Sequence[Sample], *, resamples: int, seed: int) -> dict[str, Comparison]:
    """All figures of `RANGES` of train against synthetic, beside train against held-out (their baseline).

    `sets` are train, held-out and synthetic, features (N, F), at least `NEAREST` + 1 pictures each.
    """
    measure = between_rows(np.concatenate([s.features for s in sets]))
    ends = np.cumsum([len(s.features) for s in sets])
    # The measure knows all distances already, and is given row numbers for features
    train, held_out, synthetic = (
        Sample(np.arange(end - len(s.features), end), s.groups) for s, end in zip(sets, ends, strict=True)
    )
    found = against_baseline(measure, train, held_out, synthetic, resamples=resamples, seed=seed)
    return {name: comparison.within(*RANGES[name]) for name, comparison in found.items()}


def between_rows(features: np.ndarray) -> Measure:
    """A measure that takes row numbers (n,) of the (N, F) `features` on either side, real ones first."""
    distances, kernel = euclidean_distances(features), polynomial_kernel(features, features)

    def measure(first: np.ndarray, second: np.ndarray) -> Mapping[str, float]:
        real, other, across = (np.ix_(a, b) for a, b in ((first, first), (second, second), (first, second)))
        return {
            "frechet": frechet_distance(features[first], features[second]),
            "kid": kernel_distance(kernel[real], kernel[other], kernel[across]),
            **neighbours(distances[real], distances[other], distances[across]),
        }

    return measure


def polynomial_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) kernel (x y / F + 1)^3 of (n, F) and (m, F) features (Binkowski et al., ICLR 2018, section 4)."""
    kernel: np.ndarray = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel


def kernel_distance(first: np.ndarray, second: np.ndarray, across: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al., JMLR 13, 2012, eq. 3), as KID is.

    From kernels (n, n) and (m, m) within either set and (n, m) across. About 0 for sets of one kind, often below.
    """
    n, m = across.shape
    within_first = (first.sum() - np.trace(first)) / (n * (n - 1))
    within_second = (second.sum() - np.trace(second)) / (m * (m - 1))
    return float(within_first + within_second - 2 * across.mean())


def neighbours(real: np.ndarray, other: np.ndarray, across: np.ndarray) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al., NeurIPS 2019), density and coverage (Naeem et al., ICML 2020, section 3).

    From distances (n, n) and (m, m) within either set and (n, m) across. A point's radius is its distance to
    the neighbour number `NEAREST`; a smaller distance is within it.
    """
    # The point itself is number 0
    real_radius, other_radius = (np.partition(d, NEAREST, axis=-1)[:, NEAREST] for d in (real, other))
    near = across < real_radius[:, None]
    return {
        "precision": float(near.any(axis=0).mean()),
        "recall": float((across < other_radius[None]).any(axis=1).mean()),
        "density": float(near.sum(axis=0).mean() / NEAREST),
        "coverage": float((across.min(axis=1) < real_radius).mean()),
    }


def inception_score(probabilities: np.ndarray) -> float:
    """exp of the mean divergence of (N, K) class probabilities from their mean (Salimans et al., NeurIPS 2016)."""
    p = np.maximum(probabilities, 1e-300)
    divergence = (p * (np.log(p) - np.log(p.mean(axis=0)))).sum(axis=1)
    return float(np.exp(divergence.mean()))


def scores_compared(sets: Sequence[Sample], *, resamples: int, seed: int) -> Comparison:
    """Inception score of the synthetic set, and of held-out pictures for its baseline, from probabilities (N, K)."""
    train, held_out, synthetic = sets

    def measure(_: np.ndarray, other: np.ndarray) -> dict[str, float]:
        return {"score": inception_score(other)}

    found = against_baseline(measure, train, held_out, synthetic, resamples=resamples, seed=seed)["score"]
    return found.within(1.0, math.inf)
