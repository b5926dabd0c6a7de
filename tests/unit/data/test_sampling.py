"""Which rows a step samples."""

from __future__ import annotations

import torch

from medsegdiff.data.sampling import sample_indices


def test_epochs_use_every_row_once() -> None:
    """Batches that do not divide the pool. Damage: each batch is sampled with replacement."""
    labels = torch.tensor([0] * 7 + [1] * 3)
    rows = torch.cat([sample_indices(labels, 4 * step, 4, 5, False) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_balanced_batches_hold_classes_alike() -> None:
    """Seven of one class, three of the other. Damage: `balance_classes` is ignored."""
    labels = torch.tensor([0] * 7 + [1] * 3)
    rows = torch.cat([sample_indices(labels, 4 * step, 4, 5, True) for step in range(21)])
    counts = torch.bincount(rows, minlength=10)
    assert counts.tolist() == [6] * 7 + [14] * 3
