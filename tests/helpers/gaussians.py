"""A Gaussian with its denoiser in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Pixels whose (image, mask) are N(mean, covariance), independent of each other; x is (B, 2, H, W)."""

    mean: Tensor  # (2,) float64
    covariance: Tensor  # (2, 2) float64

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] at levels sigma (2,): mean + S (S + diag(sigma^2))^-1 (x - mean)."""
        noisy = self.covariance + torch.diag(sigma.to(self.covariance) ** 2)
        gain = (self.covariance @ torch.linalg.inv(noisy)).to(x)
        mean = self.mean.to(x).view(1, 2, 1, 1)
        return mean + torch.einsum("ij,bjhw->bihw", gain, x - mean)

    def exact(self, x: Tensor, start: float, end: float) -> Tensor:
        """Where the probability-flow ODE takes x from level `start` to `end`, both columns alike."""
        values, vectors = torch.linalg.eigh(self.covariance)
        factor = torch.sqrt((values + end**2) / (values + start**2))
        flow = vectors @ torch.diag(factor) @ vectors.T
        mean = self.mean.view(1, 2, 1, 1)
        return mean + torch.einsum("ij,bjhw->bihw", flow, x - mean)
