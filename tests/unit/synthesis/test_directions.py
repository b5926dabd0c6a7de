"""Conditioning masks and conditioning images: what is read, sampled, written and refused. The network is tiny, with
random weights."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_networks import random_checkpoint

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import resize_anisotropic
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint, save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.inputs import ConditioningInput, read_inputs
from medsegdiff.synthesis.masks import agreement, entropy
from medsegdiff.synthesis.plan import plan_images, plan_masks
from medsegdiff.synthesis.run import generate

if TYPE_CHECKING:
    from sample_sets import WriteSamples

SIDE = 16
CLASSES = ["benign", "malignant"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that nobody trained."""
    path = tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors"
    return random_checkpoint(path, 0.05, codec=PairCodec((0.4, 0.2), (0.2, 0.4)))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> SampleSet:
    """Pairs of 40 x 40 pixels, larger than the network."""
    return write_ellipses(tmp_path_factory.mktemp("real") / "pairs", {"train": 2, "val": 1, "test": 1}, side=40)


def settings(checkpoint: Path, output: Path, **changes: Any) -> GenerateConfig:
    config = GenerateConfig(str(checkpoint), str(output), steps=2, chunk_size=4, precision="fp32", device="cpu")
    return dataclasses.replace(config, **changes)


def pictures(folder: Path, real: SampleSet, kind: str) -> Path:
    """Masks or images of some pairs in class folders, without metadata."""
    for r in real.select("train").records:
        target = folder / r.label / f"{r.id}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), real.read_mask(r) if kind == "masks" else real.read_image(r))
    return folder


@pytest.mark.parametrize("radius", [0.0, 4.0])
def test_images_for_conditioning_masks(radius: float, real: SampleSet, tmp_path: Path) -> None:
    """Damage: the mask of the network's size read back from noise, or averaged; a class of its own for all; a new
    group, by which a test picture's mask could enter train."""
    codec = PairCodec((0.4, 0.2), (0.2, 0.4), 1, radius)
    checkpoint = random_checkpoint(tmp_path / "best_model.safetensors", 0.05, codec=codec)
    sampled = generate(settings(checkpoint, tmp_path / "pairs", masks=str(real.root), num_samples_per_input=3))
    assert read_samples(sampled.root).records == sampled.records
    inputs = {r.id: r for r in real.select("train").records}
    assert len(sampled) == 3 * len(inputs) == 12
    for r in sampled.records:
        source = inputs[r.id.removeprefix("syn_").rpartition("_")[0]]
        assert (r.label, r.group, r.split, r.pixel_aspect) == (source.label, source.group, "train", 1.0)
        assert r.is_synthetic
        expected = np.where(resize_anisotropic(real.read_mask(source), SIDE) > 127, 255, 0)
        assert (sampled.read_mask(r) == expected).all()
    assert len({r.image_hash for r in sampled.records}) == 12
    assert sampled.info["conditioning_masks"] == sorted({r.mask_hash for r in inputs.values()})
    assert (sampled.root / "contact_sheet.png").is_file()


def test_the_mask_matters_to_the_image(
    real: SampleSet, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: the image of the noise alone, the conditioning mask laid over it afterwards."""
    monkeypatch.setattr(ConditioningInput, "number", 7)  # the same noise for all masks
    sampled = generate(
        settings(checkpoint, tmp_path / "pairs", masks=str(real.root), classes=["benign"], num_samples_per_input=2)
    )
    hashes = {r.id: r.image_hash for r in sampled.records}
    assert len(hashes) == 4
    assert hashes["syn_train_benign_0_000"] != hashes["syn_train_benign_1_000"]
    again = generate(settings(checkpoint, tmp_path / "again", masks=str(real.root), classes=["benign"]))
    assert {r.id: r.image_hash for r in again.records} == {k: v for k, v in hashes.items() if k.endswith("_000")}


def test_samples_do_not_depend_on_the_other_files(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: noise by the place in the folder."""
    folder = pictures(tmp_path / "masks", real, "masks")
    every = generate(settings(checkpoint, tmp_path / "all", masks=str(folder), num_samples_per_input=2, chunk_size=2))
    min((folder / "benign").iterdir()).unlink()
    fewer = generate(settings(checkpoint, tmp_path / "fewer", masks=str(folder), num_samples_per_input=2, chunk_size=2))
    hashes = {r.id: r.image_hash for r in every.records}
    assert len(fewer) == 6
    assert {r.id: r.image_hash for r in fewer.records} == {r.id: hashes[r.id] for r in fewer.records}


def test_one_class_for_masks_without_one(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: --classes that is not handed on; the first class for all."""
    folder = pictures(tmp_path / "masks", real, "masks") / "benign"
    sampled = generate(settings(checkpoint, tmp_path / "a", masks=str(folder), classes=["malignant"]))
    assert {r.label for r in sampled.records} == {"malignant"}
    both = generate(settings(checkpoint, tmp_path / "b", masks=str(folder), classes=CLASSES))
    assert sorted(r.label for r in both.records) == ["benign"] * 2 + ["malignant"] * 2
    assert all(r.id.startswith("syn_train_benign_") and r.label in r.id for r in both.records)
    assert sampled.records[0].group == both.records[0].group


def test_masks_of_images(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: the mean of one sample; maps of the network's size; the class  given to the network."""
    config = settings(checkpoint, tmp_path / "out", images=str(real.root), split="test", num_samples_per_input=5)
    rows = generate(config)
    with (tmp_path / "out" / "masks.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [row["id"] for row in rows] == [r.id for r in real.select("test").records]
    for row in rows:
        read = {
            name: cv2.imread(str(tmp_path / "out" / name / f"{row['id']}.png"), cv2.IMREAD_UNCHANGED)
            for name in ("masks", "mean", "uncertainty", "one_call")
        }
        assert all(p.shape == (40, 40) and p.dtype == np.uint8 for p in read.values())
        sampled = sorted((tmp_path / "out" / "samples").glob(f"{row['id']}_*.png"))
        assert len(sampled) == row["samples"] == 5
        assert set(np.unique(read["masks"])) <= {0, 255}
        assert ((read["mean"] > 128) <= (read["masks"] == 255)).all()
        assert 0 < row["agreement"] < 1
        assert row["area_consensus"] == pytest.approx((read["masks"] > 0).mean(), abs=1e-4)
        assert read["uncertainty"].max() > 100
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["kind"] == "masks of images"
    assert generate(config) == rows
    with pytest.raises(UserError, match="found masks of images; expected a sample folder"):
        read_samples(tmp_path / "out")  # predicted masks are no data set to learn from


def test_more_samples_than_a_chunk(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: one chunk one batch, whatever its size; noise that the batch decides."""
    few = generate(settings(checkpoint, tmp_path / "few", images=str(real.root), split="val", num_samples_per_input=6))
    many = generate(
        settings(
            checkpoint, tmp_path / "many", images=str(real.root), split="val", num_samples_per_input=6, chunk_size=20
        )
    )
    for one, other in zip(few, many, strict=True):
        assert one["area"] == pytest.approx(other["area"], abs=0.002)
        assert one["area_one_call"] == pytest.approx(other["area_one_call"], abs=1e-4)


def test_mask_first_and_joint_differ(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a mode that is parsed and not handed on."""
    monkeypatch.setattr("medsegdiff.synthesis.samples.mask_fault", lambda *_: None)
    sets = [
        generate(settings(checkpoint, tmp_path / mode, mode=mode, num_samples_per_class=2))
        for mode in ("joint", "mask_first")
    ]
    assert [len(s) for s in sets] == [4, 4]
    assert not {r.image_hash for r in sets[0].records} & {r.image_hash for r in sets[1].records}
    assert sets[1].info["fingerprint"]["mode"] == "mask_first"


def test_plans_have_a_key_for_every_draw(real: SampleSet) -> None:
    """Damage: equal masks (as the empty ones of `normal` are) that get equal noise."""
    inputs = read_inputs(real.root, "masks", SIDE, None, CLASSES)
    inputs = [dataclasses.replace(g, hash="0" * 64) for g in inputs]
    for tasks in (plan_images(inputs, CLASSES, CLASSES, 3, 4, 0), plan_masks(inputs, 3, 4, 0)):
        keys = [item.request.seed for task in tasks for item in task.items]
        assert len(keys) == len(set(keys)) == 24
    assert {len(t.items) for t in plan_masks(inputs, 9, 4, 0)} == {9}


def test_file_names_say_masks_from_images(real: SampleSet, tmp_path: Path) -> None:
    """Damage: the ultrasound picture beside `x_mask.png` taken for a mask."""
    record = real.records[0]
    for name, picture in (("x.png", real.read_image(record)), ("x_mask.png", real.read_mask(record))):
        cv2.imwrite(str(tmp_path / name), picture)
    assert [g.file for g in read_inputs(tmp_path, "masks", SIDE, None, CLASSES)] == ["x_mask.png"]
    assert [g.file for g in read_inputs(tmp_path, "images", SIDE, None, CLASSES)] == ["x.png"]


def test_masks_of_one_picture_are_one(real: SampleSet, tmp_path: Path) -> None:
    """Damage: `x_mask_1.png` as a mask of its own, whose hash is not that of the merged one in samples."""
    whole = real.read_mask(real.records[0])
    parts = whole.copy(), whole.copy()
    parts[0][:, 20:], parts[1][:, :20] = 0, 0
    for ending, part in zip(("", "_1"), parts, strict=True):
        cv2.imwrite(str(tmp_path / f"x_mask{ending}.png"), part)
    (inputs,) = read_inputs(tmp_path, "masks", SIDE, None, CLASSES)
    assert (inputs.id, inputs.hash) == ("x", real.records[0].mask_hash)


def test_folders_of_images_need_not_be_classes(real: SampleSet, tmp_path: Path) -> None:
    """Damage: leaving out the folders that are no class of the checkpoint, of which none is known."""
    folder = pictures(tmp_path / "images", real, "images")
    (folder / "benign").rename(folder / "normal")
    inputs = read_inputs(folder, "images", SIDE, None, CLASSES)
    assert [g.id.split("_")[0] for g in inputs] == ["malignant"] * 2 + ["normal"] * 2


def test_hidden_folders_hold_no_images(real: SampleSet, tmp_path: Path) -> None:
    """Damage: thumbnails in a hidden folder are taken for a class of images."""
    for folder in ("scans", ".thumbnails"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), real.read_image(real.records[0]))
    assert [image.file for image in read_inputs(tmp_path, "images", SIDE, None, [])] == ["scans/a.png"]


def test_label_maps_with_a_palette(tmp_path: Path) -> None:
    """Damage: the grey values of colours are taken for the numbers of classes; another number is let through."""
    spec = ArraySpec(1, {"background": 0, "fat": 1, "gland": 2})
    numbers = np.repeat(np.arange(3, dtype=np.uint8), 8)[:, None].repeat(24, axis=1)
    for name, shown in (("a", numbers), ("b", numbers + 1)):
        picture = Image.fromarray(shown, mode="P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
        picture.save(tmp_path / f"{name}.png")
        if name == "a":
            (mask,) = read_inputs(tmp_path, "masks", 24, None, [], spec)
            assert np.array_equal(spec.index_of(mask.picture), numbers)
    with pytest.raises(UserError, match="found pixel values 3; expected only 0"):
        read_inputs(tmp_path, "masks", 24, None, [], spec)


def test_one_sample_has_no_doubt(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: entropy of an interpolated mask, which finds doubt along every outline."""
    config = settings(checkpoint, tmp_path / "out", images=str(real.root), split="test", num_samples_per_input=1)
    for row in generate(config):
        found = cv2.imread(str(tmp_path / "out" / "uncertainty" / f"{row['id']}.png"), cv2.IMREAD_UNCHANGED)
        assert found.max() == 0
        assert (row["agreement"], row["uncertainty"], row["area_std"]) == (None, 0, 0)


def test_a_class_without_lesions_takes_no_lesion(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a normal picture with a lesion in its mask."""
    denoiser, card, _ = load_checkpoint(checkpoint)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, denoiser.state_dict(), dataclasses.replace(card, lesion_classes=["benign"]))
    with pytest.raises(UserError, match="found a lesion in class malignant; expected an empty mask"):
        generate(settings(other, tmp_path / "out", masks=str(real.root)))


def test_a_part_of_a_data_set_is_refused(real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: masks of test pictures as masks of nobody, past their split and group."""
    for kind in ("masks", "images"):
        config = settings(checkpoint, tmp_path / "out", **{kind: str(real.root / kind)})
        with pytest.raises(UserError, match="found a part of a data set; expected a sample folder"):
            generate(config)


def test_entropy_and_agreement() -> None:
    """Damage: natural logarithms; couples of a mask with itself counted."""
    assert entropy(np.array([0.0, 0.5, 1.0, 0.25])).tolist() == pytest.approx([0, 1, 0, 0.811278], abs=1e-6)
    left, right, none = (np.zeros((4, 4), bool) for _ in range(3))
    left[:, :2] = right[:, 1:3] = True
    assert agreement(np.stack([left, right])) == pytest.approx(0.5)
    assert agreement(np.stack([left, left, right])) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert agreement(np.stack([none, none])) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "mask_to_image"}, "--mode mask_to_image: found no --masks; expected --masks FOLDER"),
        ({"mode": "image_to_mask"}, "--mode image_to_mask: found no --images"),
        ({"mode": "joint", "masks": "x"}, "--masks: found mode joint; expected mode mask_to_image"),
        ({"masks": "x", "images": "y"}, "--masks: found --images beside it; expected one of them"),
        (
            {"num_samples_per_input": 3},
            "--num_samples_per_input: found mode joint; expected conditioning masks or images",
        ),
        (
            {"mode": "mask_first", "split": "val"},
            "--split: found mode mask_first; expected conditioning masks or images",
        ),
        ({"images": "FLAT"}, "png: found a black and white picture .*; expected an ultrasound picture"),
        ({"masks": "DIM", "classes": ["benign"]}, "png: found a picture whose brightest pixel is 1; expected a mask"),
        ({"masks": "INVERTED", "classes": ["benign"]}, r"png: found a lesion on 9\d% of the picture; expected at most"),
        ({"images": "REAL", "classes": ["benign"]}, "--classes: found mode image_to_mask; expected no class"),
        ({"images": "REAL", "num_samples_per_input": 0}, "--num_samples_per_input: found 0; expected a number above 0"),
        ({"masks": "nowhere"}, "nowhere: found nothing; expected a folder with masks"),
        ({"masks": "EMPTY"}, "empty: found no masks; expected a sample folder, or pictures .*, or folders benign"),
        ({"masks": "EMPTY", "split": "val"}, "--split: found val; expected --masks that is a sample folder"),
        ({"masks": "IMAGES"}, r"png: found a picture of which \d+% is neither black nor white; expected a mask"),
        ({"masks": "FLAT"}, "png: found a mask whose class nobody gave; expected one of benign, malignant"),
        ({"masks": "REAL", "classes": ["cyst"]}, "--classes: found 'cyst'; expected classes of the checkpoint"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, real: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: dropping any one check."""
    (tmp_path / "empty").mkdir()
    folders = {
        "REAL": real.root, "EMPTY": tmp_path / "empty", "IMAGES": pictures(tmp_path / "images", real, "images"),
        "FLAT": pictures(tmp_path / "masks", real, "masks") / "benign", "x": "x", "y": "y",
    }  # fmt: skip
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 1
    for name, picture in (("DIM", mask), ("INVERTED", 255 - 255 * mask)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), picture)
    values = {k: str(folders.get(v, v)) if k in ("masks", "images") else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message):
        generate(settings(checkpoint, tmp_path / "out", **values))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
