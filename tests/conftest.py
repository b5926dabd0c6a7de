"""Fixtures for several test files: a Gaussian with its denoiser in closed form, small sample folders, benchmarks."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medsegdiff.conditioning.label import Label
from medsegdiff.data.records import SampleRecord, SampleSet, write_sample, write_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, build_denoiser, save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

CLASSES = ["benign", "malignant"]
WriteSamples = Callable[..., SampleSet]


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


# Tiny, for pictures of 16 px, of which it sees 8 where noise is high
TWO_SIZES = ModelConfig(
    patch_size=2, model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2, low_res_factor=2
)


def refuse_to_sample(message: str, config: GenerateConfig) -> None:
    """Assert that nothing is sampled with `config`, and that nothing half-written stays."""
    with pytest.raises(UserError, match=message):
        generate(config)
    assert not Path(config.output_dir).exists()
    assert not Path(f"{config.output_dir}.partial").exists()


def random_checkpoint(path: Path, noise: float = 0.02, **changes: Any) -> Path:
    """Save a tiny network with random weights at `path`; `changes` are fields of its card.

    As it is, its masks are noise of which half is lesion: one large connected part.
    """
    card = ModelCard(
        img_size=16,
        classes=CLASSES,
        lesion_classes=CLASSES,
        conditions=[Label(classes=changes.get("classes", CLASSES), drop_rate=0.1)],
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2),
        diffusion=DiffusionConfig(sigma_max=2.0, sigma_min=0.5),
        codec=PairCodec((0.4, 0.6), (0.2, 0.5)),
        aspects={"benign": [1.25, 1.5], "malignant": [0.75]},
        train_hashes=[{"image_hash": "ab", "perceptual_hash": "cd"}],
        step=7,
        scores={"val_loss": 1.0},
    )
    card = dataclasses.replace(card, **changes)
    torch.manual_seed(0)
    denoiser = build_denoiser(card)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(noise * torch.randn_like(weight))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, denoiser.state_dict(), card)
    return path


def ellipse_pairs(
    root: Path, counts: dict[str, int], *, side: int = 32, seed: int = 0, classes: list[str] | None = None
) -> SampleSet:
    """Samples of dark ellipses on noise, `counts` of each class and split; benign ones lie, malignant ones stand."""
    random = np.random.default_rng(seed)
    records: list[SampleRecord] = []
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
                record = write_sample(root, *pictures, id=name, label=label, split=split, group=name, source="test")
                records.append(record)
    return write_samples(root, records, classes=classes or CLASSES, fingerprint={"phase": "test", "seed": seed})


@pytest.fixture(scope="session")
def write_ellipses() -> WriteSamples:
    """`ellipse_pairs`, for tests that write their own set."""
    return ellipse_pairs


@pytest.fixture(scope="session")
def ellipses(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """One set of ellipses for all tests that do not change it."""
    return ellipse_pairs(tmp_path_factory.mktemp("ellipses") / "pairs", {"train": 6, "val": 3, "test": 2})


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load
