"""Which pairs a step sees: a pure function of the seed and the step, so that resuming needs no sampler state."""

from __future__ import annotations

import torch
from torch import Tensor

from medsegdiff.engine.rng import generator

ORDER = 101  # purpose number of the shuffles
GRADUAL_PART = 0.7  # share of the samples after which gradual mixing has come to real pairs alone


def sample_indices(labels: Tensor, start: int, count: int, seed: int, balanced: bool) -> Tensor:
    """(count,) row numbers of samples start, start + 1, ... of an endless shuffled sequence.

    Within its pool every row comes once before any comes again. The pool is the whole set, or with `balanced` each
    class in turn, so that classes are sampled equally often.
    """
    if balanced:
        pools = [torch.nonzero(labels == c).flatten() for c in torch.unique(labels)]
    else:
        pools = [torch.arange(len(labels))]
    rows = []
    shuffles: dict[tuple[int, int], Tensor] = {}
    for sample in range(start, start + count):
        number = sample % len(pools)
        pool = pools[number]
        epoch, position = divmod(sample // len(pools), len(pool))
        if (number, epoch) not in shuffles:
            random = generator(seed, epoch, number, ORDER)
            shuffles[number, epoch] = torch.randperm(len(pool), generator=random)
        rows.append(pool[shuffles[number, epoch][position]])
    return torch.stack(rows)


def real_samples(sample: int, total: int) -> int:
    """How many of the first `sample` of `total` samples are real pairs where the real share rises to 1.

    The share grows linearly from 0 and reaches 1 after `GRADUAL_PART` of the samples; this is its integral, so that
    which samples are real needs no chance and no memory.
    """
    ramp = GRADUAL_PART * total
    return int(sample * sample / (2 * ramp)) if sample < ramp else int(sample - ramp / 2)


def sample_gradual(
    labels: Tensor, synthetic: Tensor, start: int, count: int, total: int, seed: int, balanced: bool
) -> Tensor:
    """(count,) row numbers of samples start, start + 1, ... of `total`: synthetic pairs first, in the end real ones
    only.

    `labels` (N,) and `synthetic` (N,) bool. Each kind has an endless shuffled sequence of its own (`sample_indices`).
    """
    before, after = real_samples(start, total), real_samples(start + count, total)
    parts = []
    for kind, first, last in ((False, before, after), (True, start - before, start + count - after)):
        rows = torch.nonzero(synthetic == kind).flatten()
        if last > first:
            parts.append(rows[sample_indices(labels[rows], first, last - first, seed, balanced)])
    return torch.cat(parts)
