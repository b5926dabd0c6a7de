"""What training refuses before it begins."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from medsegdiff.data.records import METADATA_FILE, SampleSet, read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import check_settings, train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 100}, r"--img_size: found 100; expected a multiple of 16 .* Try 96\."),
        ({"eval_steps": 1}, "--eval_steps: found 1; expected 2 or more"),
        ({"seed": -1}, "--seed: found -1"),
        ({"ema_lengths": [0.1, 0.5]}, r"--ema_lengths: found \[0.1, 0.5\]; expected numbers above 0 and up to 0.28"),
        ({"model": ModelConfig(num_heads=0)}, "--model.num_heads: found 0"),
        ({"model": ModelConfig(num_heads=5)}, "--model.num_heads: found 5; expected a divisor of 288 channels"),
        ({"model": ModelConfig(channel_mult=[1, 0])}, "--model.channel_mult"),
        ({"diffusion": DiffusionConfig(beta_end=1.0)}, "--diffusion.beta_start, beta_end"),
        ({"diffusion": DiffusionConfig(sigma_min=90.0)}, "--diffusion.sigma_min, sigma_max"),
        ({"diffusion": DiffusionConfig(share_marginal=0.9)}, r"--diffusion.share_\*"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    """Damage: leave out any one of the checks."""
    with pytest.raises(UserError, match=message):
        check_settings(dataclasses.replace(TrainConfig("data"), **changes))


def test_synthetic_pairs_are_not_learnt(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: train on a combined data set, whose real origins the checkpoint would forget."""
    root = tmp_path / "pairs"
    shutil.copytree(ellipses.root, root)
    text = (ellipses.root / METADATA_FILE).read_text().replace(",1.0,test,,", ",1.0,test,abc,", 1)
    (root / METADATA_FILE).write_text(text)
    with pytest.raises(UserError, match="found 1 synthetic pairs"):
        train(TrainConfig(str(root), str(tmp_path / "out"), img_size=32))


def test_a_group_in_two_splits_is_refused(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: read samples without comparing the splits of a group."""
    root = tmp_path / "pairs"
    shutil.copytree(ellipses.root, root)
    text = (ellipses.root / METADATA_FILE).read_text()
    (root / METADATA_FILE).write_text(text.replace("val,-1,,val_benign_0,", "val,-1,,train_benign_0,"))
    with pytest.raises(UserError, match=r"group train_benign_0 in (val|train) as well as in (val|train)"):
        read_samples(root)
