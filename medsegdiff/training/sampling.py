"""Which pairs a step sees: a pure function of the seed and the step, so that resuming needs no sampler state."""

from __future__ import annotations

import torch
from torch import Tensor

from medsegdiff.data.transforms import generator

ORDER = 101  # purpose number of the shuffles


def draw_indices(labels: Tensor, start: int, count: int, seed: int, balanced: bool) -> Tensor:
    """(count,) row numbers of draws start, start + 1, ... of an endless shuffled sequence.

    Within its pool every row comes once before any comes again. The pool is the whole set, or with `balanced` each
    class in turn, so that classes are drawn equally often.
    """
    if balanced:
        pools = [torch.nonzero(labels == c).flatten() for c in torch.unique(labels)]
    else:
        pools = [torch.arange(len(labels))]
    rows = []
    shuffles: dict[tuple[int, int], Tensor] = {}
    for draw in range(start, start + count):
        number = draw % len(pools)
        pool = pools[number]
        epoch, position = divmod(draw // len(pools), len(pool))
        if (number, epoch) not in shuffles:
            random = generator(seed, epoch, number, ORDER)
            shuffles[number, epoch] = torch.randperm(len(pool), generator=random)
        rows.append(pool[shuffles[number, epoch][position]])
    return torch.stack(rows)
