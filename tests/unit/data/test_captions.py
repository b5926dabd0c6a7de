"""Captions: a CSV as MINIM ships it, with blanks, commas and other names of columns; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.prepare import prepare
from medsegdiff.data.readers import RawSet, ReadOptions, read_raw
from medsegdiff.data.records import read_samples
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError


def put(root: Path, *names: str, channels: int = 1) -> None:
    """Pictures of noise."""
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, noise if channels == 3 else noise[:, :, 0])


def table(root: Path, *lines: str, name: str = "captions.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def read(root: Path, **options: object) -> RawSet:
    return read_raw(root, options=ReadOptions(**options))  # type: ignore[arg-type]


def test_rows_as_published(tmp_path: Path) -> None:
    """Damage: blanks that stay in names; commas of a caption that shift the columns; colours lost."""
    put(tmp_path, "oct/a.png", "cxr/b.png", channels=3)
    table(
        tmp_path,
        "path, Text, modal",
        "oct/a.png, drusen, and fluid, beneath the retina, OCT",
        './cxr/b.png, "no finding", CXR',
        "",
    )
    found = read(tmp_path)
    assert found.layout == "captions"
    assert found.arrays.channels == 3
    assert found.arrays.mask_values is None
    rows = [(s.source, s.text, s.modality, s.mask) for s in found.samples]
    assert rows == [
        ("oct/a.png", "drusen, and fluid, beneath the retina", "OCT", None),
        ("cxr/b.png", "no finding", "CXR", None),
    ]


def test_classes_and_patients(tmp_path: Path) -> None:
    """Damage: patients of a column that is not read; a class that nobody asked for; names that clash."""
    put(tmp_path, "a/x.png", "b/x.png", "b/y.png")
    rows = (
        "path,caption,modality,label,subject",
        "a/x.png,one,CT,lung,7",
        "b/x.png,two,CT,liver,7",
        "b/y.png,three,CT,lung,8",
    )
    table(tmp_path, *rows, name="list.csv")
    found = read(tmp_path, classes=("lung",))
    assert [(s.name, s.label, s.subject) for s in found.samples] == [("a-x", "lung", "7"), ("b-y", "lung", "8")]
    assert found.arrays.channels == 1


def test_they_become_samples(tmp_path: Path) -> None:
    """Damage: captions and modalities lost on the way; the pictures of a patient in two splits."""
    put(tmp_path / "raw", *(f"p{n}.png" for n in range(24)))
    lines = (f"p{n}.png,caption {n},{('OCT', 'CT')[n % 2]},{('a', 'b')[n % 2]},{n // 2}" for n in range(24))
    table(tmp_path / "raw", "path,text,modality,label,subject", *lines)
    prepare(PrepareConfig(str(tmp_path / "raw"), str(tmp_path / "samples")))
    pairs = read_samples(tmp_path / "samples")
    assert len(pairs) == 24
    assert {(r.text, r.modality) for r in pairs.records} == {(f"caption {n}", ("OCT", "CT")[n % 2]) for n in range(24)}
    splits: dict[str, set[str]] = {}
    for record in pairs.records:
        splits.setdefault(record.subject, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,text,modality", "nowhere.png,x,CT"), "captions.csv, line 2: found 'nowhere.png'; expected the path"),
        (("path,text,modality", "../a.png,x,CT"), "line 2: found '../a.png'"),
        (("path,text,modality", "a.png,x,CT", "a.png,y,CT"), "line 3: found a second row of 'a.png'"),
        (("path,text,modality", "a.png,x"), "line 2: found 2 cells; expected 3"),
        (("path,text,caption", "a.png,x,y"), "found 2 columns for text; expected one"),
        (("path,text,modality",), "captions.csv: found no rows"),
    ],
)
def test_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    """Damage: a row without its picture, or two of them, read all the same."""
    put(tmp_path / "raw", "a.png")
    put(tmp_path, "a.png")
    with pytest.raises(UserError, match=message):
        read(table(tmp_path / "raw", *lines))
