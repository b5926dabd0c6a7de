"""Training of the denoiser: it learns, counts its chance, resumes to the bit, refuses what does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from medsegdiff.checkpoint import load_checkpoint
from medsegdiff.config import DiffusionConfig, ModelConfig, TrainConfig
from medsegdiff.data.records import PairSet, read_pairs
from medsegdiff.diffusion.condition import Condition
from medsegdiff.errors import UserError
from medsegdiff.training import state as state_module
from medsegdiff.training import train as train_module
from medsegdiff.training.ema import EMA
from medsegdiff.training.loop import eval_steps, lr_factor
from medsegdiff.training.sampling import draw_indices
from medsegdiff.training.state import latest_state, save_state
from medsegdiff.training.train import DiffusionTrainer, train

if TYPE_CHECKING:
    from conftest import WritePairs

STEPS = 6


def settings(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """6 steps of 4 pairs at 16 px: states after steps 2, 3, 4 and 6, evaluations after 3 and 6."""
    config = TrainConfig(
        data_dir=str(data), output_dir=str(output), img_size=16, batch_size=4, num_epochs=2, lr=3e-3, warmup_steps=2,
        ema_decay=0.9, precision="fp32", device="cpu", evals=2, save_every=2, eval_samples=4, eval_steps=2,
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WritePairs) -> Path:
    """12 train, 6 val pairs; the test pictures are rubbish, since training may not look at them."""
    root = tmp_path_factory.mktemp("trainer") / "pairs"
    pairs = write_ellipses(root, {"train": 6, "val": 3, "test": 1})
    for record in pairs.select("test").records:
        (root / record.image_file_name).write_bytes(b"nobody reads this")
    return root


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The output of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("trainer") / "straight"
    train(settings(data, output))
    return output


@pytest.fixture
def finished(straight: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(straight, tmp_path / "run"))


def trainer(data: Path, output: Path, **changes: Any) -> DiffusionTrainer:
    return DiffusionTrainer(settings(data, output, **changes), read_pairs(data))


def final_state(output: Path) -> dict[str, Any]:
    folder = output / "state" / (output / "state" / "latest").read_text()
    assert folder.name == f"step_{STEPS:08d}"
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state["trainer"]  # type: ignore[no-any-return]


def same(a: Any, b: Any) -> bool:
    """Equality to the bit, all the way down."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def assert_same_run(output: Path, other: Path) -> None:
    assert same(final_state(output), final_state(other))
    for name in ("last_model.safetensors", "best_model.safetensors"):
        (model, card, _), (other_model, other_card, _) = (load_checkpoint(folder / name) for folder in (output, other))
        assert same(dict(model.state_dict()), dict(other_model.state_dict()))
        assert card == other_card
    assert (output / "history.jsonl").read_bytes() == (other / "history.jsonl").read_bytes()


def fail_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises KeyboardInterrupt instead of its `call`-th call."""
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (train_module, "clip_grad_norm_", 5),  # in the middle of a step, after backward
        (train_module, "save_checkpoint", 1),  # in the middle of an evaluation
        (state_module, "write_bytes", 2),  # a new state written, and not yet pointed to
        (state_module, "write_json", 3),  # a new state half written
    ],
)
def test_resumes_to_the_bit(
    module: Any, name: str, call: int, data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: leaving ema, optimiser, best or history out of state_dict; chance from torch's global generator."""
    config = settings(data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_at(call, getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    torch.manual_seed(12345)
    summary = train(config)
    assert summary["steps"] == STEPS
    assert_same_run(tmp_path / "run", straight)
    assert [p.name for p in (tmp_path / "run" / "state").glob("step_*")] == [f"step_{STEPS:08d}"]


def test_a_finished_run_is_not_trained_again(
    data: Path, finished: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: starting at step 0 where the state says all steps are done."""
    monkeypatch.setattr(DiffusionTrainer, "train_step", fail_at(1, DiffusionTrainer.train_step))
    assert train(settings(data, finished))["steps"] == STEPS
    assert_same_run(finished, straight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.01}, r"lr: 0\.003 -> 0\.01"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"diffusion": DiffusionConfig(mask_weight=2.0)}, "'mask_weight': 1.0.* -> .*'mask_weight': 2.0"),
    ],
)
def test_other_settings_do_not_resume(change: dict[str, Any], text: str, data: Path, finished: Path) -> None:
    """Damage: comparing nothing, so that a run goes on with another learning rate half-way."""
    with pytest.raises(UserError, match=rf"found a run with other settings \(.*{text}.*another --output_dir"):
        train(settings(data, finished, **change))


def test_settings_that_do_not_matter_may_change(data: Path, finished: Path, tmp_path: Path) -> None:
    """Damage: taking paths and save_every into the identity, so that a moved folder cannot be resumed."""
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert train(settings(moved, finished, save_every=5))["steps"] == STEPS


def test_other_data_do_not_resume(finished: Path, tmp_path: Path, write_ellipses: WritePairs) -> None:
    """Damage: a digest of ids without the content of the pictures."""
    write_ellipses(tmp_path / "pairs", {"train": 6, "val": 3, "test": 1}, seed=1)
    with pytest.raises(UserError, match=r"found a run with other settings \(data: '\w+' -> '\w+'\)"):
        train(settings(tmp_path / "pairs", finished))


def test_a_loss_that_is_not_finite_stops_the_run(
    data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: going on after NaN, or saving the weights that it spoilt."""
    config = settings(data, tmp_path / "run")
    loss, calls = train_module.denoising_loss, []

    def spoilt(*args: Any) -> Tensor:
        calls.append(1)
        return loss(*args) * (math.nan if len(calls) == 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "denoising_loss", spoilt)
        with pytest.raises(UserError, match=r"^training step 3: found .*nan.*; expected finite numbers\. Lower --lr"):
            train(config)
    assert (tmp_path / "run" / "state" / "latest").read_text() == "step_00000003"
    train(config)
    assert_same_run(tmp_path / "run", straight)


def test_learns(data: Path, tmp_path: Path) -> None:
    """Damage: zero_grad before backward's result is used; the EMA never updated; noise not added to x."""
    learner = trainer(data, tmp_path, lr=1e-2)
    learner.total_steps = 80
    before = learner.watch.val_losses(learner.ema.model)["val_loss"]
    for step in range(80):
        scalars = learner.train_step(step)
    after = learner.watch.val_losses(learner.ema.model)["val_loss"]
    assert after < 0.75 * before
    assert scalars["loss"] == pytest.approx(scalars["image_loss"] + scalars["mask_loss"])


def test_steps_depend_on_their_number_only(data: Path, tmp_path: Path) -> None:
    """Damage: noise, levels, augmentation, dropout or label dropout from a generator that is not counted."""
    learner = trainer(data, tmp_path)
    learner.denoiser.train()
    with torch.no_grad():
        for weight in learner.denoiser.parameters():
            weight.add_(0.1)  # an untrained network hides what dropout does
    torch.manual_seed(1)
    first = learner._loss(8, 2)
    learner._loss(0, 0)
    torch.manual_seed(2)
    assert torch.equal(learner._loss(8, 2), first)
    assert not torch.equal(learner._loss(8, 3), first)


def test_accumulation_takes_the_next_draws(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the same pairs in every part of a step."""
    learner, seen = trainer(data, tmp_path, accumulate=2), []
    monkeypatch.setattr(learner, "_loss", lambda draw, number: (seen.append((draw, number)), torch.zeros(2))[1])
    for step in range(2):
        with pytest.raises(RuntimeError, match="does not require grad"):
            learner.train_step(step)
    assert seen == [(0, 0), (8, 2)]
    parameter = next(learner.denoiser.parameters())
    monkeypatch.setattr(
        learner, "_loss", lambda draw, number: (seen.append((draw, number)), parameter.sum() * torch.ones(2))[1]
    )
    seen.clear()
    for step in range(2):
        scalars = learner.train_step(step)
    assert seen == [(0, 0), (4, 1), (8, 2), (12, 3)]
    assert parameter.grad is None
    assert scalars["image_loss"] == pytest.approx(scalars["mask_loss"])


@pytest.mark.parametrize(("dropout", "kept"), [(0.0, {True}), (1.0, {False}), (0.5, {True, False})])
def test_label_dropout(
    dropout: float, kept: set[bool], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: keep = rand < label_dropout, which hides nine classes of ten."""
    seen: list[Condition] = []

    def spy(denoiser: Any, x0: Tensor, cond: Condition, *_: Any) -> Tensor:
        seen.append(cond)
        return torch.zeros(len(x0), 2)

    monkeypatch.setattr(train_module, "denoising_loss", spy)
    learner = trainer(data, tmp_path, label_dropout=dropout)
    for step in range(8):
        learner._loss(4 * step, step)
    found: set[bool] = set()
    for cond in seen:
        assert cond.keep_label is not None
        assert cond.label is not None
        found |= set(cond.keep_label.tolist())
        assert sorted(cond.label.tolist()) == [0, 0, 1, 1]  # balanced in every batch
    assert found == kept


def test_checkpoints_tell_what_they_are(straight: Path, data: Path) -> None:
    """Damage: raw weights instead of averaged ones; hashes of all splits; best by the highest loss."""
    pairs = read_pairs(data)
    denoiser, card, _ = load_checkpoint(straight / "last_model.safetensors")
    state = final_state(straight)
    assert same(dict(denoiser.state_dict()), state["ema"])
    assert not same(state["ema"], state["denoiser"])
    assert (card.step, card.img_size, card.classes) == (STEPS, 16, ["benign", "malignant"])
    assert [h["image_hash"] for h in card.train_hashes] == [r.image_hash for r in pairs.select("train").records]
    assert {k: len(v) for k, v in card.aspects.items()} == {"benign": 6, "malignant": 6}
    history = [json.loads(line) for line in (straight / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [3, 6]
    best = min(history, key=lambda row: row["val_loss"])
    found = load_checkpoint(straight / "best_model.pth")[1]
    assert (found.step, found.scores["val_loss"]) == (best["step"], best["val_loss"])
    assert json.loads((straight / "summary.json").read_text())["best"]["step"] == best["step"]
    assert sorted(p.name for p in (straight / "samples").iterdir()) == ["step_0000003.png", "step_0000006.png"]
    assert any((straight / "tensorboard").iterdir())


def test_classes_with_lesions(data: Path, tmp_path: Path) -> None:
    """Damage: naming every class, so that generated normal pictures are redrawn until they show a lesion."""
    learner = trainer(data, tmp_path)
    learner.train_set.masks[learner.train_set.labels == 1] = 0
    assert learner.card(0).lesion_classes == ["benign"]


def test_train_and_val_are_needed(tmp_path: Path, write_ellipses: WritePairs) -> None:
    """Damage: an empty batch that fails somewhere in torch."""
    pairs: PairSet = write_ellipses(tmp_path / "pairs", {"train": 2, "val": 0})
    with pytest.raises(UserError, match="found no pair in the val split; expected at least one"):
        train(settings(pairs.root, tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "--lr: found 0.0; expected a number above 0"),
        ({"batch_size": 0}, "--batch_size: found 0"),
        ({"label_dropout": 1.5}, "--label_dropout: found 1.5; expected a number from 0 to 1"),
        ({"diffusion": DiffusionConfig(share_marginal=0.9)}, r"--diffusion\.share_\*: found .*add up to at most 1"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Damage: dropping any one check."""
    with pytest.raises(UserError, match=message):
        train(settings(tmp_path, tmp_path / "run", **change))


def test_ema_formula() -> None:
    """Damage: lerp with decay instead of 1 - decay; no shorter average at the start; integer buffers averaged."""
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    ema = EMA(model, decay=0.4)
    expected = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            model.weight.normal_()
        model(torch.randn(4, 3))
        ema.update(model, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            old = expected[name]
            expected[name] = decay * old + (1 - decay) * value if value.is_floating_point() else value.double()
        for name, value in ema.state_dict().items():
            assert torch.allclose(value.double(), expected[name], atol=1e-6)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


LABELS = torch.tensor([0] * 7 + [1] * 3)


def test_balanced_draws() -> None:
    """Damage: drawing by frequency; a row twice before all of its class came once."""
    rows = draw_indices(LABELS, 0, 42, seed=0, balanced=True)
    drawn = LABELS[rows]
    assert drawn.tolist() == [0, 1] * 21
    first, second = rows[drawn == 0], rows[drawn == 1]
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in first.split(7))
    assert all(sorted(epoch.tolist()) == [7, 8, 9] for epoch in second.split(3))
    assert len({tuple(epoch.tolist()) for epoch in first.split(7)}) == 3  # every epoch has an order of its own


@pytest.mark.parametrize("balanced", [True, False])
def test_draws_have_no_state(balanced: bool) -> None:
    """Damage: an order that depends on where a batch starts."""
    whole = draw_indices(LABELS, 0, 40, 5, balanced)
    parts = [draw_indices(LABELS, start, 8, 5, balanced) for start in range(0, 40, 8)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(draw_indices(LABELS, 0, 40, 6, balanced), whole)


def test_every_row_once_an_epoch() -> None:
    """Damage: drawing with replacement."""
    rows = draw_indices(LABELS, 0, 30, 0, balanced=False)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in rows.split(10))


def test_lr_factor() -> None:
    """Damage: a warm-up from 0, which wastes a step; decay to 0; decay that starts at step 0."""
    values = [lr_factor(step, 10, 110) for step in range(111)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == pytest.approx(1)
    assert values[60] == pytest.approx(0.505)
    assert values[110] == pytest.approx(0.01)
    assert all(a >= b for a, b in zip(values[10:-1], values[11:], strict=True))
    assert lr_factor(500, 10, 110) == pytest.approx(0.01)
    assert lr_factor(0, 0, 0) == pytest.approx(1)


@pytest.mark.parametrize(("total", "evals", "expected"), [(10, 3, {3, 7, 10}), (2, 5, {1, 2}), (1, 1, {1})])
def test_eval_steps(total: int, evals: int, expected: set[int]) -> None:
    """Damage: total // evals steps apart, which misses the end."""
    assert eval_steps(total, evals) == expected


def test_states_replace_each_other(tmp_path: Path) -> None:
    """Damage: keeping every state (disk full), or what a kill left half-written."""
    (tmp_path / "state" / "step_00000003.tmp").mkdir(parents=True)
    assert latest_state(tmp_path, {"a": 1}) is None
    save_state(tmp_path, 4, {"a": 1}, {"x": torch.ones(2)})
    save_state(tmp_path, 8, {"a": 1}, {"x": torch.zeros(2)})
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["latest", "step_00000008"]
    state = latest_state(tmp_path, {"a": 1})
    assert state is not None
    assert torch.equal(state["x"], torch.zeros(2))
    with pytest.raises(UserError, match=r"other settings \(a: 1 -> 2\)"):
        latest_state(tmp_path, {"a": 2})
