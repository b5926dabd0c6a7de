"""benchmarks/mixing.py and the arms of busi_128_cpu.py: commands that the phases take, and the choice on val."""

from __future__ import annotations

import shlex
from types import ModuleType
from typing import Any

import pytest

from medsegdiff.cli import parse
from medsegdiff.data.config import CombineConfig
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.generators.joint_diffusion.config import TrainConfig


@pytest.fixture
def mixing(benchmark: Any) -> ModuleType:
    found: ModuleType = benchmark("mixing")
    return found


def test_every_way_is_one_that_the_phases_take(mixing: Any) -> None:
    """Damage: a flag that phase 4 or 5 has not; the ratio or the mixing of another arm; training on another folder."""
    for name, (ratio, how) in mixing.MIXES.items():
        combine, segment = (shlex.split(line) for line in mixing.mix_commands("run", name, [0, 1]).values())
        combined = parse("combine", CombineConfig, combine[1:])
        trained = parse("segment", SegmentConfig, segment[1:])
        assert (combined.ratio, trained.mixing) == (ratio, how)
        assert combined.output_dir == trained.data_dir
        assert trained.baseline == "run/segmentation_real"
        assert trained.seeds == [0, 1]


def test_the_best_on_val_is_marked(mixing: Any) -> None:
    """Damage: the largest single seed marked, or the real arm."""
    found = {
        "real": {"train_pairs": 4, "val_dice": [0.9, 0.9]},
        "combined": {"train_pairs": 8, "val_dice": [0.8, 0.5]},
        "gradual": {"train_pairs": 8, "val_dice": [0.7, 0.7]},
    }
    rows = [row for row in mixing.table(found) if "**" in row]
    assert rows == [f"| **{mixing.title('gradual')}** | 8 | 0.700, 0.700 | 0.700 |"]


def test_a_longer_training_is_one_that_phase_2_takes(benchmark: Any) -> None:
    """Damage: passes that reach no phase, or another one."""
    cpu = benchmark("busi_128_cpu")
    usual, longer = (cpu.commands("raw", "run", [0], passes) for passes in (None, 7))
    assert parse("train", TrainConfig, shlex.split(longer["train"])[1:]).num_epochs == 7
    assert {name for name in usual if usual[name] != longer[name]} == {"train"}
