"""The Fréchet distance of two sets of features."""

from __future__ import annotations

import math

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of (n, F) and (m, F) features.

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson and Landau, J. Multivariate Analysis 12, 1982; Heusel et
    al., NeurIPS 2017, eq. 6), covariances with n - 1 as usual. With A = X^T X and B = Y^T Y the trace of the root is
    the sum of the singular values of X Y^T: never complex, and exact where pictures are fewer than features.
    """
    mean, other_mean = first.mean(axis=0), second.mean(axis=0)
    x = (first - mean) / math.sqrt(max(len(first) - 1, 1))
    y = (second - other_mean) / math.sqrt(max(len(second) - 1, 1))
    squares = float((x**2).sum() + (y**2).sum())
    if x.shape[1] < min(len(x), len(y)):  # the same singular values in a smaller matrix
        x, y = np.linalg.qr(x, mode="r"), np.linalg.qr(y, mode="r")
    root = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    return max(0.0, float(((mean - other_mean) ** 2).sum()) + squares - 2 * root)
