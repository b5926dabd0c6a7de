"""Own data in folders: every shape that is read, what a table adds, and what is refused as unclear."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import pytest

from medsegdiff.data.prepare import input_hash
from medsegdiff.data.readers import RawSet, ReadOptions, read_raw
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError


def scene(seed: int, colour: bool = False) -> np.ndarray:
    """(40, 50) or (40, 50, 3) uint8 smooth noise."""
    noise = np.random.default_rng(seed).standard_normal((40, 50, 3 if colour else 1))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))


def disc(x: int = 20) -> np.ndarray:
    """(40, 50) uint8 mask of a disc."""
    return np.asarray(cv2.circle(np.zeros((40, 50), np.uint8), (x, 20), 6, 255, -1))


def put(root: Path, *names: str, mask: np.ndarray | None = None, colour: bool = False) -> None:
    """A picture at each path; masks where the path says so."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = "mask" in name.lower()
        write_png(path, (disc() if mask is None else mask) if is_mask else scene(crc32(name.encode()), colour))


def read(root: Path, **options: object) -> RawSet:
    """The data set, as `prepare` finds it by itself."""
    return read_raw(root, options=ReadOptions(**options))  # type: ignore[arg-type]


SHAPES = {  # files, and id, class, source of what is read of them
    "images and masks": (
        ["images/b.png", "images/a.png", "masks/a.png", "masks/b_mask.png"],
        [("a", "", "images/a.png"), ("b", "", "images/b.png")],
    ),
    "images and masks with classes": (
        ["images/cyst/a.png", "Masks/cyst/a.png", "images/solid/a.png", "Masks/solid/a.png"],
        [("cyst_a", "cyst", "images/cyst/a.png"), ("solid_a", "solid", "images/solid/a.png")],
    ),
    "class folders": (
        ["cyst/a.png", "cyst/a_mask.png", "cyst/a_mask_1.png", "solid/solid (3).png", "solid/solid (3)_mask.png"],
        [("cyst_a", "cyst", "cyst/a.png"), ("solid_0003", "solid", "solid/solid (3).png")],
    ),
    "class folders, one level below": (["data/cyst/a.png", "data/solid/b.png"], [("cyst_a", "cyst", "cyst/a.png"),
                                       ("solid_b", "solid", "solid/b.png")]),
    "one folder": (["photos/a.png", "photos/b.png"], [("photos_a", "photos", "photos/a.png"),
                   ("photos_b", "photos", "photos/b.png")]),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, tmp_path: Path) -> None:
    """Damage: a shape no longer read, masks taken for pictures, or a class lost with the folder that says it."""
    files, expected = SHAPES[shape]
    put(tmp_path, *files)
    put(tmp_path, ".Trash-1000/cyst/a.png", "cyst/._a.png" if "cyst/a.png" in files else ".hidden.png")
    found = read(tmp_path)
    assert found.layout == "folders"
    assert [(s.name, s.label, s.source) for s in found.samples] == expected
    has_masks = any("mask" in name.lower() for name in files)
    assert all((s.mask is not None) == has_masks for s in found.samples)
    assert (found.arrays.mask_values is not None) == has_masks


def test_splits_are_refused_or_kept(tmp_path: Path) -> None:
    """Damage: reading test/, the first by name, alone; two pictures of one name in two splits under one id."""
    for split, count in (("train", 3), ("Valid", 2), ("test", 2)):
        for n in range(count):
            put(tmp_path, f"{split}/benign/benign ({n}).png", f"{split}/benign/benign ({n})_mask.png")
            put(tmp_path, f"{split}/malignant/malignant ({n}).png", f"{split}/malignant/malignant ({n})_mask.png")
    with pytest.raises(UserError, match=r"folders of several splits \(test, train, val\).*--keep_splits true"):
        read(tmp_path)
    found = read(tmp_path, keep_splits=True)
    assert len(found.samples) == 14
    assert {s.name for s in found.samples if s.split == "val"} == {
        *("val_benign_0000", "val_benign_0001", "val_malignant_0000", "val_malignant_0001")
    }


def test_a_second_copy_is_refused(tmp_path: Path) -> None:
    """Damage: reading the first by name, or the hidden bin of a file manager."""
    put(tmp_path, "busi/benign/benign (1).png", "busi/benign/benign (1)_mask.png")
    put(tmp_path, ".Trash-1000/benign/benign (7).png", ".Trash-1000/benign/benign (7)_mask.png")
    assert [s.name for s in read(tmp_path, classes=("benign",)).samples] == ["benign_0001"]
    put(tmp_path, "copy/benign/benign (1).png", "copy/benign/benign (1)_mask.png")
    with pytest.raises(UserError, match=r"several data sets: busi \(busi\), copy \(busi\); expected one"):
        read(tmp_path)
    put(tmp_path, "benign/benign (1).png", "benign/benign (1)_mask.png")
    with pytest.raises(UserError, match=r"several data sets: \. \(busi\), busi \(busi\), copy"):
        read(tmp_path)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    """Damage: other endings, classes that were not asked for and hidden files left out without a word."""
    put(tmp_path, "benign/benign (1).png", "benign/benign (1)_mask.png", "normal/normal (1).png")
    for name in ("benign/notes.txt", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).touch()
    found = read(tmp_path, classes=("benign",))
    assert found.passed_over == {"pictures": 1, "files (.db)": 1, "files (.txt)": 1, "hidden": 1}


def test_a_table_tells(tmp_path: Path) -> None:
    """Damage: a mark of Excel's encoding in the name of the first column; rows matched by order; columns dropped."""
    put(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    table = "file,label,subject,text,modality,split,attribute:area\n"
    table += "b.png,cyst,P2,a cyst,ultrasound,testing,0.5\nimages\\a.png,solid,P1,,,train,\n"
    (tmp_path / "metadata.csv").write_bytes(table.encode("utf-8-sig"))
    found = read(tmp_path, keep_splits=True)
    assert found.passed_over == {}
    one, two = sorted(found.samples, key=lambda s: s.source)
    assert (one.label, one.subject, one.text, one.split, one.attributes) == ("solid", "P1", "", "train", {})
    assert (two.label, two.subject, two.text, two.split, two.attributes) == (
        *("cyst", "P2", "a cyst", "test", {"area": 0.5}),
    )
    assert two.modality == "ultrasound"


@pytest.mark.parametrize("column", ["label", "subject", "text", "modality", "attribute:area"])
def test_what_a_table_tells_decides_the_content(column: str, tmp_path: Path) -> None:
    """Damage: `prepare` takes a folder of the old classes, patients or texts for finished."""
    put(tmp_path, "images/a.png", "masks/a.png")
    hashes = []
    for value in "12":
        (tmp_path / "metadata.csv").write_text(f"file,{column}\na.png,{value}\n")
        hashes.append(input_hash(read(tmp_path)))
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name\na.png\n", "found no column file"),
        ("file\na.png\n", "found no row of b.png"),
        ("file\na.png\nb.png\nc.png\n", "line 4: found no pictures called 'c.png'"),
        ("file\na.png\nb.png\na\n", "line 4: found a second row of 'a'"),
        ("file,split\na.png,dev2\nb.png,\n", "column split: found 'dev2'"),
        ("file,attribute:x\na.png,nan\nb.png,1\n", "column attribute:x: found 'nan'"),
    ],
)
def test_tables_that_do_not_fit(table: str, message: str, tmp_path: Path) -> None:
    """Damage: taking out the check of that fault."""
    put(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["images/a.png", "images/b.png", "masks/a.png"], {}, r"b\.png: found no mask; expected a mask for every"),
        (["images/a.png", "masks/a.png", "masks/b.png"], {}, r"b\.png: found a mask without its picture"),
        (["x/cyst/a.png", "y/cyst/a.png"], {}, r"folders in folders \(x/cyst, y/cyst\); expected one level"),
        (["train/test/a.png", "test/b.png"], {"keep_splits": True}, "two splits"),
        (["images/a.png", "images/a.bmp.png", "images/A.PNG"], {}, "a second picture of the name"),
        (["a/a.png", "b/b.png"], {"classes": ("a", "c")}, "found a, b; expected the classes a, c"),
        (["a/a.png", "train/b.png"], {"keep_splits": True}, r"a/a\.png: found no split"),
    ],
)
def test_unclear_folders(files: list[str], options: dict[str, object], message: str, tmp_path: Path) -> None:
    """Damage: taking out the check of that fault, after which a part is left out or read wrongly."""
    put(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        read(tmp_path, **options)


def test_colour_is_found(tmp_path: Path) -> None:
    """Damage: colour lost in silence, or grey pictures saved with three equal channels taken for coloured ones."""
    put(tmp_path / "c", *(f"images/{n}.png" for n in range(4)), colour=True)
    write_png(tmp_path / "c" / "images" / "9.png", np.dstack([scene(5)] * 3))
    found = read(tmp_path / "c")
    assert found.arrays.channels == 3
    assert all(s.image.shape == (40, 50, 3) for s in found.samples)
    assert read(tmp_path / "c", colour="grey").samples[0].image.shape == (40, 50)
    for n in range(4):
        (tmp_path / "g" / "images").mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "g" / "images" / f"{n}.png", np.dstack([scene(n)] * 3))
    assert read(tmp_path / "g").arrays.channels == 1


def test_label_maps(tmp_path: Path) -> None:
    """Damage: label maps thresholded to one lesion."""
    values = {"background": 0, "rv": 1, "lv": 3}
    mask = np.where(disc() > 0, 3, 0).astype(np.uint8)
    mask[:5, :5] = 1
    put(tmp_path, "images/a.png", "masks/a.png", mask=mask)
    with pytest.raises(UserError, match="--mask_classes background=0"):
        read(tmp_path)
    found = read(tmp_path, mask_classes=values)
    assert found.arrays.mask_values == values
    assert np.array_equal(found.samples[0].mask, mask)


def test_accents_in_two_forms(tmp_path: Path) -> None:
    """A picture named by Windows, its mask by macOS. Damage: names compared byte by byte."""
    put(
        tmp_path,
        "images/n\u00f3dulo.png",
        "masks/no\u0301dulo.png",
        "cyst/n\u00f3dulo.png",
        "cyst/no\u0301dulo_mask.png",
    )
    assert len(read(tmp_path).samples) == 2


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lost+found beside the data. Damage: opening every folder near the data set ends the run."""
    put(tmp_path, "images/a.png", "lost+found/x.png")
    opened = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda p: (_ for _ in ()).throw(PermissionError()) if p.name == "lost+found" else opened(p)
    )
    assert len(read(tmp_path).samples) == 1


def test_patients_under_another_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage: a column of patients that is passed over, so that they leak; other columns lost without a word."""
    put(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    write = (tmp_path / "metadata.csv").write_text
    write("file,patient_id\na.png,P1\nb.png,P2\n")
    with pytest.raises(
        UserError, match=r"metadata.csv: found a column patient_id; expected patients in a column subject"
    ):
        read(tmp_path)
    write("file,subject,birads\na.png,P1,4\nb.png,P2,3\n")
    assert {s.subject for s in read(tmp_path).samples} == {"P1", "P2"}
    assert "not read: birads (attribute:<name> keeps numbers)" in caplog.text
