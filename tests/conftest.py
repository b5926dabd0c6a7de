"""Fixtures for more than one test file: a Gaussian whose denoiser is known in closed form, small PAIRS folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medsegdiff.data.records import PairRecord, PairSet, write_pair, write_pairs

CLASSES = ["benign", "malignant"]
WritePairs = Callable[..., PairSet]


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


@pytest.fixture(scope="session")
def gaussian() -> Gaussian:
    """Two strongly correlated channels of unlike variance."""
    covariance = torch.tensor([[0.30, -0.18], [-0.18, 0.20]], dtype=torch.float64)
    return Gaussian(torch.tensor([0.3, -0.4], dtype=torch.float64), covariance)


def ellipse_pairs(
    root: Path, counts: dict[str, int], *, side: int = 32, seed: int = 0, classes: list[str] | None = None
) -> PairSet:
    """PAIRS of dark ellipses on noise, `counts` of each class and split; benign ones lie, malignant ones stand."""
    random = np.random.default_rng(seed)
    records: list[PairRecord] = []
    y, x = np.mgrid[:side, :side] / side
    for split, count in counts.items():
        for label in classes or CLASSES:
            for number in range(count):
                high, wide = (0.18, 0.3) if label == "benign" else (0.3, 0.18)
                cy, cx = random.uniform(0.4, 0.6, size=2)
                mask = ((y - cy) / high) ** 2 + ((x - cx) / wide) ** 2 < 1
                image = np.where(mask, 40, 160) + random.normal(0, 20, size=mask.shape)
                name = f"{split}_{label}_{number}"
                pictures = image.clip(0, 255).astype(np.uint8), mask.astype(np.uint8) * 255
                record = write_pair(root, *pictures, id=name, label=label, split=split, group=name, source="test")
                records.append(record)
    return write_pairs(root, records, classes=classes or CLASSES, identity={"phase": "test", "seed": seed})


@pytest.fixture(scope="session")
def write_ellipses() -> WritePairs:
    """`ellipse_pairs`, for tests that write their own set."""
    return ellipse_pairs


@pytest.fixture(scope="session")
def ellipses(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    """One set of ellipses for all tests that do not change it."""
    return ellipse_pairs(tmp_path_factory.mktemp("ellipses") / "pairs", {"train": 6, "val": 3, "test": 2})
