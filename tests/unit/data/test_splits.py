"""Splits and folds: groups stay whole, shares are kept, the seed alone decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsegdiff.data.splits import assign_folds, assign_splits, spread_groups
from medsegdiff.errors import UserError


def busi_like(seed: int = 0) -> tuple[list[str], list[str]]:
    """Labels and groups of 633 pictures: two thirds benign, one in five with a duplicate."""
    rng = np.random.default_rng(seed)
    labels = ["benign"] * 429 + ["malignant"] * 204
    groups = [f"{label}{index - int(rng.random() < 0.2)}" for index, label in enumerate(labels)]
    return labels, groups


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), min_size=2, max_size=40),
    seed=st.integers(0, 10_000),
)
def test_a_group_never_crosses_splits_or_folds(sizes: list[tuple[str, int]], seed: int) -> None:
    """Damage: assigning pictures one by one instead of groups."""
    sizes = sizes + [("a", 1)] * 9 + [("b", 1)] * 9
    labels = [label for label, size in sizes for _ in range(size)]
    groups = [str(number) for number, (_, size) in enumerate(sizes) for _ in range(size)]
    splits = assign_splits(labels, groups, 0.2, 0.2, seed)
    folds = assign_folds(labels, groups, splits, 3, seed)
    for where in (splits, folds):
        assert len(set(zip(groups, where, strict=True))) == len(set(groups))
    assert all((fold == -1) == (split == "test") for fold, split in zip(folds, splits, strict=True))
    assert {(label, split) for label in "ab" for split in ("train", "val", "test")} == set(
        zip(labels, splits, strict=True)
    )


def test_shares_of_every_class_are_kept() -> None:
    """Damage: stratifying over all classes together lets one class drift."""
    labels, groups = busi_like()
    splits = assign_splits(labels, groups, 0.15, 0.2, 3)
    folds = assign_folds(labels, groups, splits, 5, 3)
    counts = Counter(zip(labels, splits, strict=True))
    for label, whole in Counter(labels).items():
        for split, share in (("train", 0.65), ("val", 0.15), ("test", 0.2)):
            assert abs(counts[label, split] / whole - share) < 0.01
        inside = Counter(f for f, one in zip(folds, labels, strict=True) if one == label and f >= 0)
        assert max(inside.values()) - min(inside.values()) <= 2


def test_large_groups_reach_every_split() -> None:
    """Damage: filling by absolute lack puts all duplicates into train."""
    groups = [str(i // 4) for i in range(40)] + [str(i) for i in range(100, 180)]
    splits = assign_splits(["a"] * 120, groups, 0.2, 0.2, 0)
    assert set(splits[:40]) == {"train", "val", "test"}


def test_large_groups_come_first() -> None:
    """Damage: placing groups in any order, so that a large one comes last and overfills a split."""
    groups = ["large"] * 20 + [str(i) for i in range(80)]
    for seed in range(20):
        splits = assign_splits(["a"] * 100, groups, 0.15, 0.15, seed)
        assert Counter(splits)["train"] in (69, 70, 71)


def test_seed_decides() -> None:
    """Damage: ignoring the seed, or sampling from global chance."""
    labels, groups = busi_like()
    first = assign_splits(labels, groups, 0.15, 0.2, 3)
    assert first == assign_splits(labels, groups, 0.15, 0.2, 3)
    assert first != assign_splits(labels, groups, 0.15, 0.2, 4)


def test_order_of_pictures_does_not_matter() -> None:
    """Damage: shuffling pictures in the order of the file system."""
    labels, groups = busi_like()
    turned = assign_splits(labels[::-1], groups[::-1], 0.15, 0.2, 3)[::-1]
    assert turned == assign_splits(labels, groups, 0.15, 0.2, 3)


def test_group_of_two_classes_stays_whole() -> None:
    """Damage: making groups per class."""
    labels = ["a"] * 10 + ["b"] * 10
    groups = [str(i) for i in range(9)] + ["both"] * 2 + [str(i) for i in range(20, 29)]
    splits = assign_splits(labels, groups, 0.2, 0.2, 0)
    assert splits[9] == splits[10]


def test_share_of_zero_stays_empty() -> None:
    """Damage: dividing by a target of zero."""
    assert set(assign_splits(["a"] * 9, [str(i) for i in range(9)], 0.0, 0.3, 0)) == {"train", "test"}


def test_too_few_groups() -> None:
    """Damage: counting pictures instead of groups, which leaves a split without a class."""
    labels, groups = ["a"] * 9 + ["b"] * 9, [str(i) for i in range(9)] + ["x"] * 8 + ["y"]
    with pytest.raises(
        UserError, match="class b: found 2 groups of near-duplicates; expected at least 3, one for each"
    ):
        assign_splits(labels, groups, 0.2, 0.2, 0)
    with pytest.raises(UserError, match="expected at least 5, one for each fold"):
        spread_groups(labels, groups, [1.0] * 5, 0, "fold (--folds)")


def test_pictures_that_look_alike_by_their_kind() -> None:
    """Damage: "add pictures" as the advice where thresholds made for ultrasound tie nearly all pictures together."""
    groups = ["one"] * 30 + ["two", "three"]
    with pytest.raises(UserError, match=r"One group holds 30 of 32 pictures: .*lower --duplicate_bits"):
        assign_splits(["a"] * 31 + ["b"], groups, 0.2, 0.2, 0)
    with pytest.raises(UserError, match=r"Add pictures, or ask for fewer"):
        assign_splits(["a", "b"], ["one", "two"], 0.2, 0.2, 0)
