"""Applying what phase 5 trained to new pictures, in Python and by `medsegdiff predict`."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_runs import settings

import medsegdiff
from medsegdiff.cli import main, run
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.downstream.benchmark import segment
from medsegdiff.downstream.segmentation.training import predict_masks
from medsegdiff.downstream.train_and_test import Data
from medsegdiff.engine.files import write_png


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory, ellipses: SampleSet) -> Path:
    """A run of phase 5, two steps long."""
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    segment(settings(ellipses.root, folder))
    return folder


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory, ellipses: SampleSet) -> Path:
    """A classifier, two steps long."""
    folder = tmp_path_factory.mktemp("classification") / "run"
    segment(settings(ellipses.root, folder, task="classify", encoder=None, model="mobilenetv3_small_050"))
    return folder


def test_masks_are_those_of_phase_5(segmentation: Path, ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: grey values are not those of training, or mirror images are left out."""
    config = settings(ellipses.root, tmp_path / "unused", precision="fp32")
    loaded = medsegdiff.load_segmenter(segmentation, device="cpu", precision="fp32")
    model, how = loaded.predictor.model, loaded.predictor.settings
    device = next(model.parameters()).device
    expected = predict_masks(model, Data(ellipses, 32).test, how["mean"], how["std"], config, device)
    records = ellipses.select("test").records
    for record, mask in zip(records, expected, strict=True):
        found = loaded.predict(ellipses.read_image(record))
        np.testing.assert_array_equal(found.mask > 0, mask)
        assert found.probability.shape == (1, 32, 32)
        assert found.classes == ("lesion",)


def test_predictions_have_the_size_of_the_picture(segmentation: Path) -> None:
    """Damage: width and height are mixed up, or the mask has the size of the network."""
    loaded = medsegdiff.load_segmenter(segmentation, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (50, 90)).astype(np.uint8)
    found = loaded.predict(image)
    assert found.mask.shape == (50, 90)
    assert found.mask_pil.size == (90, 50)
    again = loaded.predict(Image.fromarray(image))
    np.testing.assert_array_equal(found.mask, again.mask)
    np.testing.assert_array_equal((found.probability[0] > 0.5), found.mask > 0)


def test_the_command_writes_what_python_finds(segmentation: Path, tmp_path: Path) -> None:
    """Damage: files are named by number, or areas are those of the resized mask."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    images = {f"scan_{k}": np.random.default_rng(k).integers(0, 255, (40, 60 + k)).astype(np.uint8) for k in range(3)}
    for name, image in images.items():
        write_png(pictures / f"{name}.png", image)
    line = f"--model_path {segmentation} --images {pictures} --output_dir {tmp_path / 'out'} --device cpu"
    rows = run("predict", line.split())
    loaded = medsegdiff.load_segmenter(segmentation, device="cpu")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == list(images) == [row["id"] for row in rows]
    for row in rows:
        found = loaded.predict(images[row["id"]])
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "masks" / f"{row['id']}.png"), 0), found.mask)
        assert row["area:lesion"] == pytest.approx(float((found.mask > 0).mean()), abs=1e-6)
        assert (tmp_path / "out" / "probabilities" / f"{row['id']}.png").is_file()
    before = (tmp_path / "out" / "predictions.csv").stat().st_mtime_ns
    assert run("predict", line.split()) == rows  # finished: nothing is computed again
    assert (tmp_path / "out" / "predictions.csv").stat().st_mtime_ns == before


def test_predictions_are_no_samples(segmentation: Path, ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: predicted masks are taken for labels."""
    line = f"--model_path {segmentation} --images {ellipses.root} --split test --output_dir {tmp_path / 'out'}"
    assert len(run("predict", [*line.split(), "--device", "cpu"])) == len(ellipses.select("test"))
    with pytest.raises(medsegdiff.UserError, match="found predictions; expected a sample folder"):
        read_samples(tmp_path / "out")


def test_classes(classification: Path, ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: probabilities stand under the wrong class, or do not add up to 1."""
    loaded = medsegdiff.load_classifier(classification, device="cpu", precision="fp32")
    found = loaded.predict(ellipses.read_image(ellipses.records[0]))
    assert list(found) == ["benign", "malignant"]
    assert sum(found.values()) == pytest.approx(1)
    line = f"--model_path {classification} --images {ellipses.root} --output_dir {tmp_path / 'out'} --device cpu"
    (row, *_) = run("predict", [*line.split(), "--precision", "fp32"])
    assert row["probability:benign"] == pytest.approx(found["benign"], abs=1e-5)
    assert row["predicted"] == max(found, key=lambda name: found[name])
    assert not (tmp_path / "out" / "masks").exists()


def test_a_network_of_the_other_task(segmentation: Path, classification: Path) -> None:
    """Damage: a classifier's probabilities are taken for a mask."""
    with pytest.raises(medsegdiff.UserError, match=r"expected one of task segment\. Use load_classifier"):
        medsegdiff.load_segmenter(classification)
    with pytest.raises(medsegdiff.UserError, match=r"expected one of task classify\. Use load_segmenter"):
        medsegdiff.load_classifier(segmentation)


def test_what_cannot_be_loaded(segmentation: Path, ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: the first of several seeds is taken without a word, or a folder without weights is a traceback."""
    both = tmp_path / "both"
    segment(settings(ellipses.root, both, seeds=[3, 4]))
    with pytest.raises(medsegdiff.UserError, match=r"weights of each seed \(seed_3, seed_4\).*Give .*seed_3"):
        medsegdiff.load_segmenter(both)
    assert medsegdiff.load_segmenter(both / "seed_4").predictor.digest
    with pytest.raises(medsegdiff.UserError, match=r"no best_model\.safetensors"):
        medsegdiff.load_segmenter(tmp_path)
    with pytest.raises(medsegdiff.UserError, match=r"best_model\.safetensors of a run of phase 5"):
        medsegdiff.load_segmenter(tmp_path / "nothing.safetensors")


def test_bad_input_is_one_line(segmentation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage: no pictures make an empty table, or half a folder stays behind."""
    (tmp_path / "empty").mkdir()
    line = f"predict --model_path {segmentation} --images {tmp_path / 'empty'} --output_dir {tmp_path / 'out'}"
    assert main(line.split()) == 2
    assert "found no images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
