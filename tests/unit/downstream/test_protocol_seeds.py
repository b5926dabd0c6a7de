"""Repeated runs, external sets, gradual mixing, growing pictures: what the downstream benchmark adds to one
training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import settings, write_stu

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.data.sampling import real_samples, sample_gradual
from medsegdiff.downstream.benchmark import format_results, segment
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.models import build_model
from medsegdiff.downstream.segmentation.training import SegmentationTrainer, predict
from medsegdiff.downstream.supervised import training_sizes
from medsegdiff.downstream.train_and_test import total_steps
from medsegdiff.errors import UserError

pytestmark = pytest.mark.slow

CLASSES = ["benign", "malignant"]


@pytest.fixture(scope="module")
def repeated(ellipses: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentConfig, dict[str, Any]]:
    """Two seeds, with what they returned."""
    config = settings(ellipses.root, tmp_path_factory.mktemp("seeds") / "out", seeds=[3, 5])
    return config, segment(config)


def test_every_seed_is_a_run_of_its_own(repeated: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path) -> None:
    """The same as `--seed 5` alone. Damage: the second seed goes on with what the first one left in memory."""
    config, results = repeated
    alone = segment(dataclasses.replace(config, seeds=None, seed=5, output_dir=str(tmp_path / "alone")))
    stored = json.loads((Path(config.output_dir) / "seed_5" / "scores.json").read_text())
    assert stored["test"] == alone["test"]
    assert results["test_by_run"]["all"]["dice"][1] == alone["test"]["all"]["dice"]["value"]
    assert results["runs"] == ["seed_3", "seed_5"]


def test_mean_is_that_of_the_seeds(repeated: tuple[SegmentConfig, dict[str, Any]]) -> None:
    """Damage: the scores above are those of the last seed, or a table leaves the seeds out."""
    config, results = repeated
    cell = results["test"]["all"]["dice"]
    assert cell["value"] == pytest.approx(np.mean(results["test_by_run"]["all"]["dice"]))
    assert cell["runs"] == 2
    assert json.loads((Path(config.output_dir) / "scores.json").read_text())["test"] == results["test"]
    assert all(name in format_results(results) for name in ("seed_3", "seed_5"))


def test_more_seeds_go_on_and_one_seed_is_refused(
    repeated: tuple[SegmentConfig, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished seeds are read. Damage: they are trained again, or if a single run is put between them."""
    config, results = repeated

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(SegmentationTrainer, "train_step", never)
    fewer = segment(dataclasses.replace(config, seeds=[5]))
    assert fewer["test_by_run"]["all"]["dice"] == results["test_by_run"]["all"]["dice"][1:]
    segment(config)
    with pytest.raises(UserError, match="found runs with --seeds"):
        segment(dataclasses.replace(config, seeds=None))
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(UserError, match="--seeds"):
            segment(dataclasses.replace(config, seeds=seeds))


def test_compared_with_repeated_runs(repeated: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path) -> None:
    """A run against itself. Damage: runs of the two sides are taken apart by picture."""
    config, _ = repeated
    results = segment(dataclasses.replace(config, baseline=config.output_dir))
    cell = results["comparison"]["subgroups"]["all"]["dice"]
    assert cell["difference"]["value"] == pytest.approx(0)
    assert cell["run"] == cell["baseline"]
    assert results["comparison"]["other_settings"] == []


def test_a_baseline_that_was_trained_otherwise_is_reported(
    repeated: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """Half the learning rate, one run. Damage: arms that were not trained alike are compared without a word."""
    config, _ = repeated
    changes = {"lr": 0.001, "seeds": None, "output_dir": str(tmp_path / "out"), "baseline": config.output_dir}
    results = segment(dataclasses.replace(config, **changes))
    assert results["comparison"]["other_settings"] == ["lr: 0.002 -> 0.001"]
    assert "1 run(s) against 2\nnot trained alike: lr: 0.002 -> 0.001" in format_results(results)


def test_the_file_holds_what_is_printed(repeated: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path) -> None:
    """Other resamples later. Damage: scores.json keeps the intervals of the first call, or its settings."""
    config = dataclasses.replace(repeated[0], seeds=None, output_dir=str(tmp_path / "one"))
    first, second = segment(config), segment(dataclasses.replace(config, bootstrap=333))
    assert first["test"] != second["test"]
    stored = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert stored["test"] == second["test"]
    assert stored["config"]["bootstrap"] == 333


def test_external_set_is_scored_beside_test(
    repeated: tuple[SegmentConfig, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for after training; read the second time. Damage: it trains anew, or keeps scores of other pictures."""
    config, results = repeated
    config = dataclasses.replace(config, test_data=[str(write_stu(tmp_path / "one", 1))])
    found = segment(config)
    scores = found["external"]["stu_hospital"]
    assert (scores["pictures"], scores["left_out"]) == (5, 0)
    assert set(scores["test"]) - {"small", "large"} == {"all"}  # no classes there
    assert found["test"] == results["test"]
    rows = (Path(config.output_dir) / "seed_3" / "external" / "stu_hospital" / "per_image.csv").read_text()
    assert len(rows.splitlines()) == 6
    other = segment(dataclasses.replace(config, test_data=[str(write_stu(tmp_path / "two", 2))]))
    assert other["external"]["stu_hospital"]["test"] != scores["test"]
    monkeypatch.setattr("medsegdiff.downstream.benchmark.score_weights", None)
    again = segment(dataclasses.replace(config, test_data=[str(tmp_path / "two")]))
    assert again["external"] == other["external"]


def test_classification_is_the_same_family(ellipses: SampleSet, tmp_path: Path) -> None:
    """Seeds and all. Damage: a task skips part of the downstream benchmark, or takes settings that it does not use."""
    config = settings(
        ellipses.root, tmp_path / "out", task="classify", model="resnet10t", encoder=None, seeds=[0, 1], evals=1
    )
    results = segment(config)
    assert {"auc", "balanced_accuracy", "sensitivity_at_90"} <= set(results["test"]["all"])
    assert results["test"]["all"]["auc"]["runs"] == 2
    assert (tmp_path / "out" / "seed_0" / "roc.png").is_file()
    assert "val auc" in format_results(results)
    with pytest.raises(UserError, match="--encoder"):
        segment(dataclasses.replace(config, encoder="resnet18"))
    stu = dataclasses.replace(config, test_data=[str(write_stu(tmp_path / "stu", 1))])
    with pytest.raises(UserError, match="pictures without a known class"):
        segment(stu)


def test_real_share_rises_to_one() -> None:
    """A hundred samples. Damage: real pairs come first, if none are sampled in the end, or a sample depends on the
    batch."""
    synthetic = torch.arange(20) < 12
    labels = torch.arange(20) % 2
    rows = torch.cat([sample_gradual(labels, synthetic, start, 5, 100, 0, False) for start in range(0, 100, 5)])
    share = [float((~synthetic[part]).float().mean()) for part in rows.split(10)]
    assert share[0] <= 0.1
    assert share == sorted(share)
    assert share[-3:] == [1, 1, 1]
    assert len(rows) == 100
    assert [real_samples(n, 100) for n in (0, 70, 100)] == [0, 35, 65]
    whole = sample_gradual(labels, synthetic, 0, 100, 100, 0, False)
    assert sorted(whole.tolist()) == sorted(rows.tolist())


def test_gradual_mixing_needs_both_kinds(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: real pairs alone are taken without a word."""
    with pytest.raises(UserError, match=r"--mixing gradual: found real pairs only"):
        segment(settings(ellipses.root, tmp_path / "out", mixing="gradual"))


def test_steps_are_a_matter_of_the_recipe() -> None:
    """Damage: the number of pairs decides how long an arm trains where no epochs are asked for."""
    assert total_steps(SegmentConfig("d"), 100) == 600
    assert total_steps(SegmentConfig("d", steps=7), 100) == 7
    assert total_steps(SegmentConfig("d", epochs=50, batch_size=8), 100) == 625
    assert total_steps(SegmentConfig("d", epochs=3, batch_size=8), 3) == 2


def test_pictures_grow(ellipses: SampleSet) -> None:
    """Sizes in steps of 32, each for as long as the others. Damage: the last part is not at full size."""
    assert training_sizes(128) == [64, 96, 128]
    assert training_sizes(256) == [128, 160, 192, 224, 256]
    assert training_sizes(64) == [64]
    train, val = (load_tensors(ellipses.select(split), 128, what=split) for split in ("train", "val"))
    trainer = SegmentationTrainer(settings(ellipses.root, Path("o"), img_size=128), CLASSES, train, val, 10)
    assert [trainer.batch(step)[0].shape[-1] for step in (0, 3, 4, 6, 7, 9)] == [64, 64, 96, 96, 128, 128]
    assert trainer.small_steps == 7
    whole = dataclasses.replace(trainer.config, progressive_resizing=0.0)
    assert SegmentationTrainer(whole, CLASSES, train, val, 10).batch(0)[0].shape == (4, 1, 128, 128)


def test_epochs_and_steps_are_not_both_given(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: one of the two silently wins."""
    with pytest.raises(UserError, match="--epochs and --steps: found both"):
        segment(settings(ellipses.root, tmp_path / "out", epochs=2))


def test_epochs_are_passes_over_the_train_split(repeated: tuple[SegmentConfig, dict[str, Any]]) -> None:
    """Damage: an epoch is a fixed number of pairs, whatever the data set holds."""
    config, _ = repeated
    pairs = len(read_samples(Path(config.data_dir)).select("train"))
    with pytest.raises(UserError, match=f"steps: 2 -> {-(-3 * pairs // config.batch_size)}"):
        segment(dataclasses.replace(config, steps=None, epochs=3))


def without_config(results: dict[str, Any]) -> dict[str, Any]:
    """All but the settings, which name folders and files."""
    return {key: value for key, value in results.items() if key != "config"}


def test_a_file_of_weights_counts_by_its_content(ellipses: SampleSet, tmp_path: Path) -> None:
    """Moved: the same run; changed: another one; gone: no matter to a finished run.

    Damage: the path of the file is what counts, or a finished run needs a file that it has no use for any more.
    """
    model = build_model("unet", "mobilenet_v2")
    for name, value in (("one", 0.0), ("other", 1.0)):
        (tmp_path / name).mkdir()
        weights = {k: v + value for k, v in model.encoder.state_dict().items()}
        torch.save(weights, tmp_path / name / "encoder.pth")
    config = settings(ellipses.root, tmp_path / "out", encoder_weights=str(tmp_path / "one" / "encoder.pth"))
    first = segment(config)
    (tmp_path / "one" / "encoder.pth").rename(tmp_path / "moved.pth")
    moved = dataclasses.replace(config, encoder_weights=str(tmp_path / "moved.pth"))
    assert without_config(segment(moved)) == without_config(first)
    with pytest.raises(UserError, match="other settings"):
        segment(dataclasses.replace(config, encoder_weights=str(tmp_path / "other" / "encoder.pth")))
    (tmp_path / "moved.pth").unlink()
    assert without_config(segment(moved)) == without_config(first)
    for changes in ({"encoder_weights": "never/there.pth"}, {"lr": 0.1}):
        with pytest.raises(UserError, match="other settings"):
            segment(dataclasses.replace(moved, **changes))
    with pytest.raises(UserError, match=r"moved\.pth: found no such file"):
        segment(dataclasses.replace(moved, output_dir=str(tmp_path / "not begun")))
    assert not (tmp_path / "not begun").exists()


def test_the_best_weights_on_val_are_kept(ellipses: SampleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three evaluations is the best. Damage: the last weights are kept, or patience never ends."""
    train, val = (load_tensors(ellipses.select(split), 32, what=split) for split in ("train", "val"))
    config = settings(ellipses.root, Path("o"), patience=1)
    trainer = SegmentationTrainer(config, CLASSES, train, val, 3)
    scores = iter([0.4, 0.6, 0.5])
    monkeypatch.setattr(trainer, "score", lambda: next(scores))
    kept = []
    for step in range(3):
        trainer.train_step(step)
        trainer.evaluate(step + 1)
        kept.append({name: value.clone() for name, value in trainer.best_weights.items()})
    assert (trainer.best_score, trainer.best_step) == (0.6, 2)
    assert trainer.finished()
    assert all(torch.equal(kept[1][name], kept[2][name]) for name in kept[1])
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[1])


def test_mirrored_pictures_get_mirrored_masks(ellipses: SampleSet) -> None:
    """With `flip`. Damage: the mirror image's prediction is not mirrored back, or is left out."""
    torch.manual_seed(0)
    model = build_model("unet", "mobilenet_v2").eval()
    images = load_tensors(ellipses.select("test"), 32, what="test").images.float() / 255
    both, mirrored = (predict(model, x, 0.5, 0.2, "fp32", flip=True) for x in (images, images.flip(-1)))
    assert torch.allclose(both, mirrored.flip(-1), atol=1e-5)
    assert not torch.allclose(both, predict(model, images, 0.5, 0.2, "fp32", flip=False), atol=1e-3)
