"""Samples on disk: what is written is what is read, and every breach of the contract names file and row."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.decoding import read_grey
from medsegdiff.data.records import (
    METADATA_FILE,
    SampleRecord,
    SampleSet,
    class_counts,
    content_digest,
    read_samples,
    write_sample,
    write_samples,
)
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs: two benign in train, one malignant in test."""
    records = []
    for number, (label, split) in enumerate([("benign", "train"), ("malignant", "test"), ("benign", "train")]):
        image = np.random.default_rng(number).integers(0, 256, (30, 40), dtype=np.uint8)
        mask = np.where(image > 200, np.uint8(255), np.uint8(0))
        name = f"{label}_{number}"
        records.append(
            write_sample(
                tmp_path, image, mask, id=name, label=label, split=split, group=f"g{number}", source=f"s:{number}"
            )
        )
    write_samples(tmp_path, records, classes=["benign", "malignant"], fingerprint={"phase": "test"}, note="kept")
    return tmp_path


def edit(root: Path, line: int, column: str, value: str) -> None:
    """Change one cell of metadata.csv; line 2 is the first row."""
    path = root / METADATA_FILE
    rows = list(csv.DictReader(path.read_text().splitlines()))
    rows[line - 2][column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_round_trip(root: Path) -> None:
    """Damage: writing a field that reading gives another type."""
    pairs = read_samples(root)
    assert [r.id for r in pairs.records] == ["benign_0", "benign_2", "malignant_1"]
    assert pairs.info["note"] == "kept"
    assert pairs.classes == ["benign", "malignant"]
    record = pairs.records[0]
    assert (record.width, record.height, record.pixel_aspect, record.fold) == (40, 30, 1.0, -1)
    expected = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    assert np.array_equal(pairs.read_image(record), expected)
    assert set(np.unique(pairs.read_mask(record))) == {0, 255}


def test_select_and_count(root: Path) -> None:
    """Damage: `select` joining its conditions with or."""
    pairs = read_samples(root)
    assert isinstance(pairs.select("train"), SampleSet)
    assert (len(pairs.select("train")), len(pairs.select("train", "malignant"))) == (2, 0)
    assert class_counts(pairs.records) == {"test": {"malignant": 1}, "train": {"benign": 2}}


def test_same_pairs_same_bytes(root: Path) -> None:
    """Damage: writing rows in the order in which they were made, or a date into the record."""
    before = (root / METADATA_FILE).read_bytes(), (root / "dataset.json").read_bytes()
    pairs = read_samples(root)
    write_samples(root, pairs.records[::-1], classes=pairs.classes, fingerprint={"phase": "test"}, note="kept")
    assert before == ((root / METADATA_FILE).read_bytes(), (root / "dataset.json").read_bytes())


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("id", "benign_0", r"line 3: found id 'benign_0' a second time; expected unique ids"),
        ("split", "dev", r"line 3: found split 'dev'; expected one of train, val, test"),
        ("label", "cyst", r"line 3: found label 'cyst'; expected one of benign, malignant"),
        ("width", "wide", r"line 3, column width: found 'wide'; expected a value of type int"),
        ("image_file_name", "../x.png", r"line 3: found path '../x.png'; expected a path inside the folder"),
        ("mask_file_name", "masks/none.png", r"line 3: found no file masks/none.png; expected an existing file"),
    ],
)
def test_broken_row(root: Path, column: str, value: str, text: str) -> None:
    """Damage: dropping any one check of `read_samples`, or counting rows from 0."""
    edit(root, 3, column, value)
    with pytest.raises(UserError, match=text):
        read_samples(root)


def test_missing_column(root: Path) -> None:
    """Damage: KeyError instead of a message."""
    path = root / METADATA_FILE
    path.write_text(path.read_text().replace("mask_hash", "hash_of_mask", 1))
    with pytest.raises(UserError, match=r"metadata\.csv: found no column mask_hash; expected every column"):
        read_samples(root)


@pytest.mark.parametrize("read", [SampleSet.read_image, SampleSet.read_mask])
def test_a_changed_picture_is_noticed(root: Path, read: Callable[[SampleSet, SampleRecord], np.ndarray]) -> None:
    """Damage: believing the hashes of metadata.csv without a look at the picture, or looking at images only."""
    pairs = read_samples(root)
    record = pairs.records[0]
    changed = read(pairs, record)
    changed[3, 4] ^= 255
    write_png(root / (record.image_file_name if read is SampleSet.read_image else record.mask_file_name), changed)
    with pytest.raises(UserError, match=r"found another picture; expected the picture that metadata\.csv describes"):
        read(pairs, record)


def test_other_schema(root: Path) -> None:
    """Damage: reading a folder of a later version as if it were this one."""
    info = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**info, "schema_version": 99}))
    with pytest.raises(UserError, match="found schema version 99; expected version 2 or older"):
        read_samples(root)


@pytest.mark.parametrize("learnt", [None, "ab" * 32, ["ab"], [7]])
def test_broken_hashes_of_what_was_learnt(root: Path, learnt: object) -> None:
    """Damage: hashes that are none, which end in a traceback where an external set is compared with them."""
    info = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**info, "learnt": learnt}))
    with pytest.raises(UserError, match=r"dataset\.json: found no list of hashes under 'learnt'"):
        read_samples(root)


def test_missing_files(root: Path) -> None:
    """Damage: a traceback where a folder is no sample folder."""
    (root / METADATA_FILE).unlink()
    with pytest.raises(UserError, match=r"metadata\.csv: found No such file"):
        read_samples(root)
    with pytest.raises(UserError, match=r"found nothing; expected a folder with metadata\.csv and dataset.json"):
        read_samples(root / "none")


def test_read_grey_refuses(tmp_path: Path) -> None:
    """Damage: returning None for a file that is no picture."""
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="found a file that is no picture; expected a whole PNG picture"):
        read_grey(tmp_path / "text.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4), 60_000, np.uint16))
    with pytest.raises(UserError, match="found 16-bit pixels; expected 8-bit pixels"):
        read_grey(tmp_path / "deep.png")


FIXTURES = Path(__file__).parents[2] / "golden" / "record" / "fixtures"


def test_schema_1_is_read_for_ever() -> None:
    """Folders of before schema 2. Damage: new columns asked for; noise not scaled synthetic, or all; no mask
    classes."""
    real, synthetic, combined = (read_samples(FIXTURES / f"{name}_v1") for name in ("pairs", "synthetic", "combined"))
    assert (len(real), len(synthetic), len(combined)) == (13, 6, 19)
    assert {r.generator for r in synthetic.records} == {"bb3d1894f2be"}
    assert [r.is_synthetic for r in combined.records].count(True) == 6
    assert not any(r.is_synthetic or r.subject or r.text or r.attributes for r in real.records)
    assert real.arrays == ArraySpec()
    for pairs in (real, synthetic, combined):
        assert all(set(np.unique(pairs.read_mask(r))) <= {0, 255} for r in pairs.records)
        assert all(pairs.read_image(r).ndim == 2 for r in pairs.records)


def test_columns_of_schema_2(tmp_path: Path) -> None:
    """Damage: a fact lost between writing and reading; attributes of one row given to another; RGB hashed as grey."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[:10, :15], mask[10:, :15] = 1, 3
    place = {"label": "a", "split": "train", "source": "own"}
    reported = {
        "text": "a, b",
        "modality": "fundus",
        "subject": "P 7",
        "derived_from": "y",
        "attributes": {"area": 0.25},
    }
    records = [
        write_sample(tmp_path, image, mask, id="x", group="g", generator="abc", **place, **reported),
        write_sample(tmp_path, image[::-1], mask, id="y", group="h", attributes={"width": 2.0}, **place),
    ]
    spec = ArraySpec(3, {"background": 0, "rv": 1, "lv": 3})
    write_samples(tmp_path, records, classes=["a"], fingerprint={}, arrays=spec)
    found = read_samples(tmp_path)
    assert list(found.records) == records
    assert found.arrays.same_as(spec)
    assert [r.is_synthetic for r in found.records] == [True, False]
    assert np.array_equal(found.read_image(records[0]), image)
    header = (tmp_path / METADATA_FILE).read_text().splitlines()[0]
    assert header == (
        "id,image_file_name,mask_file_name,label,text,modality,split,fold,subject,group,width,height,pixel_aspect,"
        "source,generator,derived_from,image_hash,mask_hash,perceptual_hash,attribute:area,attribute:width"
    )
    tensors = load_tensors(found, 10, what="set")
    assert (tensors.images.shape, tensors.masks.shape) == ((2, 3, 10, 10), (2, 2, 10, 10))
    assert tensors.masks[0].float().mean(dim=(1, 2)).tolist() == [63.75, 63.75]
    assert tensors.spec.foreground == ("rv", "lv")
    assert tensors.images[0, 0].float().mean() == pytest.approx(image[..., 0].mean(), abs=1)


def test_a_data_set_without_masks(tmp_path: Path) -> None:
    """Damage: a mask asked for where there is none; a row with one let through."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    record = write_sample(tmp_path, image, None, id="x", label="a", split="train", group="g", source="own")
    write_samples(tmp_path, [record], classes=["a"], fingerprint={}, arrays=ArraySpec(1, None))
    found = read_samples(tmp_path)
    assert load_tensors(found, 10, what="set").masks.shape == (1, 0, 10, 10)
    with pytest.raises(UserError, match="found no masks"):
        found.read_mask(record)
    write_samples(tmp_path, [record], classes=["a"], fingerprint={})
    with pytest.raises(UserError, match=r"line 2: found no mask; expected one for every row"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        {"image": {"channels": 2}},
        {"image": {"channels": 1}, "mask": {"values": {"lesion": 255}}},
        {"image": {"channels": 1}, "mask": {"values": {"background": 0, "lesion": 0}}},
        {"image": {"channels": 1}, "mask": {"values": {"background": 0, "lesion": 300}}},
    ],
)
def test_arrays_that_are_none(arrays: object, root: Path) -> None:
    """Damage: taking out the check of that fault, which ends in a traceback or in empty masks later."""
    info = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**info, "arrays": arrays}))
    with pytest.raises(UserError, match=r"dataset\.json: found another description of the arrays; expected arrays: "):
        read_samples(root)


def test_a_mark_of_its_encoding(root: Path) -> None:
    """As spreadsheets save it. Damage: the first column is not found under its name."""
    path = root / METADATA_FILE
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_samples(root)) == 3


def test_an_attribute_that_is_no_number(root: Path) -> None:
    """Damage: NaN or text as attribute."""
    path = root / METADATA_FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{lines[0]},attribute:area", *(f"{line},nan" for line in lines[1:])]))
    with pytest.raises(UserError, match=r"line 2, column attribute:area: found 'nan'; expected a finite number"):
        read_samples(root)


def test_mask_classes_are_part_of_the_content(root: Path) -> None:
    """Damage: a network of other mask classes passes for one of these, whose pixels are the same."""
    pairs = read_samples(root)
    renamed = dataclasses.replace(
        pairs, info=pairs.info | {"arrays": ArraySpec(1, {"background": 0, "cyst": 255}).to_json()}
    )
    assert pairs.content == content_digest(pairs.records)
    assert renamed.content != pairs.content
