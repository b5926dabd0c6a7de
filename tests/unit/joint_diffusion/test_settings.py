"""What training refuses before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medsegdiff.cli import parse
from medsegdiff.data.records import METADATA_FILE, SampleSet, read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import train


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--img_size 100", r"--img_size: found 100; expected a multiple of 16 .* Try 96\."),
        ("--eval_steps 1", "--eval_steps: found 1; expected 2 or more"),
        ("--seed -1", "--seed: found -1"),
        ("--lr 0", "--lr: found 0.0; expected a number above 0"),
        ("--batch_size 0", "--batch_size: found 0"),
        ("--condition_dropout 1.5", "--condition_dropout: found 1.5; expected a number from 0 to 1"),
        ("--ema_lengths 0.1 0.5", r"--ema_lengths: found \[0.1, 0.5\]; expected numbers above 0 and up to 0.28"),
        ("--model.num_heads 0", "--model.num_heads: found 0"),
        ("--model.num_heads 5", "--model.num_heads: found 5; expected a divisor of 288 channels"),
        ("--model.channel_mult 1 0", "--model.channel_mult"),
        ("--diffusion.beta_end 1", "--diffusion.beta_start, beta_end"),
        ("--diffusion.sigma_min 90", "--diffusion.sigma_min, sigma_max"),
        ("--diffusion.share_marginal 0.9", r"--diffusion\.share_\*: found .*add up to at most 1"),
    ],
)
def test_settings_that_cannot_work(flags: str, message: str) -> None:
    """Damage: leave out any one of the checks."""
    with pytest.raises(UserError, match=message):
        parse("train", TrainConfig, f"--data_dir d {flags}".split())


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
