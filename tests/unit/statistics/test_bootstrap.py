"""How clusters are sampled."""

from __future__ import annotations

import numpy as np

from medsegdiff.statistics.bootstrap import Clusters, equal_subsets, resample_choices

GROUPS = np.repeat(np.arange(10), 4)


def test_whole_clusters_are_drawn() -> None:
    """Damage: single pictures are sampled, which thins near-duplicates out on one side only."""
    clusters, random = Clusters.of(GROUPS), np.random.default_rng(0)
    for rows in (clusters.resample_rows(20, random), clusters.subset(20, random), clusters.resample(random)):
        blocks = GROUPS[rows].reshape(-1, 4)
        assert np.all(blocks == blocks[:, :1])
        assert all(len(set(block)) == 4 for block in rows.reshape(-1, 4))
    assert len(clusters.resample_rows(20, random)) == 20
    assert len(clusters.resample(random)) == 40
    assert sorted(clusters.subset(40, random)) == list(range(40))


def test_the_last_cluster_is_cut() -> None:
    """Damage: a set is filled up beyond the size that it is compared at."""
    clusters, random = Clusters.of(GROUPS), np.random.default_rng(0)
    assert len(clusters.resample_rows(7, random)) == len(clusters.subset(7, random)) == 7


def test_both_sides_of_a_choice_are_equally_many() -> None:
    """Damage: the larger side keeps all of its pictures, or a resample leaves its own choice of real pictures out."""
    few, random = np.arange(12), np.random.default_rng(0)
    assert [len(rows) for rows in equal_subsets(GROUPS, few, random)] == [12, 12]
    sampled = [resample_choices(np.arange(5), GROUPS, few, random) for _ in range(200)]
    assert {tuple(len(rows) for rows in sides) for sides in sampled} == {(5, 12, 12)}
    assert {int(row) for _, train, _ in sampled for row in train} == set(range(40))


def test_times_are_those_of_drawn_clusters() -> None:
    """Damage: other than as many clusters as there are is sampled, or a cluster is sampled more often for its size."""
    clusters = Clusters.of(np.repeat(np.arange(5), [1, 1, 1, 1, 20]))
    times = clusters.times(4000, np.random.default_rng(0))
    assert set(times.sum(axis=1)) == {5}
    assert abs(times.mean(axis=0) - 1).max() < 0.06
