"""Phase 1 as a whole: what stands in the folder, what is left out, the same bytes twice, and real BUSI where it is."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.hashing import hash_distances
from medsegdiff.data.pictures import balance_table, contact_sheet
from medsegdiff.data.prepare import prepare, with_captions
from medsegdiff.data.records import SampleSet, class_counts
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError


def scene(seed: int, height: int = 96, width: int = 120) -> np.ndarray:
    """(H, W) uint8 noise of several scales, unlike for every seed."""
    rng = np.random.default_rng(seed)
    noise = np.sum([s * cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) for s in (1.5, 4, 9)], axis=0)
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def add(folder: Path, label: str, number: int, image: np.ndarray) -> None:
    """Write a picture and the mask of a disc."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    mask = cv2.circle(np.zeros_like(image), (60, 40), 12, 255, -1)
    write_png(folder / label / f"{label} ({number}).png", image)
    write_png(folder / label / f"{label} ({number})_mask.png", np.asarray(mask))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 benign, 10 malignant; benign 21 is benign 1 again, malignant 11 is benign 2 again."""
    folder = tmp_path_factory.mktemp("raw")
    for number in range(1, 21):
        add(folder, "benign", number, scene(number))
    for number in range(1, 11):
        add(folder, "malignant", number, scene(100 + number))
    add(folder, "benign", 21, scene(1)[2:-2, 2:-2])
    add(folder, "malignant", 11, scene(2)[1:, 1:])
    return folder


@pytest.fixture(scope="module")
def config(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> PrepareConfig:
    """Settings that fit the small set."""
    return PrepareConfig(str(raw), str(tmp_path_factory.mktemp("out") / "pairs"), folds=3)


def test_colour_of_a_grey_layout_is_refused(config: PrepareConfig) -> None:
    """Damage: BUSI is prepared grey without a word where --colour rgb was asked for."""
    with pytest.raises(UserError, match="--colour: found rgb, and the layout busi"):
        prepare(dataclasses.replace(config, colour="rgb", output_dir=f"{config.output_dir}_rgb"))


@pytest.fixture(scope="module")
def pairs(config: PrepareConfig) -> SampleSet:
    """The prepared set."""
    return prepare(config)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_groups(pairs: SampleSet) -> None:
    """No group crosses splits or folds, and no near picture stands in another split."""
    for place in ("split", "fold"):
        assert len({(r.group, getattr(r, place)) for r in pairs.records}) == len({r.group for r in pairs.records})
    train = [r.perceptual_hash for r in pairs.records if r.split == "train"]
    rest = [r.perceptual_hash for r in pairs.records if r.split != "train"]
    assert hash_distances(train, rest).min() > pairs.info["duplicates"]["bits"]


def test_folder_is_complete(pairs: SampleSet) -> None:
    """Damage: returning the set in the staging folder, which is gone."""
    assert {p.name for p in pairs.root.iterdir()} == {
        *("images", "masks", "metadata.csv", "dataset.json", "class_balance.json", "overview.png")
    }
    assert len(pairs) == 30
    record = next(r for r in pairs.records if r.id == "benign_0003")
    assert record.source == "busi:benign/benign (3).png"
    assert np.array_equal(pairs.read_image(record), scene(3))


def test_duplicates_share_a_group(pairs: SampleSet) -> None:
    """Damage: grouping by exact content misses the cropped copy."""
    groups = {r.id: r.group for r in pairs.records}
    assert groups["benign_0001"] == groups["benign_0021"]
    assert len(set(groups.values())) == 29
    assert pairs.info["duplicates"]["groups_by_size"] == {"1": 28, "2": 1}
    assert pairs.info["duplicates"]["largest_group"] == ["benign_0001", "benign_0021"]
    check_groups(pairs)


def test_class_conflict_is_left_out_and_reported(pairs: SampleSet) -> None:
    """Damage: keeping one of the two, whose class nobody knows."""
    assert not {"benign_0002", "malignant_0011"} & {r.id for r in pairs.records}
    why = "the same picture stands in another class"
    assert pairs.info["left_out"] == [
        {"file": "benign/benign (2).png", "why": why, "other": "malignant/malignant (11).png"},
        {"file": "malignant/malignant (11).png", "why": why, "other": "benign/benign (2).png"},
    ]


def test_class_balance_counts_what_is_there(pairs: SampleSet) -> None:
    """Damage: counting before conflicts are left out."""
    balance = json.loads((pairs.root / "class_balance.json").read_text())
    assert balance["all"]["classes"]["benign"] == {"count": 20, "share": 0.6667}
    assert balance["all"]["commonest_to_rarest"] == 2.0
    for split, row in class_counts(pairs.records).items():
        assert {k: v["count"] for k, v in balance[split]["classes"].items()} == row


def test_two_runs_give_the_same_bytes(raw: Path, config: PrepareConfig, pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: a date, a path or the order of the file system in the output."""
    shutil.copytree(raw, tmp_path / "elsewhere" / "nested")
    moved = dataclasses.replace(config, input_dir=str(tmp_path / "elsewhere"), output_dir=str(tmp_path / "again"))
    assert contents(prepare(moved).root) == contents(pairs.root)


def test_other_settings_do_not_overwrite(config: PrepareConfig, pairs: SampleSet) -> None:
    """Damage: leaving the seed out of the fingerprint."""
    with pytest.raises(UserError, match=r"made with other settings \(seed: 0 -> 1\)"):
        prepare(dataclasses.replace(config, seed=1))


def test_other_input_does_not_overwrite(raw: Path, config: PrepareConfig, pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: leaving the content of the input out of the fingerprint."""
    shutil.copytree(raw, tmp_path / "more")
    add(tmp_path / "more", "benign", 30, scene(300))
    with pytest.raises(UserError, match="other pictures or masks than before"):
        prepare(dataclasses.replace(config, input_dir=str(tmp_path / "more")))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"val_fraction": 1.5}, "--val_fraction: found 1.5; expected a number from 0 to 1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "found 1 together; expected less than 1"),
        ({"folds": 1}, "--folds: found 1; expected at least 2"),
        ({"duplicate_bits": 200}, "--duplicate_bits: found 200; expected 0 to 127"),
        ({"duplicate_correlation": 0.0}, "--duplicate_correlation: found 0.0; expected above 0"),
        ({"seed": -1}, "--seed: found -1"),
        ({"classes": ["benign", "Benign"]}, "--classes: found .* expected one or more class folders, each once"),
        ({"folds": 20}, "class benign: found 15 groups .* expected at least 20, one for each fold"),
    ],
)
def test_bad_settings(config: PrepareConfig, change: dict[str, object], text: str, tmp_path: Path) -> None:
    """Damage: dropping any one check; the output folder must not appear."""
    with pytest.raises(UserError, match=text):
        prepare(dataclasses.replace(config, output_dir=str(tmp_path / "new"), **change))  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_contact_sheet_outlines_the_mask() -> None:
    """Damage: sampling the outline on the input picture, or in BGR."""
    image, mask = np.full((40, 80), 90, np.uint8), np.zeros((40, 80), np.uint8)
    mask[10:30, 20:60] = 255
    sheet = contact_sheet([image] * 3, [mask, None, mask], ["a", "b", "c"], columns=2, cell=80)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 96, 2 * 82, 3)
    assert (sheet == (255, 200, 0)).all(axis=-1).any()
    assert image.max() == 90


def test_contact_sheet_of_colours_and_classes() -> None:
    """Damage: RGB shown as BGR or refused; classes of a label map outlined as one, or in one colour."""
    image, mask = np.full((40, 80, 3), (200, 10, 20), np.uint8), np.zeros((40, 80), np.uint8)
    mask[5:35, 10:35], mask[5:35, 45:70] = 1, 3
    spec = ArraySpec(3, {"background": 0, "rv": 1, "lv": 3})
    sheet = contact_sheet([image], [mask], columns=1, cell=80, spec=spec)
    left, right = sheet[:, :41], sheet[:, 41:]
    assert (left == (255, 200, 0)).all(axis=-1).any()
    assert (right == (0, 200, 255)).all(axis=-1).any()
    assert not (right == (255, 200, 0)).all(axis=-1).any()
    assert (sheet == (200, 10, 20)).all(axis=-1).any()


def test_balance_table() -> None:
    """Damage: shares of the whole set instead of the split."""
    text = balance_table({"test": {"benign": 1, "malignant": 1}, "train": {"benign": 3, "malignant": 1}})
    assert [line.split() for line in text.splitlines()] == [
        ["split", "benign", "malignant", "all"],
        ["train", "3", "(75%)", "1", "(25%)", "4"],
        ["test", "1", "(50%)", "1", "(50%)", "2"],
        ["all", "4", "(67%)", "2", "(33%)", "6"],
    ]


@pytest.mark.slow
def test_real_busi(tmp_path: Path) -> None:
    """Damage: other duplicate thresholds, or masks that are not merged, change these counts."""
    folder = os.environ.get("MEDSEGDIFF_DATA")
    if not folder:
        pytest.skip("MEDSEGDIFF_DATA does not name a folder with busi/Dataset_BUSI_with_GT, the published data set")
    pairs = prepare(PrepareConfig(str(Path(folder) / "busi" / "Dataset_BUSI_with_GT"), str(tmp_path / "busi")))
    left_out = pairs.info["left_out"]
    assert pairs.info["pictures_read"] == 437 + 210
    assert sum(entry["file"].startswith("benign") for entry in left_out) == 8
    assert sum(entry["file"].startswith("malignant") for entry in left_out) == 6
    assert {label: len(pairs.select(label=label)) for label in pairs.classes} == {"benign": 429, "malignant": 204}
    assert pairs.info["duplicates"]["groups"] == 489
    check_groups(pairs)


def test_captions_are_written_from_attributes(tmp_path: Path) -> None:
    """Damage: captions of quantiles of all splits; other ones in a second run; a data set's own ones written over."""
    for number in range(24):
        add(tmp_path / "raw", "benign" if number % 2 else "malignant", number, scene(number))
    folders = [tmp_path / "first", tmp_path / "second"]
    pairs = [prepare(PrepareConfig(str(tmp_path / "raw"), str(folder), captions=True)) for folder in folders]
    texts = [record.text for record in pairs[0].records]
    assert texts == [record.text for record in pairs[1].records]
    assert all(record.label in record.text for record in pairs[0].records)
    assert len(set(texts)) > 6
    own = [dataclasses.replace(record, text="its own") for record in pairs[0].records]
    assert {record.text for record in with_captions(own, 0)} == {"its own"}
    blank = [dataclasses.replace(record, text="") for record in pairs[0].records]
    strange = [dataclasses.replace(r, attributes={}) if r.split == "test" else r for r in blank]
    kept = [
        (a.text, b.text) for a, b in zip(with_captions(strange, 0), pairs[0].records, strict=True) if b.split != "test"
    ]
    assert all(first == second for first, second in kept)
