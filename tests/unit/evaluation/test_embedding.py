"""The self-supervised embedding: its loss, its training, and what it finds."""

from __future__ import annotations

import dataclasses
import math
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from texture_sets import PIXELS, textures
from torch import Tensor, nn

from medsegdiff.downstream.weights import save_weights
from medsegdiff.engine import locks
from medsegdiff.engine.files import make_folder
from medsegdiff.engine.locks import locked
from medsegdiff.engine.state import STATE_FOLDER
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy import embedding
from medsegdiff.evaluation.privacy.embedding import (
    PARTS,
    REPEATS,
    SIDE,
    WEIGHTS_FILE,
    CrossEmbedding,
    EmbeddingNet,
    EmbeddingTrainer,
    contrast_loss,
    copies_found,
    embed,
    fit_embedding,
    load_embedding,
    parts_of,
    similarities,
    spread_loss,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 48 take most of the time."""
    monkeypatch.setattr(embedding, "BATCH", 8)


def test_contrast_of_two_unlike_pictures_in_closed_form() -> None:
    """Damage: a view of the other picture is left out of the sum, or the temperature multiplies."""
    views = torch.eye(2)
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert float(contrast_loss(views, views, torch.tensor([0, 1]), 0.5)) == pytest.approx(expected, rel=1e-6)


def test_a_near_duplicate_is_no_counterexample() -> None:
    """Damage: pictures of one group are pushed apart."""
    views = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]), dim=1)
    together, apart = (contrast_loss(views, views, torch.tensor(groups), 0.1) for groups in ([0, 0, 1], [0, 1, 2]))
    assert float(contrast_loss(views[:2], views[:2], torch.tensor([0, 0]), 0.1)) == pytest.approx(0, abs=1e-6)
    assert float(together) < float(apart) - 0.1


def test_spread_is_the_log_distance_to_the_nearest_of_another_group() -> None:
    """Damage: a picture's own second view counts as its nearest, or distances are not those of vectors of length 1."""
    views = torch.eye(2)
    found = float(spread_loss(views, views, torch.tensor([0, 1])))
    assert found == pytest.approx(-math.log(math.sqrt(2)), rel=1e-6)


def test_interrupted_training_goes_on_as_if_it_had_not_been() -> None:
    """Damage: a view, the learning rate or the optimiser depends on more than the seed, the step and the state."""
    train, held_out = textures(12, 1, "train"), textures(5, 2, "held")

    def trainer() -> EmbeddingTrainer:
        return EmbeddingTrainer(train, held_out, 3, 7, CPU)

    whole, first, second = trainer(), trainer(), trainer()
    for step in range(3):
        whole.train_step(step)
    first.train_step(0)
    first.train_step(1)
    first.evaluate(2)
    second.load_state_dict(first.state_dict())
    assert second.train_step(2)["loss"] > 0
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_a_short_training_makes_mirror_images_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: views are not mirrored, or the loss does not pull the views of a picture together."""
    monkeypatch.setattr(embedding, "BATCH", 16)
    monkeypatch.setattr(embedding, "REPEATS", 1)  # one deal will do
    train, held_out = textures(48, 1, "train"), textures(24, 2, "held")
    trainer = EmbeddingTrainer(train, held_out, 40, 0, CPU)

    def advantage() -> float:
        """How much more a mirrored picture is like itself than like others."""
        net = trainer.model.eval().nets[0]
        alike = embed(net, held_out.images[:, :, ::-1], CPU) @ embed(net, held_out.images, CPU).T
        return float(np.diag(alike).mean() - alike[~np.eye(24, dtype=bool)].mean())

    before = advantage()
    for step in range(40):
        trainer.train_step(step)
    assert abs(before) < 0.02
    assert advantage() > 0.1


def test_vectors_have_length_1_and_one_for_every_picture() -> None:
    """Damage: a chunk is lost, brightness and contrast count, or a black picture divides by zero."""
    model, pictures = EmbeddingNet().eval(), textures(3, 1, "t").images
    black = np.zeros_like(pictures[:1])
    vectors = embed(model, np.concatenate([pictures] * 90 + [black]), CPU)
    assert vectors.shape == (271, 128)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[:3], vectors[267:270], atol=1e-5)
    x = torch.from_numpy(pictures)[:, None].float() / 255
    assert torch.allclose(model(x), model(0.3 * x + 0.4), atol=1e-4)
    assert embed(model, pictures[:0], CPU).shape == (0, 128)


def test_a_mirrored_copy_is_the_same_picture_to_any_network() -> None:
    """Damage: similarity is not taken over the mirrored picture as well."""
    pictures = textures(4, 1, "t")
    alike = similarities(PIXELS, pictures.images[:, :, ::-1], pictures, CPU)
    assert np.diag(alike) == pytest.approx(1, abs=1e-5)
    assert alike[~np.eye(4, dtype=bool)].max() < 0.9


def test_parts_are_of_whole_groups_and_of_one_size() -> None:
    """Damage: pictures dealt one by one, whatever their group; their order changes their part; all deals are one."""
    groups = np.random.default_rng(0).choice([f"g{k}" for k in range(40)], 120)
    parts = parts_of(groups, 0)
    assert all(len(set(parts[groups == group])) == 1 for group in np.unique(groups))
    assert abs(int((parts == 0).sum()) - 60) <= 5
    assert (parts_of(groups[::-1], 0) == parts[::-1]).all()
    assert (parts_of(groups, 1) != parts).any()
    assert parts_of(np.array(["one"] * 3), 0).tolist() == [0, 0, 0]


def test_no_picture_is_scored_by_a_network_that_learnt_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a network learns the part that it scores, or all pictures; or it scores the other
    part."""
    train, seen = textures(20, 1, "train"), set[int]()
    trainer = EmbeddingTrainer(train, textures(5, 2, "held"), 3, 0, CPU)
    views = trainer.views

    def note(rows: Tensor, step: int, number: int) -> Tensor:
        seen.update(rows.tolist())
        return views(rows, step, number)

    monkeypatch.setattr(trainer, "views", note)
    for number in range(PARTS * REPEATS):
        before = [next(other.parameters()).clone() for other in trainer.model.nets]
        seen.clear()
        for step in range(3):
            trainer._loss(number, step)[0].backward()
        trainer.optimisation.optimiser.step()
        trainer.optimisation.optimiser.zero_grad(set_to_none=True)
        own = parts_of(train.groups, number // PARTS) == number % PARTS
        assert seen == set(np.flatnonzero(~own))
        changed = [
            not torch.equal(next(other.parameters()), w) for other, w in zip(trainer.model.nets, before, strict=True)
        ]
        assert changed == [k == number for k in range(PARTS * REPEATS)]
    trainer.model.eval()
    expected = np.zeros((20, 20))
    for number, net in enumerate(trainer.model.nets):
        both = [embed(net, x, CPU) @ embed(net, train.images, CPU).T for x in (train.images, train.images[:, :, ::-1])]
        own = parts_of(train.groups, number // PARTS) == number % PARTS
        expected[:, own] += np.maximum(*both)[:, own] / REPEATS
    assert np.allclose(similarities(trainer.model, train.images, train, CPU), expected, atol=1e-5)


def test_one_group_alone_leaves_a_network_unlearnt(tmp_path: Path) -> None:
    """Damage: a network without pictures to learn from ends in a traceback, or learns those that it reference
    models."""
    one = textures(6, 1, "train")
    train = dataclasses.replace(one, groups=np.array(["video"] * 6))
    trainer = EmbeddingTrainer(train, textures(5, 2, "held"), 2, 0, CPU)
    assert [len(learnt) for learnt in trainer.learnt] == [0, 6] * REPEATS
    config = EvaluateConfig(real_data="", synthetic_data="", embedding_steps=2, bootstrap=20, device="cpu")
    assert 0 <= fit_embedding(config, train, textures(5, 2, "held"), tmp_path, {}).quality.value <= 1


class Corners(nn.Module):
    """An embedding that sees the mean of four corners alone."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) vectors of length 1."""
        coarse = nn.functional.avg_pool2d(x, SIDE // 2).flatten(1)
        return nn.functional.normalize(coarse - coarse.mean(dim=1, keepdim=True), dim=1)


def test_a_copy_is_found_where_it_is_more_alike_than_strangers_are() -> None:
    """Damage: found where no other real picture is nearer, which coarse networks reach; or strangers are not asked."""
    held_out, train = textures(40, 1, "held"), textures(60, 2, "train")
    assert copies_found(PIXELS, held_out, train, 0, CPU).mean() > 0.7
    coarse = CrossEmbedding([Corners() for _ in range(PARTS * REPEATS)])
    assert copies_found(coarse, held_out, train, 0, CPU).mean() < 0.5
    twice = dataclasses.replace(held_out, groups=train.groups[:40])
    assert copies_found(PIXELS, held_out, twice, 0, CPU).mean() == 0.0  # strangers are the same pictures


def test_fitted_once_and_found_again(tmp_path: Path) -> None:
    """Damage: weights of the same fingerprint are trained again, or those of another one are taken for them."""
    config = EvaluateConfig(real_data="", synthetic_data="", embedding_steps=2, bootstrap=20, device="cpu")
    train, held_out = textures(6, 1, "train"), textures(5, 2, "held")
    reference_model = fit_embedding(config, train, held_out, tmp_path, {"data": "one"})
    written = (tmp_path / WEIGHTS_FILE).stat().st_mtime_ns
    again = fit_embedding(config, train, held_out, tmp_path, {"data": "one"})
    assert (tmp_path / WEIGHTS_FILE).stat().st_mtime_ns == written
    assert (
        0
        <= reference_model.quality.low
        <= reference_model.quality.value
        == again.quality.value
        <= reference_model.quality.high
        <= 1
    )
    assert reference_model.minimum == 0.9
    with pytest.raises(UserError, match="a run with other settings"):
        fit_embedding(config, train, held_out, tmp_path, {"data": "two"})


def test_another_process_that_fits_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage: the second of two evaluations is refused, or trains again what the first one has trained meanwhile."""
    monkeypatch.setattr(locks, "POLL", 0.02)
    caplog.set_level("INFO", "medsegdiff.engine.locks")
    config = EvaluateConfig(real_data="", synthetic_data="", embedding_steps=2, bootstrap=20, device="cpu")
    train, held_out = textures(6, 1, "train"), textures(5, 2, "held")
    first, folder, holds = tmp_path / "first", make_folder(tmp_path / "second"), threading.Event()
    reference_model = fit_embedding(config, train, held_out, first, {"data": "one"})

    def other() -> None:
        with locked(folder):
            holds.set()
            end = time.monotonic() + 60
            while not caplog.messages and time.monotonic() < end:
                time.sleep(0.01)
            shutil.copy(first / WEIGHTS_FILE, folder)

    monkeypatch.setattr(embedding, "EmbeddingTrainer", None)
    thread = threading.Thread(target=other)
    thread.start()
    holds.wait()
    assert fit_embedding(config, train, held_out, folder, {"data": "one"}).quality == reference_model.quality
    thread.join()
    assert ["waiting until another run" in line for line in caplog.messages] == [True]
    assert [path.name for path in folder.iterdir()] == [WEIGHTS_FILE]


def test_what_a_kill_leaves_beside_it_goes(tmp_path: Path) -> None:
    """Damage: the state of a finished training stays for good, or is taken from a process that is at it."""
    config = EvaluateConfig(real_data="", synthetic_data="", embedding_steps=2, bootstrap=20, device="cpu")
    sets = textures(6, 1, "train"), textures(5, 2, "held")
    fit_embedding(config, *sets, tmp_path, {"data": "one"})
    (tmp_path / STATE_FOLDER).mkdir()
    with locked(tmp_path):
        fit_embedding(config, *sets, tmp_path, {"data": "one"})
        assert (tmp_path / STATE_FOLDER).is_dir()
    (tmp_path / ".lock").touch()
    fit_embedding(config, *sets, tmp_path, {"data": "one"})
    assert not {STATE_FOLDER, ".lock"} & {path.name for path in tmp_path.iterdir()}


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    """Damage: weights that do not fit end in a traceback."""
    save_weights(tmp_path / "other.safetensors", {"weight": torch.zeros(2)}, {"config": {}})
    with pytest.raises(UserError, match="weights of another network"):
        load_embedding(tmp_path / "other.safetensors")
