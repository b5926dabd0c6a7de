"""What networks are trained on has the detail of the pictures that were given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_networks import TWO_SIZES

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.data.transforms import AugmentConfig
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

if TYPE_CHECKING:
    from sample_sets import WriteSamples

SIDE = 32


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> SampleSet:
    root = tmp_path_factory.mktemp("sharpness") / "pairs"
    write_ellipses(root, {"train": 12, "val": 2, "test": 1}, side=4 * SIDE)
    return read_samples(root)


def trainer(pairs: SampleSet, output: Path, **changes: object) -> DiffusionTrainer:
    config = TrainConfig(
        str(pairs.root), str(output), img_size=SIDE, batch_size=24, precision="fp32", device="cpu", model=TWO_SIZES
    )
    return DiffusionTrainer(dataclasses.replace(config, **changes), pairs)  # type: ignore[arg-type]


def detail(images: torch.Tensor) -> float:
    """Mean square of what a 3 x 3 mean takes away."""
    return float((images - torch.nn.functional.avg_pool2d(images, 3, 1, 1)).square().mean())


@pytest.mark.parametrize("progressive_resizing", [0.0, 0.9])
def test_moving_pictures_does_not_blur_them(
    pairs: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progressive_resizing: float
) -> None:
    """Damage: pictures moved at the size that the network sees: their finest detail is gone, and is never sampled."""
    monkeypatch.setattr("medsegdiff.generators.joint_diffusion.config.SMALLEST", SIDE // 2)
    still = AugmentConfig(mirror=0, zoom_in=0, gamma=0, gain=0)
    shifted = dataclasses.replace(train_module.GENERATIVE, mirror=0, gamma=0, gain=0)
    found = {}
    for name, config in (("still", still), ("shifted", shifted)):
        monkeypatch.setattr(train_module, "GENERATIVE", config)
        one = trainer(pairs, tmp_path, progressive_resizing=progressive_resizing)
        one.total_steps = 10
        images = torch.cat([one._batch(24 * step, step)[0][:, :1] for step in range(4)])
        assert images.shape[-1] == (SIDE // 2 if progressive_resizing else SIDE)
        found[name] = detail(images)
    assert 0.95 < found["shifted"] / found["still"] < 1.25  # 1.06; 0.81 and 0.88 where they are blurred


def test_masks_stay_with_their_images(pairs: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: distances coded in pixels of the larger pictures, twice as far from the edge."""
    monkeypatch.setattr(train_module, "GENERATIVE", AugmentConfig(mirror=0, zoom_in=0, gamma=0, gain=0))
    diffusion = dataclasses.replace(TrainConfig("d", "o").diffusion, sdf_truncation=4.0)
    one = trainer(pairs, tmp_path, diffusion=diffusion)
    x0, *_ = one._batch(0, 0)
    coded = one._coded(SIDE)
    plain = one.codec.encode(coded.images.float() / 255, coded.masks.float() / 255)
    gaps = np.array([(plain - row).square().mean(dim=(1, 2, 3)).min().item() for row in x0])
    assert gaps.max() < 0.01
