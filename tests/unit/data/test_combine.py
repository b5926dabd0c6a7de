"""Phase 4: counts per class, val and test untouched, and every way in which a test picture could leak refused."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medsegdiff.data import combine as module
from medsegdiff.data.combine import combine, plan_counts
from medsegdiff.data.config import CombineConfig
from medsegdiff.data.hashing import content_hash, perceptual_hash
from medsegdiff.data.records import SampleRecord, SampleSet, class_counts, read_samples, write_sample, write_samples
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError

CLASSES = ["benign", "malignant"]
FIXTURES = Path(__file__).parents[2] / "golden" / "record" / "fixtures"
REAL = {"train": (8, 4), "val": (2, 2), "test": (3, 2)}


def scene(seed: int) -> np.ndarray:
    """(48, 56) uint8 noise, unlike for every seed."""
    rng = np.random.default_rng(seed)
    noise = np.sum([s * cv2.GaussianBlur(rng.standard_normal((48, 56)), (0, 0), s) for s in (1.5, 4)], axis=0)
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def add(
    root: Path, image: np.ndarray, label: str, number: int, split: str, source: str, **columns: str
) -> SampleRecord:
    """Write one pair."""
    mask = np.asarray(cv2.circle(np.zeros_like(image), (25, 20), 8, 255, -1))
    name = f"{label}_{number:04d}"
    return write_sample(
        root, image, mask, id=name, label=label, split=split, group=f"g_{name}", source=source, **columns
    )


def write_real(root: Path) -> SampleSet:
    """21 real pairs as in `REAL`, scenes 0..20."""
    records, seed = [], 0
    for split, counts in REAL.items():
        for label, count in zip(CLASSES, counts, strict=True):
            for _ in range(count):
                records.append(add(root, scene(seed), label, seed, split, f"busi:{seed}"))
                seed += 1
    return write_samples(root, records, classes=CLASSES, fingerprint={"phase": "prepare"})


def write_synthetic(
    root: Path, real: SampleSet, counts: tuple[int, ...] = (6, 9), extra: list[np.ndarray] | None = None, **info: Any
) -> SampleSet:
    """Synthetic pairs of scenes from 1000 on, from a checkpoint trained on the train split of `real`."""
    images: list[tuple[np.ndarray, str]] = []
    records: list[SampleRecord] = []
    for label, count in zip(CLASSES, counts, strict=True):
        images += [(scene(1000 + len(images) + i), label) for i in range(count)]
    images += [(image, "benign") for image in extra or []]
    for number, (image, label) in enumerate(images):
        records.append(add(root, image, label, number, "train", "abc", generator="abc"))
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in real.select("train").records]
    info = {"checkpoint": {"train_hashes": hashes}, **info}
    return write_samples(root, records, classes=CLASSES, fingerprint={"phase": "generate"}, **info)


@pytest.fixture
def real(tmp_path: Path) -> SampleSet:
    """The real set."""
    return write_real(tmp_path / "real")


@pytest.fixture
def config(tmp_path: Path, real: SampleSet) -> CombineConfig:
    """Settings for a real set and one with 6 benign, 9 malignant synthetic pairs."""
    write_synthetic(tmp_path / "synthetic", real)
    return CombineConfig(str(tmp_path / "real"), str(tmp_path / "synthetic"), str(tmp_path / "combined"))


def message(config: CombineConfig) -> str:
    """The text of the error; nothing may have been written."""
    with pytest.raises(UserError) as caught:
        combine(config)
    assert not Path(config.output_dir).exists()
    return str(caught.value)


def test_balances_train_and_leaves_the_rest(config: CombineConfig, real: SampleSet) -> None:
    """Damage: letting synthetic pairs into val, or stopping at the count of the larger class."""
    result = combine(config)
    counts = class_counts(result.records)
    assert counts["train"] == {"benign": 13, "malignant": 13}  # 4 + 9 malignant are all there are
    for split in ("val", "test"):
        assert result.select(split).records == real.select(split).records
    added = [r for r in result.records if r.is_synthetic]
    assert {(r.split, r.fold) for r in added} == {("train", -1)}
    assert read_samples(result.root).records == result.records


def test_report_say_before_and_after(config: CombineConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: reporting the shares of all splits instead of train."""
    with caplog.at_level(logging.INFO):
        result = combine(config)
    balance = json.loads((result.root / "class_balance.json").read_text())
    assert balance["text"] == "benign/malignant in train, %: 67/33 -> 50/50"
    assert balance["train_before"]["counts"] == {"benign": 8, "malignant": 4}
    assert balance["train_after"]["synthetic"] == {"benign": 5, "malignant": 9}
    assert balance == result.info["class_balance"]
    assert "67/33 -> 50/50" in caplog.text


def test_ids_and_groups_stay_unique(config: CombineConfig, real: SampleSet) -> None:
    """Damage: keeping ids that both sets have, so that a synthetic file takes the place of a real one."""
    result = combine(config)
    added = [r for r in result.records if r.is_synthetic]
    assert all(r.id.startswith("syn_") and r.group.startswith("syn_") for r in added)
    assert len({r.id for r in result.records}) == len(result)
    first = next(r for r in result.records if r.id == "benign_0000")
    assert np.array_equal(result.read_image(first), scene(0))


def test_files_are_hard_links_or_copies(config: CombineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: giving up where the file system has no hard links."""
    linked = combine(config)
    assert (linked.root / "images" / "benign_0000.png").stat().st_nlink > 1

    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(module.os, "link", refuse)
    copied = combine(dataclasses.replace(config, output_dir=str(tmp_path / "copied")))
    assert (copied.root / "images" / "benign_0000.png").stat().st_nlink == 1
    assert (copied.root / "metadata.csv").read_bytes() == (linked.root / "metadata.csv").read_bytes()


@pytest.mark.parametrize(
    ("real_counts", "available", "wanted", "balance", "expected"),
    [
        ((8, 4), (6, 9), None, True, (5, 9)),  # until malignant has no more
        ((8, 4), (6, 9), 6, True, (1, 5)),  # first malignant up to 8, then in turn
        ((8, 4), (0, 9), None, True, (0, 4)),  # only malignant was generated
        ((8, 4), (6, 2), None, True, (0, 2)),  # not enough to balance: as near as can be
        ((0, 0), (6, 9), None, True, (6, 6)),  # synthetic only
        ((8, 4), (6, 9), None, False, (6, 9)),
        ((8, 4), (8, 4), 6, False, (4, 2)),
        ((8, 4), (6, 9), 99, False, (6, 9)),
    ],
)
def test_plan(
    real_counts: tuple[int, int],
    available: tuple[int, int],
    wanted: int | None,
    balance: bool,
    expected: tuple[int, int],
) -> None:
    """Damage: going on with one class after the other has run out."""
    kept, there, counts = (dict(zip(CLASSES, values, strict=True)) for values in (real_counts, available, expected))
    assert plan_counts(kept, there, wanted, balance) == counts


def test_larger_ratio_draws_the_same_and_more(config: CombineConfig, tmp_path: Path) -> None:
    """Damage: seeding by the number of pairs, which makes ratios differ in more than size."""
    small = combine(dataclasses.replace(config, ratio=0.5, output_dir=str(tmp_path / "small")))
    large = combine(dataclasses.replace(config, ratio=1.0, output_dir=str(tmp_path / "large")))
    assert len(small.select("train")) == 12 + 6
    assert len(large.select("train")) == 12 + 12
    assert {r.image_hash for r in small.records} < {r.image_hash for r in large.records}


def test_shortage_is_reported(config: CombineConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: adding fewer pairs than asked for without a word."""
    combine(dataclasses.replace(config, ratio=5.0))
    assert "60 synthetic pairs wanted, 14 added: there are 6 benign, 9 malignant" in caplog.text


def test_synthetic_only(config: CombineConfig) -> None:
    """Damage: leaving real pairs in train, or taking them from val and test too."""
    counts = class_counts(combine(dataclasses.replace(config, synthetic_only=True)).records)
    assert counts["train"] == {"benign": 6, "malignant": 6}
    assert (counts["val"], counts["test"]) == ({"benign": 2, "malignant": 2}, {"benign": 3, "malignant": 2})


@pytest.mark.parametrize("alone", [False, True])
def test_what_was_learnt_travels_on(config: CombineConfig, real: SampleSet, tmp_path: Path, alone: bool) -> None:
    """Damage: reporting of pictures of val and test, or only of the pictures that stand in train."""
    trained_on = [{"image_hash": "ab" * 32, "perceptual_hash": "cd" * 32}]  # of another preparation of the same data
    write_synthetic(tmp_path / "synthetic", real, checkpoint={"train_hashes": trained_on})
    combined = combine(dataclasses.replace(config, synthetic_only=alone))
    shown = {r.perceptual_hash for r in real.select("train").records}
    assert combined.learnt == sorted(shown | {"cd" * 32})
    assert real.learnt == []


def test_nothing_to_add(config: CombineConfig, real: SampleSet, tmp_path: Path) -> None:
    """Damage: writing a combined set that is the real one."""
    write_synthetic(tmp_path / "synthetic", real, (6, 0))
    text = message(config)
    assert "found only 6 benign, 0 malignant; expected pairs of the rarest class to balance train with" in text


def test_checkpoint_that_saw_a_test_picture(config: CombineConfig, real: SampleSet, tmp_path: Path) -> None:
    """Damage: comparing exact hashes only lets a cropped copy through."""
    other = write_real(tmp_path / "other")
    record = real.select("test").records[0]
    near = add(tmp_path / "other", real.read_image(record)[1:, 1:], "benign", 900, "train", "busi:copy")
    assert near.image_hash != record.image_hash
    leaky = dataclasses.replace(other, records=(*other.records, near))
    write_synthetic(tmp_path / "synthetic", leaky)
    text = message(config)
    assert "found 1 val or test pictures that the checkpoint was trained on, the first benign_" in text
    assert "expected none within 78 bits" in text


def test_synthetic_copy_of_a_val_picture(config: CombineConfig, real: SampleSet, tmp_path: Path) -> None:
    """Damage: checking what the checkpoint saw but not what it drew."""
    picture = real.read_image(real.select("val").records[0])
    write_synthetic(tmp_path / "synthetic", real, extra=[np.asarray(cv2.resize(picture, (64, 64)))])
    assert "found copies of 1 val or test pictures, the first of benign_0012" in message(config)


@pytest.mark.parametrize("checkpoint", [None, {}, {"train_hashes": []}, {"train_hashes": [{"image_hash": "a"}]}])
def test_unknown_provenance(config: CombineConfig, real: SampleSet, tmp_path: Path, checkpoint: Any) -> None:
    """Damage: taking missing hashes for no leak."""
    write_synthetic(tmp_path / "synthetic", real, checkpoint=checkpoint)
    assert "dataset.json: found no such entry; expected checkpoint.train_hashes" in message(config)


def test_changed_picture(config: CombineConfig, real: SampleSet) -> None:
    """Damage: believing the hashes of metadata.csv without a look at the pictures."""
    write_png(real.root / real.select("test").records[0].image_file_name, scene(77))
    assert "found another picture; expected the picture that metadata.csv describes" in message(config)


def test_swapped_folders(config: CombineConfig) -> None:
    """Damage: putting real pairs into train as if they were synthetic."""
    swapped = dataclasses.replace(config, real_data=config.synthetic_data, synthetic_data=config.real_data)
    text = message(swapped)
    assert "found 15 synthetic pairs, the first benign_0000; expected only real pairs as --real_data" in text


def test_two_real_folders(config: CombineConfig, tmp_path: Path) -> None:
    """Damage: accepting any sample folder as synthetic."""
    write_real(tmp_path / "other")
    text = message(dataclasses.replace(config, synthetic_data=str(tmp_path / "other")))
    assert "found 21 pairs that are not synthetic" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ratio": 0.0}, "--ratio: found 0.0; expected a number above 0"),
        ({"duplicate_bits": -1}, "--duplicate_bits: found -1"),
        ({"seed": -1}, "--seed: found -1"),
    ],
)
def test_bad_settings(config: CombineConfig, change: dict[str, Any], text: str) -> None:
    """Damage: dropping any one check."""
    with pytest.raises(UserError, match=text):
        dataclasses.replace(config, **change)


def test_same_folder_twice(config: CombineConfig) -> None:
    """Damage: comparing paths as text, which a trailing dot defeats."""
    with pytest.raises(UserError, match="found the same folder as --real_data; expected a folder of its own"):
        dataclasses.replace(config, synthetic_data=config.real_data + "/.")


def test_unknown_class(config: CombineConfig, tmp_path: Path) -> None:
    """Damage: KeyError, or a class that the real data lacks in train."""
    info = json.loads((tmp_path / "synthetic" / "dataset.json").read_text())
    (tmp_path / "synthetic" / "dataset.json").write_text(json.dumps({**info, "classes": [*CLASSES, "cyst"]}))
    assert "found classes cyst, which the real data lacks; expected some of benign, malignant" in message(config)


def write_given(root: Path, real: SampleSet, split: str, groups: bool = True) -> SampleSet:
    """Images sampled for the masks of a split, each in the group of its mask (or, damaged, in one of its own)."""
    records = []
    for number, r in enumerate(real.select(split).records):
        sampled = add(root, scene(3000 + number), r.label, 100 + number, "train", "abc", generator="abc")
        records.append(dataclasses.replace(sampled, group=r.group if groups else sampled.group))
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in real.select("train").records]
    given = sorted({r.mask_hash for r in real.select(split).records})
    return write_samples(
        root, records, classes=CLASSES, fingerprint={}, checkpoint={"train_hashes": hashes}, conditioning_masks=given
    )


def unlike_masks(real: SampleSet) -> SampleSet:
    """The same pairs with a mask of its own for each: `add` gives all the same."""
    records = []
    for number, r in enumerate(real.records):
        mask = np.zeros_like(real.read_mask(r))
        mask[5:25, 2 * number : 2 * number + 12] = 255
        write_png(real.root / r.mask_file_name, mask)
        records.append(dataclasses.replace(r, mask_hash=content_hash(mask)))
    return write_samples(real.root, records, classes=CLASSES, fingerprint=real.info["fingerprint"])


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(
    ("groups", "message"), [(True, "sampled for a mask in the group of"), (False, "for the masks of")]
)
def test_images_for_held_out_masks_are_refused(
    groups: bool, message: str, split: str, real: SampleSet, tmp_path: Path
) -> None:
    """Damage: comparing images alone: the outline of a test lesion would be learnt."""
    real = unlike_masks(real)
    synthetic = write_given(tmp_path / "synthetic", real, split, groups)
    with pytest.raises(UserError, match=message):
        combine(CombineConfig(str(real.root), str(synthetic.root), str(tmp_path / "out"), balance=False))
    assert not (tmp_path / "out").exists()


def test_images_for_train_masks_stay_in_their_groups(real: SampleSet, tmp_path: Path) -> None:
    """Damage: renaming groups of one name, which cuts the tie between a mask and what was sampled for it."""
    real = unlike_masks(real)
    synthetic = write_given(tmp_path / "synthetic", real, "train")
    out = combine(CombineConfig(str(real.root), str(synthetic.root), str(tmp_path / "out"), balance=False))
    sampled = [r for r in out.records if r.is_synthetic]
    assert len(sampled) == 12
    assert {r.group for r in sampled} == {r.group for r in real.select("train").records}


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_held_out_mask_at_another_size_is_recognised(mirrored: bool, real: SampleSet, tmp_path: Path) -> None:
    """Damage: comparing hashes alone, which differ when a mask was saved at another size, mirrored, or sampled for."""
    real = unlike_masks(real)
    record = real.select("test").records[0]
    mask = cv2.resize(real.read_mask(record), (32, 32), interpolation=cv2.INTER_AREA)
    mask = np.where(mask > 127, 255, 0).astype(np.uint8)[:, :: -1 if mirrored else 1]
    records = []
    for number, picture in enumerate((np.flipud(mask), mask)):
        image = cv2.resize(scene(5000 + number), (32, 32))
        name = f"syn_{number}"
        records.append(
            write_sample(
                tmp_path / "synthetic", image, np.ascontiguousarray(picture), id=name, label="benign", split="train",
                group=f"m{number}", source="abc", generator="abc",
            )
        )  # fmt: skip
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in real.select("train").records]
    info: dict[str, Any] = {"checkpoint": {"train_hashes": hashes}, "conditioning_masks": ["0" * 64]}
    synthetic = write_samples(tmp_path / "synthetic", records, classes=CLASSES, fingerprint={}, **info)
    with pytest.raises(UserError, match=r"found syn_1, whose mask is that of \w+ \(overlap"):
        combine(CombineConfig(str(real.root), str(synthetic.root), str(tmp_path / "out"), balance=False))


def test_other_arrays_are_refused(config: CombineConfig, tmp_path: Path) -> None:
    """Damage: grey and coloured images, or masks of other classes, in one train split."""
    info = json.loads((tmp_path / "synthetic" / "dataset.json").read_text())
    info["arrays"]["mask"]["values"] = {"background": 0, "tumour": 255}
    (tmp_path / "synthetic" / "dataset.json").write_text(json.dumps(info))
    assert "background 0, tumour 255; expected grey images, masks of background 0, lesion 255" in message(config)


def test_provenance_stays(real: SampleSet, tmp_path: Path) -> None:
    """Damage: columns of the synthetic rows lost, so that nobody can know what made them and from what."""
    synthetic = write_synthetic(tmp_path / "other", real)
    reported = [
        dataclasses.replace(r, derived_from="x", subject="", attributes={"area": 0.5}) for r in synthetic.records
    ]
    write_samples(synthetic.root, reported, classes=CLASSES, fingerprint={}, checkpoint=synthetic.info["checkpoint"])
    out = combine(CombineConfig(str(real.root), str(synthetic.root), str(tmp_path / "out"), balance=False))
    made = [r for r in out.records if r.is_synthetic]
    assert len(made) == 15
    assert {(r.generator, r.derived_from, r.attributes["area"]) for r in made} == {("abc", "x", 0.5)}
    assert out.info["schema_version"] == 2


def test_schema_1_is_combined(tmp_path: Path) -> None:
    """Damage: sets of before schema 2 no longer fit together, or pass for synthetic ones."""
    real, synthetic = (str(FIXTURES / f"{name}_v1") for name in ("pairs", "synthetic"))
    out = combine(CombineConfig(real, synthetic, str(tmp_path / "out")))
    before = read_samples(FIXTURES / "combined_v1")
    kept = ("id", "label", "split", "fold", "group", "image_hash", "mask_hash", "generator")
    rows, expected = ([[getattr(r, k) for k in kept] for r in pairs.records] for pairs in (out, before))
    assert rows == expected


def test_borders_are_left_out_of_synthetic_images_too(real: SampleSet, tmp_path: Path) -> None:
    """Real screenshots are hashed within their border. Damage: synthetic ones hashed whole: a copy is missed."""
    frame = (0.25, 0.25, 0.75, 0.75)
    records = [dataclasses.replace(r, perceptual_hash=perceptual_hash(real.read_image(r), frame)) for r in real.records]
    framed = write_samples(real.root, records, classes=CLASSES, fingerprint={"phase": "prepare"}, frame=list(frame))
    held_out = framed.select("test").records[0]
    copy = np.random.default_rng(0).integers(0, 256, (48, 56), dtype=np.uint8)
    copy[12:36, 14:42] = framed.read_image(held_out)[12:36, 14:42]
    synthetic = write_synthetic(tmp_path / "copied", framed, extra=[copy])
    with pytest.raises(UserError, match=f"copies of 1 val or test pictures, the first of {held_out.id}"):
        combine(CombineConfig(str(real.root), str(synthetic.root), str(tmp_path / "out"), balance=False))
