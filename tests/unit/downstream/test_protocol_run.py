"""Segmentation from samples to scores: learns, resumes to the bit, compares, refuses what cannot work."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleRecord, read_samples, write_sample, write_samples
from medsegdiff.downstream.benchmark import format_results, segment
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.models import load_model
from medsegdiff.downstream.segmentation.training import SegmentationTrainer, segmentation_loss
from medsegdiff.downstream.train_and_test import WEIGHTS_FILE
from medsegdiff.engine.locks import locked
from medsegdiff.errors import UserError

pytestmark = pytest.mark.slow

SIDE = 40  # native pixels
COUNTS = {"train": 6, "val": 3, "test": 3}  # pairs a class and split
CLASSES = ["benign", "malignant"]


def make_pairs(root: Path, seed: int = 0, test_labels: tuple[str, ...] = ("benign", "malignant")) -> Path:
    """Samples of dark ellipses on noise; the two classes differ in shape."""
    random = np.random.default_rng(seed)
    records: list[SampleRecord] = []
    y, x = np.mgrid[:SIDE, :SIDE]
    for split, count in COUNTS.items():
        for label in test_labels if split == "test" else CLASSES:
            for number in range(count):
                high, wide = (8, 12) if label == "benign" else (12, 8)
                centre = random.uniform(14, 26, size=2)
                mask = ((y - centre[0]) / high) ** 2 + ((x - centre[1]) / wide) ** 2 < 1
                image = np.where(mask, 40, 160) + random.normal(0, 20, size=mask.shape)
                name = f"{split}_{label}_{number}"
                pictures = (image.clip(0, 255).astype(np.uint8), mask.astype(np.uint8) * 255)
                records.append(
                    write_sample(root, *pictures, id=name, label=label, split=split, group=name, source="test")
                )
    write_samples(root, records, classes=CLASSES, fingerprint={"phase": "test", "seed": seed})
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sample folder for all tests that do not change it."""
    return make_pairs(tmp_path_factory.mktemp("pairs") / "data")


def settings(data: Path, output: Path, **changes: Any) -> SegmentConfig:
    """20 steps at 32 pixels, evaluated four times."""
    base = SegmentConfig(
        str(data), str(output), steps=20, evals=4, batch_size=4, warmup_steps=2, img_size=32, bootstrap=50,
        save_every=7, device="cpu", encoder="mobilenet_v2",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentConfig, dict[str, Any]]:
    """An uninterrupted run and what it returned."""
    config = settings(data, tmp_path_factory.mktemp("run") / "seg")
    return config, segment(config)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    """Let training die in the step after `step` steps; the returned function takes that back."""
    whole = SegmentationTrainer.train_step

    def dying(self: SegmentationTrainer, number: int) -> dict[str, float]:
        if number == step:
            raise KeyboardInterrupt
        return whole(self, number)

    monkeypatch.setattr(SegmentationTrainer, "train_step", dying)
    return lambda: monkeypatch.setattr(SegmentationTrainer, "train_step", whole)


def test_training_improves_dice(data: Path, tmp_path: Path) -> None:
    """Dice on val after 40 steps against the start. Damage: masks are not augmented like images."""
    config = settings(data, tmp_path, steps=40, encoder="resnet18")
    pairs = read_samples(data)
    loaded = [load_tensors(pairs.select(s), 32, what=s) for s in ("train", "val")]
    trainer = SegmentationTrainer(config, CLASSES, loaded[0], loaded[1], 40)
    before = trainer.evaluate(0)["val/dice"]
    losses = [trainer.train_step(step)["loss"] for step in range(40)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert trainer.evaluate(40)["val/dice"] > max(0.6, before + 0.1)


def test_interrupted_run_ends_with_the_same_weights(
    data: Path, finished: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step 12 (last state: 10), then run again. Damage: EMA or optimiser state is not put back."""
    config = dataclasses.replace(finished[0], output_dir=str(tmp_path / "seg"))
    restore = stop_after(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        segment(config)
    restore()
    results = segment(config)
    expected, _ = load_model(Path(finished[0].output_dir) / WEIGHTS_FILE)
    found, _ = load_model(tmp_path / "seg" / WEIGHTS_FILE)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert results["test"] == finished[1]["test"]
    assert not (tmp_path / "seg" / "state").exists()


def test_a_run_killed_at_its_very_end_is_cleared_up(
    finished: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """Scores are written, half of the state is deleted. Damage: a finished run keeps its state, or half a file."""
    output = shutil.copytree(finished[0].output_dir, tmp_path / "seg")
    (output / "state" / "step_00000020").mkdir(parents=True)
    for name in ("comparison.json.tmp", "state/fingerprint.json", ".lock"):
        (output / name).write_text("{}")
    config = dataclasses.replace(finished[0], output_dir=str(output))
    assert segment(config)["test"] == finished[1]["test"]
    kept = {p.relative_to(finished[0].output_dir) for p in Path(finished[0].output_dir).rglob("*")}
    assert {p.relative_to(output) for p in output.rglob("*")} == kept


def test_a_run_is_known_before_its_first_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: other settings go on in the folder of a run that has no state yet, or in that of a running one."""
    stop_after(monkeypatch, 0)
    config = settings(data, tmp_path / "seg")
    with pytest.raises(KeyboardInterrupt):
        segment(config)
    with pytest.raises(UserError, match=r"found a run with other settings \(lr: 0\.002 -> 0\.001\)"):
        segment(dataclasses.replace(config, lr=0.001))
    with locked(tmp_path / "seg"), pytest.raises(UserError, match="another run that is writing here"):
        segment(config)


def test_outputs(finished: tuple[SegmentConfig, dict[str, Any]]) -> None:
    """Files and sizes agree. Damage: scores are of val, or a class is left out of the table."""
    config, results = finished
    output = Path(config.output_dir)
    rows = list(csv.DictReader((output / "per_image.csv").open()))
    assert {row["id"].split("_")[0] for row in rows} == {"test"}
    assert list(rows[0]) == ["id", "group", "label", "area", "dice", "iou", "sensitivity", "precision", "hd95"]
    stored = json.loads((output / "scores.json").read_text())
    assert stored["pairs"] == {"train": 12, "val": 6, "test": 6}
    assert stored["test"]["all"]["dice"]["value"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))
    assert (stored["img_size"], stored["steps"]) == (32, 20)
    assert (output / "overlays.png").stat().st_size > 10_000
    table = format_results(results)
    assert all(word in table for word in ("32 x 32", "all", "benign", "malignant", "hd95"))


def test_finished_run_is_not_trained_again(
    finished: tuple[SegmentConfig, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same settings: same scores at once; others: refused. Damage: fingerprint is not compared."""
    stop_after(monkeypatch, 0)
    config, results = finished
    assert segment(config) == results
    with pytest.raises(UserError, match=r"found a run with other settings \(lr: 0\.002 -> 0\.001\)"):
        segment(dataclasses.replace(config, lr=0.001))


def test_baseline_is_compared_image_by_image(
    data: Path, finished: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """A run against another seed's. Damage: the difference is baseline - run."""
    config = settings(data, tmp_path / "seg", seed=1, steps=4, evals=2, baseline=finished[0].output_dir)
    results = segment(config)
    cell = results["comparison"]["subgroups"]["malignant"]["dice"]
    means = [r["test"]["malignant"]["dice"]["value"] for r in (results, finished[1])]
    assert [cell["run"], cell["baseline"]] == pytest.approx(means)
    assert cell["difference"]["value"] == pytest.approx(means[0] - means[1])
    assert json.loads((tmp_path / "seg" / "comparison.json").read_text()) == results["comparison"]
    assert "paired by image" in format_results(results)


def test_baseline_of_other_pictures_is_refused(finished: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path) -> None:
    """Same ids, other pixels; and a folder without scores. Damage: ids alone are compared."""
    other = make_pairs(tmp_path / "data", seed=1)
    config = settings(other, tmp_path / "seg", baseline=finished[0].output_dir)
    with pytest.raises(UserError, match="same names with other content"):
        segment(config)
    with pytest.raises(UserError, match=r"no scores\.json"):
        segment(dataclasses.replace(config, baseline=str(other)))
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 100}, r"--img_size: found 100; expected a multiple of 32, such as 96 or 128"),
        ({"batch_size": 1}, "--batch_size"),
        ({"steps": 0}, "--steps"),
        ({"encoder": "resnet81"}, "--encoder"),
        ({"baseline": "nowhere"}, "nowhere: found nothing"),
    ],
)
def test_bad_settings(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Each names its flag. Damage: the check of that setting is taken out."""
    with pytest.raises(UserError, match=message):
        segment(settings(data, tmp_path / "seg", **changes))


def test_class_without_test_image(tmp_path: Path) -> None:
    """Damage: a class is silently left out of the scores."""
    data = make_pairs(tmp_path / "data", test_labels=("benign",))
    with pytest.raises(UserError, match="no test image of class 'malignant'"):
        segment(settings(data, tmp_path / "seg"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",test,", ",val,", "no pair in the test split"),
        ("test_benign_0,40,40,1.0,test,,", "test_benign_0,40,40,1.0,test,abc,", "a synthetic pair in test"),
        ("test,-1,,test_benign_0,", "test,-1,,train_benign_0,", "group train_benign_0 in train as well as in test"),
    ],
)
def test_splits_that_leak(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A metadata.csv spoilt by hand. Damage: `check_splits` is not called before training."""
    path = make_pairs(tmp_path / "data") / "metadata.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        segment(settings(tmp_path / "data", tmp_path / "seg"))


def test_loss_by_hand() -> None:
    """Two pictures, probabilities one half. Damage: Dice is pooled over the batch instead of image by image."""
    masks = torch.zeros(2, 1, 2, 2)
    masks[0] = 1
    dice = ((2 * 2 + 1) / (2 + 4 + 1) + 1 / (2 + 1)) / 2
    expected = np.log(2) + 1 - dice
    assert float(segmentation_loss(torch.zeros(2, 1, 2, 2), masks)) == pytest.approx(expected)
