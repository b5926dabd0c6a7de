"""Samples: the one data contract between all phases (images/, masks/, metadata.csv, dataset.json)."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff import __version__
from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.decoding import read_picture
from medsegdiff.data.hashing import content_hash, perceptual_hash
from medsegdiff.engine.files import (
    DATASET_FILE,
    make_folder,
    read_record,
    require_folder,
    write_bytes,
    write_json,
    write_png,
)
from medsegdiff.errors import UserError

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
METADATA_FILE = "metadata.csv"
SYNTHETIC = "synthetic:"  # how `source` of every generated pair begins
LEARNT = "learnt"  # in dataset.json of combined sets: perceptual hashes of all real pictures behind their train split
ANEW = "Make the data set anew."


def _is_name(value: str) -> bool:
    return bool(value) and value.isprintable()


def _is_hash(value: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", value) is not None


# Columns whose values are more than of a type: what holds for them, and how it is reported. Ids become file names.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda value: _is_name(value) and not set(value) & {"/", "\\"}, "a name that can be a file name"),
    "image_file_name": (_is_name, "a file name"),
    "mask_file_name": (_is_name, "a file name"),
    "group": (_is_name, "a name"),
    "fold": (lambda value: value >= -1, "-1 or more"),
    "pixel_aspect": (lambda value: 0 < value < math.inf, "a number above 0"),
    "width": (lambda value: value > 0, "a number above 0"),
    "height": (lambda value: value > 0, "a number above 0"),
    "image_hash": (_is_hash, "64 hexadecimal digits"),
    "mask_hash": (_is_hash, "64 hexadecimal digits"),
    "perceptual_hash": (_is_hash, "64 hexadecimal digits"),
}


@dataclass(frozen=True)
class SampleRecord:
    """One row of metadata.csv: an image, its mask, and where they stand."""

    id: str
    image_file_name: str  # relative to the folder
    mask_file_name: str
    label: str  # class name, e.g. "benign"
    split: str  # train, val or test
    fold: int  # 0..k-1 for real train and val pairs, -1 for test and synthetic ones
    group: str  # cluster of (near-)duplicates or patient; never crosses splits or folds
    source: str  # where it comes from: "busi:benign (3).png", "synthetic:<checkpoint hash>"
    pixel_aspect: float  # pixel width / pixel height; 1 for native pictures
    width: int  # pixels
    height: int  # pixels
    image_hash: str  # SHA-256 of the decoded grey picture (`content_hash`)
    mask_hash: str
    perceptual_hash: str  # 256-bit DCT hash of the image, hexadecimal (`perceptual_hash`)

    @property
    def is_synthetic(self) -> bool:
        """Whether the pair was generated."""
        return self.source.startswith(SYNTHETIC)


@dataclass(frozen=True)
class SampleSet:
    """The records of a sample folder (or a selection of them) and its dataset.json."""

    root: Path
    records: tuple[SampleRecord, ...]
    info: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Class names, in the order in which the data set was prepared."""
        return list(self.info["classes"])

    @property
    def arrays(self) -> ArraySpec:
        """Channels of the images and pixel values of the masks."""
        return ArraySpec.from_json(self.info.get("arrays"))

    @property
    def learnt(self) -> list[str]:
        """Perceptual hashes of the real pictures that a combined set was made from, in train or by its generator."""
        return list(self.info.get(LEARNT, []))

    def select(self, split: str | None = None, label: str | None = None) -> SampleSet:
        """The pairs of one split and/or one class."""
        kept = tuple(
            r for r in self.records if (split is None or r.split == split) and (label is None or r.label == label)
        )
        return dataclasses.replace(self, records=kept)

    def synthetic_only(self) -> SampleSet:
        """The synthetic pairs; all where there are none, as tests for copies have to say that such a set is real."""
        kept = tuple(record for record in self.records if record.is_synthetic)
        return dataclasses.replace(self, records=kept) if kept else self

    def __len__(self) -> int:
        return len(self.records)

    def read_image(self, record: SampleRecord) -> np.ndarray:
        """The (H, W) uint8 grey or (H, W, 3) RGB image of a record; `UserError` where it is not the one prepared."""
        return self._read(record.image_file_name, record.image_hash, record, self.arrays.channels)

    def read_mask(self, record: SampleRecord) -> np.ndarray:
        """The (H, W) uint8 mask of pixel values (`arrays`); `UserError` where it is not the one prepared."""
        return self._read(record.mask_file_name, record.mask_hash, record, 1)

    def _read(self, name: str, known_hash: str, record: SampleRecord, channels: int) -> np.ndarray:
        """A picture of the set, which has to be the one that its row describes: hashing costs a tenth of decoding."""
        path, hint = self.root / name, "Restore the file, or make the data set anew."
        picture = read_picture(path, channels)
        if picture.shape[:2] != (record.height, record.width):
            found, expected = f"{picture.shape[1]} x {picture.shape[0]}", f"{record.width} x {record.height}"
            raise UserError(path, f"{found} pixels", f"{expected}, as {METADATA_FILE} says", hint)
        if content_hash(picture) != known_hash:
            raise UserError(path, "another picture", f"the picture that {METADATA_FILE} describes", hint)
        return picture


def write_sample(
    root: Path,
    image: np.ndarray,
    mask: np.ndarray,
    *,
    id: str,
    label: str,
    split: str,
    group: str,
    source: str,
    fold: int = -1,
    pixel_aspect: float = 1.0,
) -> SampleRecord:
    """Write a (H, W) or (H, W, 3) uint8 image and its (H, W) mask of pixel values below `root`; return their record."""
    names = (f"images/{id}.png", f"masks/{id}.png")
    for name, picture in zip(names, (image, mask), strict=True):
        make_folder((root / name).parent)
        write_png(root / name, picture)
    return SampleRecord(
        id=id,
        image_file_name=names[0],
        mask_file_name=names[1],
        label=label,
        split=split,
        fold=fold,
        group=group,
        source=source,
        pixel_aspect=round(float(pixel_aspect), 6),
        width=image.shape[1],
        height=image.shape[0],
        image_hash=content_hash(image),
        mask_hash=content_hash(mask),
        perceptual_hash=perceptual_hash(image),
    )


def class_counts(records: Iterable[SampleRecord]) -> dict[str, dict[str, int]]:
    """Pairs per split and class: {"train": {"benign": 301, ...}, ...}."""
    counts: Counter[tuple[str, str]] = Counter((r.split, r.label) for r in records)
    result: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(counts.items()):
        result.setdefault(split, {})[label] = count
    return result


def write_samples(
    root: Path,
    records: Iterable[SampleRecord],
    *,
    classes: list[str],
    fingerprint: dict[str, Any],
    arrays: ArraySpec | None = None,
    **info: Any,
) -> SampleSet:
    """Write metadata.csv and, last of all, dataset.json; `info` is whatever else the phase has to say.

    `arrays` are grey images with binary masks unless given.
    """
    rows = sorted(records, key=lambda r: r.id)
    text = io.StringIO()
    values = [value for r in rows for value in dataclasses.astuple(r)]
    # csv leaves a lone carriage return unquoted, and reads it back as the end of the row
    unusual = any("\r" in str(value) for value in values)
    names = [f.name for f in fields(SampleRecord)]
    writer = csv.DictWriter(text, names, lineterminator="\n", quoting=csv.QUOTE_ALL if unusual else csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(r) for r in rows)
    write_bytes(root / METADATA_FILE, text.getvalue().encode())
    record = {
        "schema_version": SCHEMA_VERSION,
        "made_by": {"medsegdiff": __version__, "opencv": cv2.__version__, "numpy": np.__version__},
        "fingerprint": fingerprint,
        "arrays": (arrays or ArraySpec()).to_json(),
        "classes": classes,
        "class_counts": class_counts(rows),
        **info,
    }
    write_json(root / DATASET_FILE, record)
    return SampleSet(root, tuple(rows), record)


def content_digest(records: Iterable[SampleRecord]) -> str:
    """SHA-256 of ids, classes, splits, groups, geometry and content hashes, whatever the order of the records."""
    rows = sorted((r.id, r.label, r.split, r.group, r.pixel_aspect, r.image_hash, r.mask_hash) for r in records)
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def read_samples(root: Path) -> SampleSet:
    """Read a sample folder and check its contract: schema, columns, values, unique ids, files inside it that exist.

    Raises `UserError` naming file, row, what was found and what was expected.
    """
    root = Path(root)
    require_folder(root, f"{METADATA_FILE} and {DATASET_FILE}, as the phases write it")
    if not (root / DATASET_FILE).is_file():
        hint = "Give the output of prepare (phase 1, for raw pictures), generate or combine."
        raise UserError(root, f"no {DATASET_FILE}", "a sample folder, as the phases write it", hint)
    info = _read_info(root / DATASET_FILE)
    path = root / METADATA_FILE
    records = tuple(_parse_row(path, number, row) for number, row in enumerate(_read_rows(path), start=2))
    _check_records(path, root, records, list(info["classes"]))
    return SampleSet(root, records, info)


def _read_info(path: Path) -> dict[str, Any]:
    """dataset.json, with what the phases read of it in place."""
    info = read_record(path)
    if isinstance(info, dict) and "kind" in info:
        hint = "Predicted masks are no labels: give what prepare, generate or combine wrote."
        raise UserError(path, str(info["kind"]), "a sample folder", hint)
    version = info.get("schema_version") if isinstance(info, dict) else None
    if version != SCHEMA_VERSION:
        found = "no schema version" if version is None else f"schema version {version}"
        raise UserError(path, found, f"version {SCHEMA_VERSION}", ANEW)
    classes = info.get("classes")
    names = classes if isinstance(classes, list) else []
    if not names or not all(isinstance(c, str) and c for c in names) or len(set(names)) < len(names):
        raise UserError(path, "no list of classes", "classes: their names, each once", ANEW)
    for key, default in (("fingerprint", None), ("duplicates", {})):
        if not isinstance(info.get(key, default), dict):
            raise UserError(path, f"no mapping under {key!r}", f"{key}: settings and their values", ANEW)
    learnt = info.get(LEARNT, [])
    if not isinstance(learnt, list) or not all(isinstance(h, str) and _is_hash(h) for h in learnt):
        raise UserError(path, f"no list of hashes under {LEARNT!r}", "64 hexadecimal digits each", ANEW)
    return dict(info)


def _read_rows(path: Path) -> list[dict[str | None, str]]:
    """The rows of metadata.csv by column; under None what is beyond the last one."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True)
        columns, rows = reader.fieldnames or [], list(reader)
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable CSV", ANEW) from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"text that is not UTF-8 ({error.reason})", "a CSV", ANEW) from error
    except csv.Error as error:
        raise UserError(path, f"text that is not CSV ({error})", "a CSV", ANEW) from error
    missing = [f.name for f in fields(SampleRecord) if f.name not in columns]
    if missing:
        found = f"no column {', '.join(missing)}" if columns else "an empty file"
        raise UserError(path, found, "every column of samples", ANEW)
    return rows


def _parse_row(path: Path, number: int, row: dict[str | None, str]) -> SampleRecord:
    """One row, every value of its type and in its range."""
    if None in row or None in row.values():
        found = "more values than columns" if None in row else "fewer values than columns"
        raise UserError(f"{path}, line {number}", found, "a value for every column", "Correct the row.")
    values: dict[str, Any] = {}
    for field in fields(SampleRecord):
        text = row[field.name]
        where = f"{path}, line {number}, column {field.name}"
        kind = {"str": str, "int": int, "float": float}[str(field.type)]
        try:
            value = kind(text)
        except ValueError as error:
            raise UserError(where, repr(text), f"a value of type {field.type}", "Correct the row.") from error
        fits, expected = RANGES.get(field.name, (lambda value: True, ""))
        if not fits(value):
            raise UserError(where, repr(text), expected, "Correct the row.")
        values[field.name] = value
    return SampleRecord(**values)


def _check_records(path: Path, root: Path, records: tuple[SampleRecord, ...], classes: list[str]) -> None:
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    base = Path(os.path.realpath(root))
    for number, record in enumerate(records, start=2):
        where = f"{path}, line {number}"
        if record.id in seen:
            raise UserError(where, f"id {record.id!r} a second time", "unique ids", "Remove one of the rows.")
        seen.add(record.id)
        if record.split not in SPLITS:
            raise UserError(where, f"split {record.split!r}", f"one of {', '.join(SPLITS)}", "Correct the row.")
        if split_of.setdefault(record.group, record.split) != record.split:
            found = f"group {record.group} in {record.split} as well as in {split_of[record.group]}"
            raise UserError(where, found, "each group in one split", "Prepare the data anew.")
        if record.label not in classes:
            raise UserError(where, f"label {record.label!r}", f"one of {', '.join(classes)}", "Correct the row.")
        for name in (record.image_file_name, record.mask_file_name):
            if not Path(os.path.realpath(base / name)).is_relative_to(base):
                raise UserError(where, f"path {name!r}", "a path inside the folder", "Correct the row.")
            if not (base / name).is_file():
                raise UserError(where, f"no file {name}", "an existing file", "Restore it, or remove the row.")
