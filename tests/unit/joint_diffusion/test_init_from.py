"""Training that starts from the weights of a checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from sample_sets import WriteSamples, ellipse_pairs
from trainer_runs import PLAIN, settings, trainer, write_data

from medsegdiff.data.records import read_samples, write_samples
from medsegdiff.engine.files import read_json
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.trainer import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 train and 6 val pairs."""
    return write_data(tmp_path_factory.mktemp("data") / "pairs", ellipse_pairs)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The checkpoint of a finished training on them."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(settings(data, folder))
    return folder / "last_model.safetensors"


def test_weights_and_average_are_those_of_the_checkpoint(data: Path, first: Path, tmp_path: Path) -> None:
    """Damage: the average starts from fresh weights, or nothing is taken over."""
    before = load_checkpoint(first)[0].state_dict()
    found = trainer(data, tmp_path / "run", init_from=str(first))
    for name, value in found.denoiser.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in found.ema.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_condition_that_is_new_says_nothing_at_first(data: Path, first: Path, tmp_path: Path) -> None:
    """Damage: a checkpoint without attributes refused, or one whose network changes by their mere presence."""
    found = trainer(data, tmp_path / "run", init_from=str(first), conditions=["label", "attributes"])
    assert [c.name for c in found.conditions] == ["label", "attributes"]
    _, cond, *_ = found._batch(0, 0)  # of a folder whose records have no columns of attributes yet
    assert not cond["attributes"].isnan().all()
    x, sigma = torch.randn(2, 2, 16, 16), torch.full((2, 2), 0.5)
    attributes = torch.full((2, len(found.conditions[1].names) + 1), 0.5)  # type: ignore[attr-defined]
    label = {"label": torch.tensor([0, 1])}
    with torch.no_grad():
        before = load_checkpoint(first)[0](x, sigma, label)
        assert torch.equal(found.ema.model(x, sigma, label | {"attributes": attributes}), before)
    with pytest.raises(UserError, match="--init_from: found a checkpoint with other conditions"):
        trainer(data, tmp_path / "run", init_from=str(first), conditions=[])


def test_a_finished_training_goes_on(data: Path, first: Path, tmp_path: Path) -> None:
    """Damage: the fingerprint holds the path of the checkpoint and not its content, or old runs are not known again."""
    copy = tmp_path / "moved.safetensors"
    copy.write_bytes(first.read_bytes())
    done = train(settings(data, tmp_path / "more", init_from=str(first)))
    assert train(settings(data, tmp_path / "more", init_from=str(copy))) == done  # finished: the same content
    assert "init_from" not in read_json(first.parent / "summary.json")["fingerprint"]
    train(settings(data, tmp_path / "scratch"))
    weights = [
        load_checkpoint(f)[0].state_dict() for f in (tmp_path / "more" / first.name, tmp_path / "scratch" / first.name)
    ]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(UserError, match=r"other settings.*init_from"):
        train(settings(data, tmp_path / "scratch", init_from=str(first)))


def test_what_was_learnt_before_counts(first: Path, tmp_path: Path, write_ellipses: WriteSamples) -> None:
    """Damage: the new checkpoint names its own train pictures alone, so that leaks of the first one go unseen."""
    other = write_ellipses(tmp_path / "other", {"train": 4, "val": 2, "test": 1}, seed=7)
    before = load_checkpoint(first)[1].train_hashes
    found = trainer(other.root, tmp_path / "run", init_from=str(first)).card(1).train_hashes
    assert len(found) == len(other.select("train")) + len(before)
    assert all(hashes in found for hashes in before)


def test_checkpoints_that_cannot_be_started_from(data: Path, first: Path, tmp_path: Path) -> None:
    """Damage: weights of another network are torch's own error, or held-out pictures are learnt by a detour."""
    wider = dataclasses.replace(PLAIN, model_channels=16)
    with pytest.raises(UserError, match="--init_from: found a checkpoint with other settings of the network"):
        trainer(data, tmp_path / "wide", init_from=str(first), model=wider)
    with pytest.raises(UserError, match=r"no such file; expected a checkpoint"):
        train(settings(data, tmp_path / "none", init_from=str(tmp_path / "none.safetensors")))
    assert not (tmp_path / "none").exists()


def test_held_out_pictures_are_refused(first: Path, tmp_path: Path, data: Path) -> None:
    """Damage: a picture that the checkpoint learnt stands in val, and nobody says so."""
    pairs = read_samples(data)
    swap = {"train": "val", "val": "train", "test": "test"}
    moved = [dataclasses.replace(r, split=swap[r.split]) for r in pairs.records]
    (tmp_path / "moved").mkdir()
    write_samples(tmp_path / "moved", moved, classes=pairs.classes, fingerprint={"phase": "test"})
    for name in ("images", "masks"):
        shutil.copytree(data / name, tmp_path / "moved" / name)
    with pytest.raises(UserError, match="learnt 12 val or test pictures, such as train_benign_0"):
        trainer(tmp_path / "moved", tmp_path / "run", init_from=str(first))
