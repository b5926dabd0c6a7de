"""How alike pictures are, pixel by pixel: pairs of them, (N, S, S) uint8 each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multiscale
from torchmetrics.functional.image import structural_similarity_index_measure as structural

SMALLEST_SIDE = 16  # pixels of the coarsest scale: its window has 11
# Wang, Simoncelli and Bovik 2003, section 3.2, from the finest scale on; sized for pictures of 256 pixels
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BATCH = 50


def rmse(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) root mean square difference in grey levels."""
    return np.asarray(np.sqrt(((first.astype(np.float64) - second) ** 2).mean(axis=(1, 2))))


def psnr(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) peak signal-to-noise ratio in dB; NaN for equal pictures."""
    error = rmse(first, second)
    return np.asarray(20 * np.log10(255 / np.where(error > 0, error, np.nan)))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) SSIM (Wang et al., IEEE Trans. Image Processing 13(4), 2004), with its window of 11 pixels."""
    return _batched(lambda x, y: structural(x, y, data_range=1.0, reduction="none"), first, second)


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) MS-SSIM, with as many of the five scales as fit; 1 for equal pictures.

    The weights of the scales there are are scaled to sum to 1. Wang, Simoncelli and Bovik, "Multi-scale structural
    similarity for image quality assessment", Asilomar 2003. S at least 32.
    """
    scales = 1 + sum(first.shape[1] // 2**n >= SMALLEST_SIDE for n in range(1, len(WEIGHTS)))
    betas = tuple(w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales])

    def measure(x: Tensor, y: Tensor) -> Tensor:
        return multiscale(x, y, data_range=1.0, betas=betas, reduction="none", normalize="relu")

    return _batched(measure, first, second)


def _batched(measure: Callable[[Tensor, Tensor], object], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) a measure of pictures in [0, 1], (B, 1, S, S), in batches."""
    parts = []
    for start in range(0, len(first), BATCH):
        x, y = (torch.from_numpy(p[start : start + BATCH, None]).float() / 255 for p in (first, second))
        found = measure(x, y)
        assert isinstance(found, Tensor)
        parts.append(np.atleast_1d(found.double().numpy()))
    return np.concatenate(parts)


def random_pairs(groups: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(K, 2) different pairs of rows of `groups` (N,) with unlike groups, in random order; K at most `count`."""
    first, second = np.triu_indices(len(groups), k=1)
    apart = np.flatnonzero(groups[first] != groups[second])
    chosen = random.permutation(apart)[:count]
    return np.stack([first[chosen], second[chosen]], axis=1)
