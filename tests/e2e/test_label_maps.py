"""The whole pipeline on colour pictures with label maps, and on phantoms with classes of tissue; in miniature."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from medsegdiff.cli import run
from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.decoding import read_picture
from medsegdiff.data.phantom import TISSUE_VALUES
from medsegdiff.data.records import read_samples

pytestmark = pytest.mark.slow

SETTINGS = """
img_size: 32
batch_size: 8
num_epochs: 40
lr: 3e-3
warmup_steps: 4
precision: fp32
device: cpu
evals: 1
eval_samples: 4
eval_steps: 3
model: {model_channels: 16, channel_mult: [1, 2], transformer_depth: 1, num_heads: 2}
"""
pytestmark = pytest.mark.slow

STAINS = {"background": 0, "nuclei": 100, "antigen": 200}
PATCH = 64  # pixels


def cut_tissue(root: Path) -> None:
    """Patches of stained tissue (immunohistochemistry, which scikit-image ships) and their label maps.

    Stains are told apart by colour deconvolution (Ruifrok and Johnston 2001) and Otsu's threshold: haematoxylin in
    nuclei, DAB where the antigen is.
    """
    picture = skimage.data.immunohistochemistry()
    stains = rgb2hed(picture)
    nuclei, antigen = (cv2.GaussianBlur(stains[..., k], (0, 0), 1.5) for k in (0, 2))
    index = np.where(nuclei > threshold_otsu(nuclei), STAINS["nuclei"], 0)
    index = np.where(antigen > threshold_otsu(antigen), STAINS["antigen"], index).astype(np.uint8)
    for kind, whole in (("images", picture[..., ::-1]), ("masks", index)):
        (root / kind).mkdir(parents=True)
        for y in range(0, len(index), PATCH):
            for x in range(0, len(index), PATCH):
                cv2.imwrite(str(root / kind / f"{y:03d}_{x:03d}.png"), whole[y : y + PATCH, x : x + PATCH])


def make_phantom(root: Path) -> None:
    """Phantoms with classes of tissue."""
    counts = "--num_benign 16 --num_malignant 16 --duplicates 0"
    run("phantom", f"--output_dir {root} {counts} --tissue_classes true".split())


# How the raw folder is made, its classes, and the arrays that `prepare` has to find there
CASES: dict[str, tuple[Callable[[Path], None], str, ArraySpec]] = {
    "stained tissue": (cut_tissue, "tissue", ArraySpec(3, STAINS)),
    "phantom": (make_phantom, "benign malignant", ArraySpec(1, TISSUE_VALUES)),
}


@pytest.fixture(scope="module", params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ArraySpec]:
    """A folder in which all phases have run."""
    make, classes, spec = CASES[request.param]
    work = tmp_path_factory.mktemp("label_maps")
    make(work / "raw")
    values = " ".join(f"{name}={value}" for name, value in (spec.mask_values or {}).items())
    run("prepare", f"--input_dir {work}/raw --output_dir {work}/real --layout folders --classes {classes} "
        f"--mask_classes {values}".split())  # fmt: skip
    (work / "train.yaml").write_text(SETTINGS)
    fast = "--precision fp32 --device cpu"
    run("train", f"--config {work}/train.yaml --data_dir {work}/real --output_dir {work}/checkpoints".split())
    sample = f"--checkpoint_path {work}/checkpoints/best_model.safetensors --steps 3 --chunk_size 12 {fast}"
    run("generate", f"{sample} --num_samples_per_class 12 --max_redraws 60 --output_dir {work}/synthetic".split())
    run("generate", f"{sample} --masks {work}/real --output_dir {work}/for_masks".split())
    found = f"--images {work}/real --split test --num_samples_per_input 2 --output_dir {work}/found_masks"
    run("generate", f"{sample} {found}".split())
    run("combine", f"--real_data {work}/real --synthetic_data {work}/synthetic --output_dir {work}/combined".split())
    run("segment", f"--data_dir {work}/combined --output_dir {work}/segmentation --img_size 64 --steps 12 --evals 1 "
        f"--batch_size 8 --bootstrap 50 {fast}".split())  # fmt: skip
    run("evaluate", f"--real_data {work}/real --synthetic_data {work}/synthetic --output_dir {work}/evaluation "
        f"--img_size 64 --reference_models_dir {work}/models --reference_model_steps 6 --embedding_steps 2 "
        f"--bootstrap 20 {fast}".split())  # fmt: skip
    return work, spec


def test_samples_keep_the_arrays(folder: tuple[Path, ArraySpec]) -> None:
    """Damage: grey images of a colour set; numbers of classes for pixel values; arrays that dataset.json forgets."""
    work, spec = folder
    for name in ("real", "synthetic", "for_masks", "combined"):
        samples = read_samples(work / name)
        assert samples.arrays == spec, name
        record = samples.records[-1]
        assert samples.read_image(record).shape[2:] == ((3,) if spec.channels == 3 else ())
        assert set(np.unique(samples.read_mask(record))) <= set((spec.mask_values or {}).values())
    real, drawn = (read_samples(work / name) for name in ("real", "for_masks"))
    shown = {v for r in drawn.records for v in np.unique(drawn.read_mask(r))}
    assert shown == {v for r in real.select("train").records for v in np.unique(real.read_mask(r))}


def test_masks_found_on_images(folder: tuple[Path, ArraySpec]) -> None:
    """Damage: a mean picture of one class only; a consensus of booleans."""
    work, spec = folder
    record = read_samples(work / "real").select("test").records[0]
    for label in spec.foreground:
        assert (work / "found_masks" / "mean" / f"{record.id}_{label}.png").is_file()
    consensus = read_picture(work / "found_masks" / "masks" / f"{record.id}.png", 1)
    assert set(np.unique(consensus)) <= set((spec.mask_values or {}).values())


def test_scores_of_classes(folder: tuple[Path, ArraySpec]) -> None:
    """Damage: lesion against background; no score of a class; groups by size, which lesions alone have."""
    work, spec = folder
    scores = json.loads((work / "segmentation" / "scores.json").read_text())["test"]
    assert {"dice", "hd95", *(f"dice_{name}" for name in spec.foreground)} <= set(scores["all"])
    assert not {"small", "large"} & set(scores)
    with (work / "segmentation" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = [np.mean([float(row[f"dice_{name}"]) for name in spec.foreground]) for row in rows]
    assert [float(row["dice"]) for row in rows] == pytest.approx(means)


def test_report_says_what_is_not_for_label_maps(folder: tuple[Path, ArraySpec]) -> None:
    """Damage: shape or speckle of a union of tissues; a section that goes without a word."""
    work, _ = folder
    metrics = json.loads((work / "evaluation" / "report.json").read_text())["metrics"]
    for name in ("lesions", "speckle", "distances"):
        assert "not for label maps" in " ".join(metrics[name]["skipped"]), name
    assert "not for label maps" in (work / "evaluation" / "report.html").read_text()
    assert metrics["privacy"]["copies"]["exact"] == 0
