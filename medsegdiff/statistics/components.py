"""Principal components of features, found on one set and applied to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

SMALLEST = 1e-6  # share of the first component's deviation below which one is rounding


@dataclass(frozen=True)
class Components:
    """Directions of largest spread, most spread first."""

    mean: np.ndarray  # (F,)
    ways: np.ndarray  # (F, K)
    deviations: np.ndarray  # (K,) standard deviations along them, of the set that they were found on

    @classmethod
    def of(cls, features: np.ndarray, largest: int) -> Self:
        """Those of (N, F) features, at most `largest`, without those that are rounding alone."""
        mean = features.mean(axis=0)
        _, spread, ways = np.linalg.svd(features - mean, full_matrices=False)
        kept = min(largest, int((spread > max(SMALLEST * spread[0], 1e-9)).sum()))
        return cls(mean, ways[:kept].T, spread[:kept] / np.sqrt(len(features)))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(N, K) components of (N, F) features, in their units."""
        return np.asarray((features - self.mean) @ self.ways)
