"""Single numbers a picture, compared between sets: distances of distributions, differences between classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import wasserstein_distance

from medsegdiff.statistics.comparisons import Comparison, Measure, Sample, against_baseline
from medsegdiff.statistics.interval import Interval

MIN_PICTURES = 10  # that have a value, of each set, for a distribution to be compared


def column(sample: Sample, number: int) -> Sample:
    """One column of (N, F) features, (K,), of the pictures that have a value there (not NaN)."""
    has = ~np.isnan(sample.features[:, number])
    return Sample(sample.features[has, number], sample.groups[has])


def column_distances(
    sets: Sequence[Sample], names: Sequence[str], scale: np.ndarray, *, resamples: int, seed: int
) -> dict[str, Comparison]:
    """Wasserstein distance of every column of (N, F) features, in units of `scale` (F,), beside its baseline.

    `sets` are train, held-out and synthetic. One column at a time, as a few dozen pictures do not determine a
    covariance. A picture without a value (NaN) is left out of the columns that it does not have. Columns that
    `missing` names a reason for are left out.
    """
    alike: dict[tuple[bytes, ...], list[int]] = {}  # columns that the same pictures have are sampled together
    for number in range(len(names)):
        if missing(sets, number, scale) is None:
            alike.setdefault(tuple(np.isnan(s.features[:, number]).tobytes() for s in sets), []).append(number)
    found: dict[str, Comparison] = {}
    for numbers in alike.values():
        rows = [~np.isnan(s.features[:, numbers[0]]) for s in sets]
        train, held_out, synthetic = (
            Sample(s.features[r][:, numbers], s.groups[r]) for s, r in zip(sets, rows, strict=True)
        )
        measure = _wasserstein([names[n] for n in numbers], scale[numbers])
        found |= against_baseline(measure, train, held_out, synthetic, resamples=resamples, seed=seed)
    return {name: found[name].within(0, np.inf) for name in names if name in found}


def missing(sets: Sequence[Sample], number: int, scale: np.ndarray) -> str | None:
    """Why a column of (N, F) features cannot be compared between sets; None where it can."""
    fewest = min(int((~np.isnan(s.features[:, number])).sum()) for s in sets)
    if fewest < MIN_PICTURES:
        return f"{fewest} pictures of one set have it, and {MIN_PICTURES} of each are needed"
    if not scale[number] > 1e-9:
        return "it is the same in all real train pictures, and their spread is needed as the unit of the distance"
    return None


def together(reasons: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Reason -> "title, title": of (title, reason) those that have a reason, so that a reader meets each once."""
    found: dict[str, list[str]] = {}
    for title, reason in reasons:
        if reason is not None:
            found.setdefault(reason, []).append(title)
    return {reason: ", ".join(titles) for reason, titles in found.items()}


def spread(features: np.ndarray) -> np.ndarray:
    """(F,) standard deviations of (N, F) features over the pictures that have them; 0 where none has."""
    return np.array([np.std(c[~np.isnan(c)]) if not np.isnan(c).all() else 0.0 for c in features.T])


def excess(found: Comparison) -> float | None:
    """Distance beyond the baseline, where the intervals of both are apart; else None."""
    return found.synthetic.value - found.baseline.value if found.synthetic.low > found.baseline.high else None


def _wasserstein(names: Sequence[str], scale: np.ndarray) -> Measure:
    def measure(first: np.ndarray, second: np.ndarray) -> Mapping[str, float]:
        return {name: wasserstein_distance(first[:, i], second[:, i]) / scale[i] for i, name in enumerate(names)}

    return measure


def preserved(real: Interval, synthetic: Interval) -> str:
    """Whether a difference between classes of real pictures is there among synthetic ones.

    "none in real" where the real interval holds 0; else "kept" where the synthetic one excludes 0 on the same side,
    with "(weaker)" or "(stronger)" where the intervals are apart; "reversed" where it excludes 0 on the other side;
    "lost" where it holds 0 and does not reach the real one, and "too few pictures to decide" where it does.
    """
    if real.low <= 0 <= real.high:
        return "none in real"
    apart = synthetic.high < real.low or real.high < synthetic.low
    if synthetic.low <= 0 <= synthetic.high:
        return "lost" if apart else "too few pictures to decide"
    if (synthetic.value > 0) != (real.value > 0):
        return "reversed"
    weaker = abs(synthetic.value) < abs(real.value)
    return "kept" if not apart else "kept (weaker)" if weaker else "kept (stronger)"
