"""Splits and folds that keep groups whole and class shares alike, decided by seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medsegdiff.errors import UserError

LARGE_GROUP = 0.3  # share of all pictures from which a group is large


def spread_groups(
    labels: Sequence[str], groups: Sequence[str], shares: Sequence[float], seed: int, what: str
) -> np.ndarray:
    """(N,) bin numbers 0..len(shares)-1: no group crosses bins, and every class has about these shares in them.

    Greedy: groups, largest first and shuffled by seed among equals, go to the bin that lacks the largest part of what
    it should hold of their classes. Bins with share 0 stay empty. `what` names the bins in the message.
    Raises `UserError` where a class has fewer groups than there are bins.
    """
    classes, label_index = np.unique(np.array(labels), return_inverse=True)
    names, group_index = np.unique(np.array(groups), return_inverse=True)
    counts = np.zeros((len(names), len(classes)))  # pictures a group and class
    np.add.at(counts, (group_index, label_index), 1)
    used = np.flatnonzero(np.array(shares) > 0)
    for label, number in zip(classes, (counts > 0).sum(axis=0), strict=True):
        if number < len(used):
            found = f"{number} groups of near-duplicates"
            raise UserError(f"class {label}", found, f"at least {len(used)}, one for each {what}", _advice(groups))
    target = np.array(shares)[used, None] / sum(shares) * counts.sum(axis=0)
    held = np.zeros_like(target)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    bins = np.zeros(len(names), dtype=np.int64)
    for group in order:
        lack = ((target - held) / target) @ counts[group]
        chosen = int(lack.argmax())
        held[chosen] += counts[group]
        bins[group] = used[chosen]
    return np.asarray(bins[group_index])


def _advice(groups: Sequence[str]) -> str:
    """What to do about too few groups: where one holds most pictures, they are not near-duplicates but of one kind."""
    largest = Counter(groups).most_common(1)[0][1]
    if largest < 10 or largest <= LARGE_GROUP * len(groups):
        return "Add pictures, or ask for fewer."
    return (
        f"One group holds {largest} of {len(groups)} pictures: where they look alike by their kind, lower "
        "--duplicate_bits (40) and set --duplicate_correlation 1."
    )


def assign_splits(
    labels: Sequence[str], groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int
) -> list[str]:
    """The split of each of N pictures: "train", "val" or "test". Raises `UserError` where a class is too small."""
    shares = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    bins = spread_groups(labels, groups, shares, seed, "split")
    return [("train", "val", "test")[b] for b in bins]


def assign_folds(
    labels: Sequence[str], groups: Sequence[str], splits: Sequence[str], folds: int, seed: int
) -> list[int]:
    """The cross-validation fold of each of N pictures: 0..folds-1 over train and val together, -1 for test."""
    inside = [i for i, split in enumerate(splits) if split != "test"]
    result = [-1] * len(labels)
    bins = spread_groups(
        [labels[i] for i in inside], [groups[i] for i in inside], [1.0] * folds, seed + 1, "fold (--folds)"
    )
    for index, fold in zip(inside, bins, strict=True):
        result[index] = int(fold)
    return result
