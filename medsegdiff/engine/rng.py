"""Counter-based random numbers: a stream depends on its numbers alone, so a resumed run is the same run."""

from __future__ import annotations

import torch


def generator(seed: int, *counters: int) -> torch.Generator:
    """A CPU generator that depends on nothing but its numbers: (seed, step or item, purpose).

    Numbers are mixed as in splitmix64 (Steele, Lea, Flood 2014), so that neighbours give unrelated streams.
    """
    state = 0
    for number in (seed, *counters):
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)
