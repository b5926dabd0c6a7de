"""Training of the denoiser: it learns, counts its chance, resumes to the bit, refuses what does not fit."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from trainer_runs import STEPS, assert_same_run, fail_at, final_state, same, settings, trainer, write_data

from medsegdiff.conditioning.base import Conditions
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine import optimise
from medsegdiff.engine import state as state_module
from medsegdiff.engine.locks import locked
from medsegdiff.engine.run_folder import TRAINING, RunFolder
from medsegdiff.engine.state import latest_state, save_state
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import sigma_table
from medsegdiff.generators.joint_diffusion.sampling_settings import default_guidance
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer, train

if TYPE_CHECKING:
    from sample_sets import WriteSamples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> Path:
    return write_data(tmp_path_factory.mktemp("trainer") / "pairs", write_ellipses)


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


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (optimise, "clip_gradients", 5),  # in the middle of a step, after backward
        (train_module, "save_checkpoint", 1),  # in the middle of an evaluation
        (state_module, "_drop_others", 2),  # a new state written, and the old one still there
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


def test_a_finished_run_is_left_alone(data: Path, finished: Path) -> None:
    """Damage: training again, or writing the weights, the summary or another file of TensorBoard again."""
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    summary = json.loads((finished / "summary.json").read_text())
    assert train(settings(data, finished)) == summary
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before


def test_a_run_that_lacks_its_summary_is_finished_without_a_step(
    data: Path, finished: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: starting at step 0 where the state says all steps are done."""
    monkeypatch.setattr(DiffusionTrainer, "train_step", fail_at(1, DiffusionTrainer.train_step))
    (finished / "summary.json").unlink()
    assert train(settings(data, finished))["steps"] == STEPS
    assert_same_run(finished, straight)


def test_a_run_is_known_before_its_first_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: writing the fingerprint with the first state, so that until then other settings take over the folder."""
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionTrainer, "train_step", fail_at(1, DiffusionTrainer.train_step))
        with pytest.raises(KeyboardInterrupt):
            train(settings(data, tmp_path / "run"))
    # ... and before pictures are read, a network is built, batches are tried
    monkeypatch.setattr(train_module, "DiffusionTrainer", lambda *_: pytest.fail("began to build what it will refuse"))
    with pytest.raises(UserError, match=r"found a run with other settings \(lr: 0\.003 -> 0\.01\)"):
        train(settings(data, tmp_path / "run", lr=0.01))


def test_a_finished_run_without_states_keeps_its_settings(data: Path, finished: Path) -> None:
    """Damage: knowing a run by its states alone, so that whoever deletes them loses the weights to another run."""
    shutil.rmtree(finished / "state")
    with pytest.raises(UserError, match=r"found a run with other settings \(lr: "):
        train(settings(data, finished, lr=0.01))
    assert train(settings(data, finished))["steps"] == STEPS


def test_a_folder_of_an_older_version_is_known(data: Path, finished: Path) -> None:
    """Damage: settings that are gone, or had other names, taken for others: nobody's finished training is found."""
    gone = {"in_channels": 1, "out_channels": 1, "num_classes": 2, "augment_conditioning": False, "use_anchor": True}
    for name in ("summary.json", "state/fingerprint.json"):
        record = json.loads((finished / name).read_text())
        older = record.get("fingerprint", record)
        older["model"] |= gone | {"mask_share": 0.5, "use_spectrum": True, "use_band_pass": True}
        older["diffusion"] |= {"sigma_data": 0.5}
        older["told_share"] = older.pop("augment_prob")
        (finished / name).write_text(json.dumps(record))
    for left in ("summary.json", "last_model.safetensors"):
        assert train(settings(data, finished))["steps"] == STEPS
        with pytest.raises(UserError, match=r"other settings \(lr: 0\.003 -> 0\.01\)"):
            train(settings(data, finished, lr=0.01))
        (finished / left).unlink()


def test_what_a_killed_run_left_is_cleared(data: Path, finished: Path, straight: Path) -> None:
    """Damage: looking for half-written files at the top alone, or taking an older state for the newest one."""
    (finished / "summary.json").unlink()
    for name in ("best_model.safetensors.tmp", "samples/step_0000006.png.tmp", "state/fingerprint.json.tmp", ".lock"):
        (finished / name).write_text("half")
    for name in ("step_00000004", "step_00000006.tmp"):
        shutil.copytree(finished / "state" / "step_00000006", finished / "state" / name)
    (finished / "notes.tmp").write_text("not ours")
    train(settings(data, finished))
    assert_same_run(finished, straight)
    extra = {p.relative_to(finished) for p in finished.rglob("*")} - {
        p.relative_to(straight) for p in straight.rglob("*")
    }
    assert {str(p) for p in extra if "tensorboard" not in p.parts} == {"notes.tmp"}


def test_two_trainings_into_one_folder(data: Path, tmp_path: Path) -> None:
    """Damage: no lock, so that both write their states over each other's."""
    with locked(tmp_path), pytest.raises(UserError, match=r"another run that is writing here \(process \d+\)"):
        train(settings(data, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, None])
def test_a_damaged_state_is_reported_in_one_line(share: float | None, data: Path, finished: Path) -> None:
    """Damage: a traceback of torch for a file that a power cut left short, or for one that is not there."""
    (finished / "summary.json").unlink()
    path = finished / "state" / f"step_{STEPS:08d}" / "state.pt"
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"step_00000006: found a damaged state \(.*Delete that folder") as caught:
        train(settings(data, finished))
    assert "\n" not in str(caught.value)


def test_a_state_that_does_not_fit_is_reported_in_one_line(data: Path, finished: Path) -> None:
    """Damage: a KeyError for a state that lacks the averaged weights; code that runs while a state is unpickled."""
    (finished / "summary.json").unlink()
    path = finished / "state" / f"step_{STEPS:08d}" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["trainer"]["ema"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"found a damaged state \('ema'\)"):
        train(settings(data, finished))
    torch.save(state | {"progress": Path("x")}, path)
    with pytest.raises(UserError, match=r"found a damaged state \(Weights only load failed"):
        train(settings(data, finished))


def test_curves_are_written_before_the_state(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: saving a state while points before it wait in the writer's queue, where a kill takes them for good."""
    order: list[str] = []
    monkeypatch.setattr(SummaryWriter, "flush", lambda _: order.append("flush"))
    monkeypatch.setattr("medsegdiff.engine.loop.save_state", lambda *_: order.append("save"))
    train(settings(data, tmp_path))
    assert order == ["flush", "save"] * 4


def test_curves_go_on_without_gap_and_without_doubles(
    data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: no purge_step, which samples the steps after the last state twice."""
    config = settings(data, tmp_path / "run", evals=6)
    with monkeypatch.context() as patch:
        # As SIGKILL, which closes nothing: after the evaluation of step 5 (last state: 4)
        patch.setattr("medsegdiff.engine.loop.save_state", fail_at(5, save_state))
        patch.setattr(SummaryWriter, "close", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    assert [event.step for event in reader.Scalars("val_loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.01}, r"lr: 0\.003 -> 0\.01"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"diffusion": DiffusionConfig(mask_weight=2.0)}, r"diffusion\.mask_weight: 1\.0 -> 2\.0"),
    ],
)
def test_other_settings_do_not_resume(change: dict[str, Any], text: str, data: Path, finished: Path) -> None:
    """Damage: comparing nothing, so that a run goes on with another learning rate half-way."""
    with pytest.raises(UserError, match=rf"found a run with other settings \(.*{text}.*another --output_dir"):
        train(settings(data, finished, **change))


def test_settings_that_do_not_matter_may_change(data: Path, finished: Path, tmp_path: Path) -> None:
    """Damage: taking paths and save_every into the fingerprint, so that a moved folder cannot be resumed."""
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert train(settings(moved, finished, save_every=5))["steps"] == STEPS


def test_other_data_do_not_resume(finished: Path, tmp_path: Path, write_ellipses: WriteSamples) -> None:
    """Damage: a digest of ids without the content of the pictures."""
    write_ellipses(tmp_path / "pairs", {"train": 6, "val": 3, "test": 1}, seed=1)
    with pytest.raises(UserError, match=r"found a run with other settings \(another data set than before\)"):
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
    assert [p.name for p in (tmp_path / "run" / "state").glob("step_*")] == ["step_00000003"]
    train(config)
    assert_same_run(tmp_path / "run", straight)


def test_learns(data: Path, tmp_path: Path) -> None:
    """Damage: zero_grad before backward's result is used; the EMA never updated; noise not added to x."""
    learner = trainer(data, tmp_path, lr=1e-2)
    learner.total_steps = 80
    before = learner.validator.val_losses(learner.ema.model)["val_loss"]
    for step in range(80):
        scalars = learner.train_step(step)
    after = learner.validator.val_losses(learner.ema.model)["val_loss"]
    assert after < 0.75 * before
    assert scalars["loss"] == pytest.approx(scalars["image_loss"] + scalars["mask_loss"])


@pytest.mark.parametrize(("alone", "led"), [(0.25, True), (0.0, False)])
def test_sample_grids_are_guided_as_pairs_are(data: Path, tmp_path: Path, alone: float, led: bool) -> None:
    """Damage: grids of what no user gets, sampled without the mask's guidance, or steered away from what was never
    learnt."""
    diffusion = DiffusionConfig(share_marginal=alone)
    learner = trainer(data, tmp_path, diffusion=diffusion, eval_samples=2, eval_steps=4)
    calls: list[int] = []
    learner.ema.model.register_forward_pre_hook(lambda *_: calls.append(1))
    learner.validator.sample(learner.ema.model)
    guidance, sigmas = default_guidance(diffusion), sigma_table("joint", diffusion, 4)
    assert len(calls) == guidance.calls(sigmas)
    assert (len(calls) > 4) == led


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
    monkeypatch.setattr(learner, "_loss", lambda sample, number: (seen.append((sample, number)), torch.zeros(2))[1])
    for step in range(2):
        with pytest.raises(RuntimeError, match="does not require grad"):
            learner.train_step(step)
    assert seen == [(0, 0), (8, 2)]
    parameter = next(learner.denoiser.parameters())
    monkeypatch.setattr(
        learner, "_loss", lambda sample, number: (seen.append((sample, number)), parameter.sum() * torch.ones(2))[1]
    )
    seen.clear()
    for step in range(2):
        scalars = learner.train_step(step)
    assert seen == [(0, 0), (4, 1), (8, 2), (12, 3)]
    assert parameter.grad is None
    assert scalars["image_loss"] == pytest.approx(scalars["mask_loss"])


@pytest.mark.parametrize(("dropout", "kept"), [(0.0, {True}), (1.0, {False}), (0.5, {True, False})])
def test_condition_dropout(
    dropout: float, kept: set[bool], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: keep = rand < condition_dropout, which hides nine classes of ten."""
    seen: list[Conditions] = []

    def spy(denoiser: Any, x0: Tensor, cond: Conditions, *_: Any) -> Tensor:
        seen.append(cond)
        return torch.zeros(len(x0), 2)

    monkeypatch.setattr(train_module, "denoising_loss", spy)
    learner = trainer(data, tmp_path, condition_dropout=dropout)
    for step in range(8):
        learner._loss(4 * step, step)
    found: set[bool] = set()
    for cond in seen:
        found |= set((cond["label"] >= 0).tolist())
        if dropout == 0:
            assert sorted(cond["label"].tolist()) == [0, 0, 1, 1]  # balanced in every batch
    assert found == kept


def test_checkpoints_say_what_they_are(straight: Path, data: Path) -> None:
    """Damage: raw weights instead of averaged ones; hashes of all splits; best by the highest loss."""
    pairs = read_samples(data)
    denoiser, card, _ = load_checkpoint(straight / "last_model.safetensors")
    state = final_state(straight)
    average = state["ema"]["averages"][state["ema"]["chosen"]]
    assert same(dict(denoiser.state_dict()), average)
    assert not same(average, state["denoiser"])
    assert (card.step, card.img_size, card.classes) == (STEPS, 16, ["benign", "malignant"])
    assert [h["image_hash"] for h in card.train_hashes] == [r.image_hash for r in pairs.select("train").records]
    assert {k: len(v) for k, v in card.aspects.items()} == {"benign": 6, "malignant": 6}
    history = [json.loads(line) for line in (straight / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [3, 6]
    averages = {length: history[-1][f"val_loss_of_average/{length}"] for length in (0.05, 0.1)}
    assert history[-1]["val_loss"] == min(averages.values()) == averages[history[-1]["ema_length"]]
    best = min(history, key=lambda row: row["val_loss"])
    found = load_checkpoint(straight / "best_model.pth")[1]
    assert (found.step, found.scores["val_loss"]) == (best["step"], best["val_loss"])
    assert json.loads((straight / "summary.json").read_text())["best"]["step"] == best["step"]
    assert sorted(p.name for p in (straight / "samples").iterdir()) == ["step_0000003.png", "step_0000006.png"]
    assert any((straight / "tensorboard").iterdir())


def test_a_training_that_is_all_warm_up_says_so(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: the comparison turned around, or said of a training whose last step has the full rate."""
    train(settings(data, tmp_path / "all", warmup_steps=7))
    assert sum("are warm-up" in line for line in caplog.messages) == 1
    caplog.clear()
    train(settings(data, tmp_path / "some", warmup_steps=6))
    assert not [line for line in caplog.messages if "are warm-up" in line]


def test_classes_with_lesions(data: Path, tmp_path: Path) -> None:
    """Damage: naming every class, so that generated normal pictures are redrawn until they show a lesion."""
    learner = trainer(data, tmp_path)
    learner.train_set.masks[learner.train_set.labels == 1] = 0
    assert learner.card(0).lesion_classes == ["benign"]


def test_train_and_val_are_needed(tmp_path: Path, write_ellipses: WriteSamples) -> None:
    """Damage: an empty batch that fails somewhere in torch."""
    pairs: SampleSet = write_ellipses(tmp_path / "pairs", {"train": 2, "val": 0})
    with pytest.raises(UserError, match="found no pair in the val split; expected at least one"):
        train(settings(pairs.root, tmp_path / "run"))


def test_states_replace_each_other(tmp_path: Path) -> None:
    """Damage: keeping every state (disk full), or what a kill left half-written."""
    (tmp_path / "state" / "step_00000003.tmp").mkdir(parents=True)
    RunFolder(tmp_path, TRAINING, {"a": 1}).begin()
    assert latest_state(tmp_path) is None
    save_state(tmp_path, 4, {"a": 1}, {"x": torch.ones(2)})
    newest = save_state(tmp_path, 8, {"a": 1}, {"x": torch.zeros(2)})
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["fingerprint.json", "step_00000008"]
    found = latest_state(tmp_path)
    assert found is not None
    assert found[0] == newest
    assert torch.equal(found[1]["x"], torch.zeros(2))
    with pytest.raises(UserError, match=r"other settings \(a: 1 -> 2\)"):
        RunFolder(tmp_path, TRAINING, {"a": 2}).begin()
    (tmp_path / "state" / "fingerprint.json").unlink()  # as runs had it before it was written at the start
    with pytest.raises(UserError, match=r"other settings \(a: 1 -> 2\)"):
        RunFolder(tmp_path, TRAINING, {"a": 2}).begin()
