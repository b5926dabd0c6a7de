"""`medsegdiff evaluate` from folder to report, with reference models trained for a few steps only."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_sets import WriteSamples

from medsegdiff.data.records import SampleSet, read_samples, write_sample, write_samples
from medsegdiff.downstream import train_and_test as once
from medsegdiff.engine import locks
from medsegdiff.engine.files import REPORT_FILE, SCORES_FILE
from medsegdiff.engine.locks import locked
from medsegdiff.engine.run_folder import EVALUATION, RunFolder
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.reference_models.fit import fit_reference_models, reference_model_folder
from medsegdiff.evaluation.report.write import PAGE_FILE, TABLE_FILE
from medsegdiff.evaluation.run import _choose, _load, _size, evaluate

pytestmark = pytest.mark.slow

SIDE = 64


def copy_as_synthetic(source: SampleSet, folder: Path) -> SampleSet:
    """The pairs of `source` as if they were generated."""
    records = []
    for r in source.records:
        image, mask = source.read_image(r), source.read_mask(r)
        new = {"id": f"s_{r.id}", "label": r.label, "split": "train", "group": r.group, "source": "test"}
        records.append(write_sample(folder, image, mask, **new, generator="test"))
    return write_samples(folder, records, classes=source.classes, fingerprint={"phase": "test"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> Path:
    """real/ and synthetic/, sampled alike, and a folder for reference models that all tests share."""
    root = tmp_path_factory.mktemp("evaluate")
    write_ellipses(root / "real", {"train": 14, "val": 6, "test": 6}, side=SIDE)
    sampled = write_ellipses(root / "sampled", {"train": 12}, side=SIDE, seed=1)
    copy_as_synthetic(sampled, root / "synthetic")
    return root


def settings(folders: Path, output: Path, **changes: object) -> EvaluateConfig:
    """Few steps, few resamples."""
    config = EvaluateConfig(
        real_data=str(folders / "real"),
        synthetic_data=str(folders / "synthetic"),
        output_dir=str(output),
        reference_models_dir=str(folders / "reference_models"),
        reference_model_steps=12,
        embedding_steps=4,
        bootstrap=20,
        device="cpu",
        precision="fp32",
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def wait_for(event: Callable[[], object]) -> None:
    """Until it is true, or a minute is over."""
    end = time.monotonic() + 60
    while not event() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_report_comes_out_and_reference_models_are_found_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: a metric crashes on few pictures, a file is missing, or reference models are trained again for each
    report.

    Also if a lock is taken, or a folder made, to find a reference model that is finished.
    """
    result = evaluate(settings(folders, tmp_path / "one"))
    assert json.loads((tmp_path / "one" / REPORT_FILE).read_text()) == json.loads(json.dumps(result))
    assert result["compared"]["counts"]["synthetic"] == {"benign": 12, "malignant": 12}
    assert (tmp_path / "one" / TABLE_FILE).read_text().count("\n") == 25
    assert "Verdicts" in (tmp_path / "one" / PAGE_FILE).read_text()
    before = {p: p.stat().st_mtime_ns for p in (folders / "reference_models").rglob("*.safetensors")}
    assert len(before) == 3
    # They are read alone: another process may be reading them, and the folder may be one that all may only read
    held = RunFolder.held

    def held_for_the_report(self: RunFolder, wait: bool = False) -> Any:
        return held(self, wait) if self.kind is EVALUATION else pytest.fail(f"held {self.path}")

    monkeypatch.setattr(RunFolder, "held", held_for_the_report)
    again = evaluate(settings(folders, tmp_path / "two"))
    assert {p: p.stat().st_mtime_ns for p in (folders / "reference_models").rglob("*.safetensors")} == before
    assert again["metrics"] == result["metrics"]


def test_reference_models_that_another_process_trains_are_waited_for(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage: the second of two evaluations of a real set is refused, or trains the segmenter anew."""
    config, real = settings(folders, tmp_path), read_samples(folders / "real")
    sets, _ = _load(config, real, read_samples(folders / "synthetic"))
    fit_reference_models(config, real, sets)
    shutil.copytree(folders / "reference_models", tmp_path / "reference_models")
    config = dataclasses.replace(config, reference_models_dir=str(tmp_path / "reference_models"))
    folder = next((tmp_path / "reference_models").glob("segmenter_*"))
    (folder / SCORES_FILE).rename(tmp_path / SCORES_FILE)
    holds = threading.Event()

    def waits() -> list[str]:
        return [line for line in caplog.messages if "waiting until another run" in line]

    def other() -> None:
        with locked(folder):
            holds.set()
            wait_for(waits)
            (tmp_path / SCORES_FILE).rename(folder / SCORES_FILE)

    monkeypatch.setattr(locks, "POLL", 0.02)
    monkeypatch.delattr(once, "_train")
    caplog.set_level("INFO", "medsegdiff.engine.locks")
    thread = threading.Thread(target=other)
    thread.start()
    holds.wait()
    assert fit_reference_models(config, real, sets).segmenter is not None
    thread.join()
    assert len(waits()) == 1


def test_the_real_folder_as_synthetic_is_shouted_at(folders: Path, tmp_path: Path) -> None:
    """Damage: a set that is its own model gets anything but a failed audit."""
    result = evaluate(settings(folders, tmp_path, synthetic_data=str(folders / "real")))
    verdicts = {line["metric"]: line["outcome"] for line in result["verdicts"]}
    assert verdicts["privacy"] == "fail"


def test_a_class_on_one_side_is_left_out_and_reported(folders: Path, tmp_path: Path) -> None:
    """Damage: a dropped class ends the evaluation, or goes without a word."""
    synthetic = read_samples(folders / "synthetic").select(label="benign")
    copy_as_synthetic(synthetic, tmp_path / "benign")
    result = evaluate(settings(folders, tmp_path / "out", synthetic_data=str(tmp_path / "benign")))
    assert list(result["compared"]["counts"]["synthetic"]) == ["benign"]
    assert any("'malignant' is left out" in note for note in result["compared"]["notes"])


def test_held_out_pictures_that_the_generator_learnt_are_refused(folders: Path, tmp_path: Path) -> None:
    """Damage: the audit runs on a real set that was split otherwise than for the generator: copies would pass."""
    shutil.copytree(folders / "synthetic", tmp_path / "synthetic")
    info = json.loads((tmp_path / "synthetic" / "dataset.json").read_text())
    tested = read_samples(folders / "real").select("test").records[0]
    info["checkpoint"] = {
        "train_hashes": [{"image_hash": tested.image_hash, "perceptual_hash": tested.perceptual_hash}]
    }
    (tmp_path / "synthetic" / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="held-out pictures that it never saw"):
        evaluate(settings(folders, tmp_path / "out", synthetic_data=str(tmp_path / "synthetic")))
    assert not (tmp_path / "out").exists()


def test_no_class_in_common_is_refused(folders: Path, tmp_path: Path, write_ellipses: WriteSamples) -> None:
    """Damage: nothing is compared with nothing."""
    other = write_ellipses(tmp_path / "other", {"train": 2}, side=SIDE, classes=["normal"])
    copy_as_synthetic(other, tmp_path / "normal")
    with pytest.raises(UserError, match="a class that train, held-out and synthetic pairs have"):
        evaluate(settings(folders, tmp_path / "out", synthetic_data=str(tmp_path / "normal")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sides", "asked", "size", "reported"),
    [
        ((64,), None, 64, False),
        ((48,), None, 128, True),
        ((64, 96), None, 128, True),
        ((100,), None, 128, True),
        ((64,), 96, 96, False),
    ],
)
def test_size_of_the_comparison(
    folders: Path, sides: tuple[int, ...], asked: int | None, size: int, reported: bool
) -> None:
    """Damage: pictures of several sizes, or of one that networks cannot take, are not resampled, or without a word."""
    first = read_samples(folders / "synthetic")
    records = [dataclasses.replace(first.records[0], width=side, height=side) for side in sides]
    config = settings(folders, folders / "out", img_size=asked)
    found, notes = _size(config, dataclasses.replace(first, records=tuple(records)))
    assert (found, bool(notes)) == (size, reported)


def test_black_pictures_and_empty_masks_get_a_report(folders: Path, tmp_path: Path) -> None:
    """Damage: a constant picture or an empty mask brings a NaN or a crash into any metric."""
    synthetic = read_samples(folders / "synthetic")
    records = [
        write_sample(
            tmp_path / "black",
            np.full((SIDE, SIDE), number % 2, np.uint8),
            np.zeros((SIDE, SIDE), np.uint8),
            id=r.id,
            label=r.label,
            split="train",
            group=r.id,
            source="test",
            generator="test",
        )
        for number, r in enumerate(synthetic.records)
    ]
    write_samples(tmp_path / "black", records, classes=synthetic.classes, fingerprint={"phase": "test"})
    result = evaluate(settings(folders, tmp_path / "out", synthetic_data=str(tmp_path / "black")))
    assert json.dumps(result, allow_nan=False)
    assert result["compared"]["counts"]["synthetic"] == {"benign": 12, "malignant": 12}


def test_max_pairs_takes_as_many_of_each_class(folders: Path) -> None:
    """Damage: the choice is not balanced, not reported, or another one each time."""
    synthetic = read_samples(folders / "synthetic")
    chosen, notes = _choose(settings(folders, folders / "out", max_pairs=5), synthetic)
    assert Counter(r.label for r in chosen) == {"benign": 5, "malignant": 5}
    assert "10 were chosen at random" in notes[0]
    assert _choose(settings(folders, folders / "out", max_pairs=5), synthetic)[0] == chosen
    assert _choose(settings(folders, folders / "out", max_pairs=99), synthetic) == (synthetic.records, [])


def test_real_pairs_of_a_combined_set_are_left_out(folders: Path) -> None:
    """Damage: real pairs count as synthetic ones, which are then as good as real, and copies."""
    synthetic, real = read_samples(folders / "synthetic"), read_samples(folders / "real")
    both = dataclasses.replace(synthetic, records=(*real.records, *synthetic.records))
    chosen, notes = _choose(settings(folders, folders / "out"), both)
    assert chosen == synthetic.records
    assert notes == [f"{len(real)} real pairs of the synthetic set were left out."]
    limited, notes = _choose(settings(folders, folders / "out", max_pairs=5), both)
    assert Counter(r.label for r in limited) == {"benign": 5, "malignant": 5}
    assert len(notes) == 2
    assert _choose(settings(folders, folders / "out"), real) == (real.records, [])


def test_held_out_pictures_that_a_combined_set_learnt_are_refused(folders: Path) -> None:
    """Damage: only the hashes that a generated set carries are asked."""
    real, synthetic = read_samples(folders / "real"), read_samples(folders / "synthetic")
    learnt = [real.select("val").records[0].perceptual_hash]
    combined = dataclasses.replace(synthetic, info={**synthetic.info, "learnt": learnt})
    with pytest.raises(UserError, match="held-out pictures that it never saw"):
        _load(settings(folders, folders / "out"), real, combined)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": ["train"]}, "--held_out"),
        ({"held_out": []}, "--held_out"),
        ({"img_size": 100}, "a multiple of 32"),
        ({"bootstrap": 19}, "--bootstrap: found 19; expected 20 or more"),
        ({"max_pairs": 0}, "--max_pairs"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    folders: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Damage: a bad setting is found out only after the reference models are trained, or never."""
    with pytest.raises(UserError, match=message):
        evaluate(settings(folders, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_phase_is_refused(folders: Path, tmp_path: Path) -> None:
    """Damage: a report is written into a data set."""
    with pytest.raises(UserError, match="a data set"):
        evaluate(settings(folders, folders / "synthetic"))


def test_a_user_without_a_home_keeps_reference_models_in_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a container with an unknown user id ends in a traceback, or writes into a folder named ~."""

    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    config = EvaluateConfig("real", "synthetic", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(reference_model_folder(config, "segmenter", {})).startswith(
        "/cache/medsegdiff/reference_models/segmenter_"
    )
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert reference_model_folder(config, "segmenter", {}).parent == tmp_path / "reference_models"
    named = dataclasses.replace(config, reference_models_dir="/models")
    assert reference_model_folder(named, "segmenter", {}).parent == Path("/models")
