"""What is held out stays so: statistics are those of train, and test pictures are read when all is decided."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet
from medsegdiff.downstream.benchmark import segment
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.training import SegmentationTrainer
from medsegdiff.downstream.train_and_test import WEIGHTS_FILE
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

SEGMENT = SegmentConfig(
    "data", steps=2, evals=1, batch_size=4, warmup_steps=1, img_size=32, bootstrap=10, device="cpu",
    precision="fp32", encoder="mobilenet_v2",
)  # fmt: skip


def test_the_codec_is_made_from_train_alone(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: statistics of train and val together, by which val losses know val."""
    model = ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2)
    config = TrainConfig(str(ellipses.root), str(tmp_path), img_size=16, model=model, device="cpu", precision="fp32")
    train = load_tensors(ellipses.select("train"), 16, what="train split")
    assert DiffusionTrainer(config, ellipses).codec == PairCodec.fit(train.images, train.masks)


def test_segmentation_scales_by_train_alone(ellipses: SampleSet) -> None:
    """Damage: mean and standard deviation of the grey values of all that is loaded."""
    train, val = (load_tensors(ellipses.select(split), 32, what=split) for split in ("train", "val"))
    trainer = SegmentationTrainer(SEGMENT, ["benign", "malignant"], train, val, 2)
    grey = train.images.double() / 255
    assert (trainer.mean, trainer.std) == pytest.approx((float(grey.mean()), float(torch.std(grey))), rel=1e-9)


def test_segmentation_reads_test_pictures_last(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: test in the place of val, so that the weights that are scored on it were chosen on it."""
    root = tmp_path / "pairs"
    shutil.copytree(ellipses.root, root)
    for record in ellipses.select("test").records:
        (root / record.image_file_name).write_bytes(b"nobody reads this before the weights are written")
    config = dataclasses.replace(SEGMENT, data_dir=str(root), output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="found a file that is no picture"):
        segment(config)
    assert (tmp_path / "out" / WEIGHTS_FILE).is_file()
