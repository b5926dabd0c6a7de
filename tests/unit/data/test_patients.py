"""Known patients, shared borders and own splits: what keeps train, val and test apart in data that nobody published."""

from __future__ import annotations

import json
import logging
import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.external import read_external
from medsegdiff.data.frames import shared_frame
from medsegdiff.data.hashing import content_hash
from medsegdiff.data.prepare import group_names, leave_out_crossing, parse_mask_classes, prepare
from medsegdiff.data.readers import READERS, RawSample, Reader, ReadOptions
from medsegdiff.data.readers.matching import find_roots
from medsegdiff.data.records import SampleSet
from medsegdiff.data.splits import assign_folds, assign_splits
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError


def scene(seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    """(H, W) uint8 noise of several scales, unlike for every seed."""
    rng = np.random.default_rng(seed)
    noise = np.sum([s * cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) for s in (1.5, 4, 9)], axis=0)
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def disc(height: int = 64, width: int = 80) -> np.ndarray:
    """(H, W) uint8 mask of a disc."""
    return np.asarray(cv2.circle(np.zeros((height, width), np.uint8), (40, 30), 9, 255, -1))


SCENES = [scene(n) for n in range(24)]


@st.composite
def patients(draw: st.DrawFn) -> list[RawSample]:
    """24 pictures of two classes; some have a patient, and some show the scene of another one, a little cropped."""
    samples = []
    for number in range(24):
        copied = draw(st.integers(0, 23)) if draw(st.integers(0, 4)) == 0 else number
        image = SCENES[number] if copied == number else SCENES[copied][1:, 1:]
        subject = draw(st.sampled_from(["", "", "P1", "P2", "P3", "P4", "P5", "P6", "P7"]))
        samples.append(RawSample(f"x{number}", "ab"[number % 2], f"{number}.png", image, disc(*image.shape), subject))
    return samples


@settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
@given(samples=patients(), seed=st.integers(0, 99))
def test_no_patient_in_two_splits_or_folds(samples: list[RawSample], seed: int) -> None:
    """Damage: patients of the reader dropped; content duplicates no longer joined with them; chains cut."""
    groups = group_names(samples, 78, 0.6)
    labels = [s.label for s in samples]
    try:
        splits = assign_splits(labels, groups, 0.2, 0.2, seed)
        folds = assign_folds(labels, groups, splits, 2, seed)
    except UserError:
        return  # too few groups of a class: nothing is split
    for where in (splits, folds):
        place: dict[str, object] = {}
        for sample, found in zip(samples, where, strict=True):
            if sample.subject:
                assert place.setdefault(sample.subject, found) == found
            scene_of = content_hash(sample.image)
            assert place.setdefault(scene_of, found) == found


def write_views(root: Path, count: int = 12) -> None:
    """Three unlike views of each patient, named P07_view1.png, in two classes."""
    for number in range(count):
        folder = root / ("cyst", "solid")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for view in range(3):
            write_png(folder / f"P{number:02d}_view{view}.png", scene(100 * number + view))
            write_png(folder / f"P{number:02d}_view{view}_mask.png", disc())


def crossing(pairs: SampleSet) -> int:
    """How many patients, as the names of files say them, stand in several splits or folds."""
    places: dict[str, set[tuple[str, int]]] = {}
    for record in pairs.records:
        places.setdefault(re.findall(r"P\d+", record.source)[0], set()).add((record.split, record.fold))
    return sum(len({split for split, _ in found}) > 1 or len(found) > 1 for found in places.values())


@pytest.mark.slow
def test_patients_in_file_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: no way to say patients, no word where names look as if there were some, or a column left empty."""
    write_views(tmp_path / "raw")
    caplog.set_level(logging.INFO)
    plain = prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "plain"), folds=2))
    assert crossing(plain) > 0
    assert "names have 12 beginnings, as 'P00' of 3 files: are these patients?" in caplog.text
    known = PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "known"), folds=2, subject_pattern=r"(P\d+)_view")
    pairs = prepare(known)
    assert crossing(pairs) == 0
    assert {r.subject for r in pairs.records} == {f"P{n:02d}" for n in range(12)}
    assert pairs.info["duplicates"]["subjects"] == 12
    with pytest.raises(UserError, match=r"--subject_pattern Q\(\\d\): found no patient in cyst/P00_view0\.png"):
        prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "none"), subject_pattern=r"Q(\d)"))


def framed(image: np.ndarray, side: int = 200) -> np.ndarray:
    """A screenshot with bars and text around a picture; the name in the bar changes, which is no scan."""
    whole = np.full((side, side), 12, np.uint8)
    whole[:20], whole[-30:], whole[:, -40:] = 70, 60, 35
    cv2.putText(whole, "BREAST L12-5", (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 230, 1)
    cv2.putText(whole, content_hash(image)[:6], (120, 190), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 200, 1)
    whole[40 : 40 + image.shape[0], 30 : 30 + image.shape[1]] = image
    return whole


def test_a_shared_border_is_found() -> None:
    """Damage: text that changes taken for scan; a border seen in pictures that fill their frame or differ in size."""
    images = [scene(n, 100, 110) for n in range(12)]
    frame = shared_frame([framed(image) for image in images])
    assert frame == pytest.approx((40 / 200, 30 / 200, 140 / 200, 140 / 200), abs=0.03)
    assert shared_frame(images) is None
    assert shared_frame([framed(image, 200 + n) for n, image in enumerate(images)]) is None
    assert shared_frame([framed(image) for image in images[:5]]) is None


@pytest.mark.slow
def test_screenshots_do_not_fall_into_one_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: hashes and correlations of whole screenshots, which the border makes alike; the images cropped."""
    for number in range(30):
        folder = tmp_path / "raw" / ("benign", "malignant")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{number}.png", framed(scene(number, 110, 120)))
        mask = np.zeros((200, 200), np.uint8)
        mask[60:80, 60:90] = 255
        write_png(folder / f"{number}_mask.png", mask)
    pairs = prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "out"), folds=2))
    assert len(pairs) == 30
    assert "all images share a border" in caplog.text
    assert pairs.info["duplicates"]["groups"] >= 28
    assert pairs.frame is not None
    assert {(r.width, r.height) for r in pairs.records} == {(200, 200)}
    assert len({r.perceptual_hash for r in pairs.records}) == 30


def test_splits_far_from_what_was_asked_for_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: one patient with most of the pictures bends the splits without a word."""
    folder = tmp_path / "raw" / "images"
    folder.mkdir(parents=True)
    rows = ["file,subject"]
    for number in range(20):
        write_png(folder / f"{number}.png", scene(number))
        rows.append(f"{number}.png,{'A' if number < 16 else number}")
    (tmp_path / "raw" / "metadata.csv").write_text("\n".join(rows))
    prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "out"), folds=2))
    assert re.search(r"\d+% of the pictures are in (train|val|test), \d+% were asked for", caplog.text)
    assert "has 16 of 20 pictures" in caplog.text


def test_own_splits_are_kept_and_do_not_leak(tmp_path: Path) -> None:
    """Damage: a new split in place of the own one; a patient of test kept in train; no val although one is needed."""
    rows = ["file,subject,split"]
    for number in range(20):
        path = tmp_path / "raw" / "images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, scene(number))
        rows.append(f"{number}.png,{number % 18},{'test' if number < 5 else 'train'}")
    (tmp_path / "raw" / "metadata.csv").write_text("\n".join(rows))
    pairs = prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "out"), folds=2, keep_splits=True))
    assert {r.source for r in pairs.select("test").records} == {f"folders:images/{n}.png" for n in range(5)}
    assert {e["file"] for e in pairs.info["left_out"]} == {"images/18.png", "images/19.png"}  # patients 0 and 1
    assert pairs.info["left_out"][0]["why"] == "same patient or scene as one of test"
    assert len(pairs.select("val")) == 2
    assert len(pairs) == 18


def test_the_last_split_of_a_group_wins() -> None:
    """Damage: val kept where test has the group, or the test picture left out."""
    samples = [RawSample(s, "a", s, SCENES[0], None, split=s) for s in ("train", "val", "test")]
    kept, _, left_out = leave_out_crossing([*samples, samples[0]], ["g", "g", "g", "h"])
    assert [s.name for s in kept] == ["test", "train"]
    assert [(e["file"], e["other"]) for e in left_out] == [("train", "test"), ("val", "test")]


def test_colour_and_label_maps_are_prepared(tmp_path: Path) -> None:
    """Damage: colours lost on the way, masks thresholded, captions and attributes dropped, or images alone refused."""
    rng = random.Random(0)
    rows = ["file,label,text,modality,attribute:size"]
    for number in range(16):
        image = np.dstack([scene(3 * number + c) for c in range(3)])
        mask = np.zeros((64, 80), np.uint8)
        mask[10:30, 10:40], mask[30:50, 10:40] = 1, 3
        for name, picture in (("images", image), ("masks", mask)):
            (tmp_path / "raw" / name).mkdir(parents=True, exist_ok=True)
            write_png(tmp_path / "raw" / name / f"{number}.png", picture)
        rows.append(f"{number}.png,{'ab'[number % 2]},caption {number},histology,{rng.random()}")
    (tmp_path / "raw" / "metadata.csv").write_text("\n".join(rows))
    values = ["background=0", "rv=1", "lv=3"]
    pairs = prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "out"), folds=2, mask_classes=values))
    assert pairs.arrays.channels == 3
    assert pairs.arrays.foreground == ("rv", "lv")
    record = next(r for r in pairs.records if r.source == "folders:images/4.png")
    assert np.array_equal(pairs.read_image(record), np.dstack([scene(12 + c) for c in range(3)]))
    assert np.unique(pairs.read_mask(record)).tolist() == [0, 1, 3]
    assert (record.label, record.text, record.modality) == ("a", "caption 4", "histology")
    assert set(record.attributes) == {"size"}
    info = json.loads((pairs.root / "dataset.json").read_text())
    assert info["arrays"]["mask"]["values"] == {"background": 0, "rv": 1, "lv": 3}


def test_a_new_data_set_is_one_reader_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a list of layouts anywhere but in the table: in the settings, in `auto`, or in external sets."""

    def find(folder: Path, _: ReadOptions) -> list[Path]:
        return find_roots(folder, lambda f: (f / "toy.txt").is_file())

    def read(root: Path, _: ReadOptions) -> list[RawSample]:
        seeds = (root / "toy.txt").read_text().split()
        return [RawSample(f"t{n}", "ab"[int(n) % 2], n, scene(int(n)), disc(), f"P{int(n) // 4}") for n in seeds]

    monkeypatch.setitem(READERS, "toy", Reader(find, read, "toy: toy.txt", "ultrasound"))
    (tmp_path / "raw" / "set").mkdir(parents=True)
    (tmp_path / "raw" / "set" / "toy.txt").write_text(" ".join(map(str, range(40))))
    for layout in ("auto", "toy"):
        pairs = prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / layout), layout=layout, folds=2))
        assert (pairs.info["layout"], len(pairs), len({r.group for r in pairs.records})) == ("toy", 40, 10)
        assert {r.modality for r in pairs.records} == {"ultrasound"}
    external = read_external(tmp_path / "raw", 32, ["a", "b"], [])
    assert (external.name, len(external.data), len({r.group for r in external.data.records})) == ("toy", 40, 10)


@pytest.mark.parametrize(
    "texts",
    [["lesion=255"], ["background=0"], ["background=0", "a"], ["background=0", "a=256"], ["background=0", "a=0"]],
)
def test_mask_classes_that_are_none(texts: list[str]) -> None:
    """Damage: taking out the check of that fault."""
    with pytest.raises(UserError, match=r"--mask_classes: found .* expected background=0"):
        parse_mask_classes(texts)
