"""Batches that training sees: small pictures first, two sizes at once, and what the network gets of how pictures were
moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_networks import TWO_SIZES
from torch.nn.functional import avg_pool2d
from trainer_runs import PLAIN, STEPS, assert_same_run, fail_at, settings, trainer, write_data

from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import augment_conditioned
from medsegdiff.engine import optimise
from medsegdiff.engine.loop import lr_factor
from medsegdiff.engine.rng import generator
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import LowRes
from medsegdiff.generators.joint_diffusion.trainer import train

if TYPE_CHECKING:
    from sample_sets import WriteSamples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> Path:
    return write_data(tmp_path_factory.mktemp("batches") / "pairs", write_ellipses)


def test_first_steps_are_on_smaller_pictures(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: small pictures to the end, or evaluations (whose best weights are kept) while they are small; another
    size after resuming than without; distances of masks that are not as far in small pictures."""
    monkeypatch.setattr("medsegdiff.generators.joint_diffusion.config.SMALLEST", 8)
    changes = {"progressive_resizing": 0.5, "diffusion": DiffusionConfig(sdf_truncation=4)}
    one = trainer(data, tmp_path / "one", **changes)
    one.total_steps = STEPS
    sides = [one._batch(4 * step, step)[0].shape[-1] for step in range(STEPS)]
    assert sides == [8, 8, 8, 16, 16, 16]
    assert one.train_step(4)["lr"] == pytest.approx(3e-3 * lr_factor(4, 2, STEPS, cheap=3, price=0.25))
    inside = [float((part.masks > 127).float().mean()) for part in one.resident.values()]
    slopes = [float(part.masks.float().diff(dim=3).abs().max()) for part in one.resident.values()]
    assert inside[0] == pytest.approx(inside[1], rel=0.2)
    assert slopes[0] == pytest.approx(2 * slopes[1], rel=0.25)
    config = settings(data, tmp_path / "run", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(optimise, "clip_gradients", fail_at(4, optimise.clip_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)
    train(settings(data, tmp_path / "whole", **changes))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [5, 6]
    assert trainer(data, tmp_path / "none", progressive_resizing=0.0).small_steps == 0


def test_batches_of_two_sizes_hold_the_same_pairs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: levels put in order, and pictures, classes, noise or conditions left where they were;
    small pictures made smaller still."""
    monkeypatch.setattr("medsegdiff.generators.joint_diffusion.config.SMALLEST", 8)
    one, two = (trainer(data, tmp_path / str(k), model=m, augment_prob=0.5) for k, m in ((1, TWO_SIZES), (2, PLAIN)))
    mixed = 0
    for step in range(6):
        x0, cond, sigma, noise, high = one._batch(4 * step, step)
        plain = two._batch(4 * step, step)
        order, expected = one.denoiser.by_size(plain[2])
        assert high == expected
        mixed += 0 < high < len(x0)
        for found, sampled in ((x0, plain[0]), (sigma, plain[2]), (noise, plain[3])):
            assert torch.equal(found, sampled[order])
        assert cond.keys() == plain[1].keys()
        for name, values in cond.items():
            assert torch.equal(values, plain[1][name][order]), name
    assert mixed
    small = trainer(data, tmp_path / "small", model=TWO_SIZES, progressive_resizing=0.9)
    small.total_steps = 10
    assert [small._batch(4 * step, step)[4] for step in range(9)] == [0] * 9
    assert 0.25 < small.small_price < 0.5  # full-size steps hold pairs that are seen small, and cost less than full
    high = (0.25 / small.small_price - 1) / (0.25 - 1)  # share of such pairs, from the price
    sampled = [int(one._batch(4 * step, step)[4]) for step in range(400)]
    assert high == pytest.approx(sum(sampled) / 1600, abs=0.05)


def test_two_sizes_resume_and_load(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: sizes left out of what a run is known by, or of the checkpoint's card: it would sample with one size."""
    config = settings(data, tmp_path / "run", model=TWO_SIZES)
    with monkeypatch.context() as patch:
        patch.setattr(optimise, "clip_gradients", fail_at(4, optimise.clip_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    with pytest.raises(UserError, match="low_res_factor: 2 -> 1"):
        train(settings(data, tmp_path / "run", model=PLAIN))
    train(config)
    train(settings(data, tmp_path / "whole", model=TWO_SIZES))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    model, _, _ = load_checkpoint(tmp_path / "run" / "last_model.safetensors")
    assert model.low_res == LowRes(2, 1.5)


def test_reported_augmentation_reaches_the_network(data: Path, tmp_path: Path) -> None:
    """Damage: conditions lost on the way, or those of other pictures; checkpoints that do not load."""
    one = trainer(data, tmp_path / "one", augment_prob=0.5)
    x0, cond, *_ = one._batch(0, 0)
    images, masks, labels = one.resident[32].batch(sample_indices(one.train_set.labels, 0, 4, 0, True))
    images, masks, conditioning = augment_conditioned(
        images, masks, train_module.GENERATIVE, 0.5, generator(0, 0, train_module.AUGMENT)
    )
    assert torch.equal(cond["augmentation"], conditioning)
    assert torch.equal(x0, one.codec.encode(avg_pool2d(images, 2), avg_pool2d(masks, 2)))
    assert bool(((cond["label"] == labels) | (cond["label"] == -1)).all())
    embedder = one.denoiser.backbone.conditions["augmentation"]
    before = embedder.linear.weight.clone()
    one.train_step(0)
    assert not torch.equal(embedder.linear.weight, before)
    train(settings(data, tmp_path / "run", augment_prob=0.5))
    model, card, _ = load_checkpoint(tmp_path / "run" / "last_model.safetensors")
    assert [c.name for c in card.conditions] == ["label", "augmentation"]
    assert "backbone.conditions.augmentation.linear.weight" in model.state_dict()
