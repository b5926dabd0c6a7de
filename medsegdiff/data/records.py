"""Samples: the one data contract between all phases (images/, masks/, metadata.csv, dataset.json), schema 2.

Folders of schema 1 (grey images, binary masks, fewer columns) are read for ever; they are written no more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff import __version__
from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.decoding import read_picture
from medsegdiff.data.hashing import Frame, content_hash, perceptual_hash
from medsegdiff.data.schema import ANEW, SCHEMA_VERSION, SPLITS, SampleRecord, format_rows, is_hash, parse_rows
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

METADATA_FILE = "metadata.csv"
LEARNT = "learnt"  # in dataset.json of combined sets: perceptual hashes of all real pictures behind their train split


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
    def frame(self) -> Frame | None:
        """Where the scan lies, if all images share a border around it, which perceptual hashes leave out."""
        found = self.info.get("frame")
        return None if found is None else (found[0], found[1], found[2], found[3])

    @property
    def learnt(self) -> list[str]:
        """Perceptual hashes of the real pictures that a combined set was made from, in train or by its generator."""
        return list(self.info.get(LEARNT, []))

    @property
    def content(self) -> str:
        """What decides what is learnt of the set, for fingerprints."""
        return content_digest(self.records) + self.arrays.mask_key

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
        """The (H, W) uint8 mask of pixel values (`arrays`); `UserError` where there is none, or another one."""
        if not record.mask_file_name:
            raise UserError(self.root, "no masks", "a data set with masks", "Give one that has them.")
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
    mask: np.ndarray | None,
    *,
    id: str,
    label: str,
    split: str,
    group: str,
    source: str,
    pixel_aspect: float = 1.0,
    frame: Frame | None = None,
    **columns: Any,
) -> SampleRecord:
    """Write a (H, W) or (H, W, 3) uint8 image and its (H, W) mask of pixel values, if it has one, below `root`.

    Returns their record. `columns` are further fields of it; `frame` is left out of the perceptual hash.
    """
    names = (f"images/{id}.png", "" if mask is None else f"masks/{id}.png")
    for name, picture in zip(names, (image, mask), strict=True):
        if picture is not None:
            make_folder((root / name).parent)
            write_png(root / name, picture)
    return SampleRecord(
        id=id,
        image_file_name=names[0],
        mask_file_name=names[1],
        label=label,
        split=split,
        group=group,
        source=source,
        pixel_aspect=round(float(pixel_aspect), 6),
        width=image.shape[1],
        height=image.shape[0],
        image_hash=content_hash(image),
        mask_hash="" if mask is None else content_hash(mask),
        perceptual_hash=perceptual_hash(image, frame),
        **{"fold": -1, **columns},
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

    `arrays` are grey images with binary masks unless set.
    """
    rows = sorted(records, key=lambda r: r.id)
    write_bytes(root / METADATA_FILE, format_rows(rows).encode())
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
    path, version = root / METADATA_FILE, info["schema_version"]
    found = SampleSet(root, parse_rows(path, version), info)
    _check_records(path, found)
    return found


def _read_info(path: Path) -> dict[str, Any]:
    """dataset.json, with what the phases read of it in place."""
    info = read_record(path)
    if isinstance(info, dict) and "kind" in info:
        hint = "Predicted masks are no labels: give what prepare, generate or combine wrote."
        raise UserError(path, str(info["kind"]), "a sample folder", hint)
    version = info.get("schema_version") if isinstance(info, dict) else None
    if version not in range(1, SCHEMA_VERSION + 1):
        found = "no schema version" if version is None else f"schema version {version}"
        hint = f"Make the data set anew, or update medsegdiff (this is {__version__})."
        raise UserError(path, found, f"version {SCHEMA_VERSION} or older", hint)
    classes = info.get("classes")
    names = classes if isinstance(classes, list) else []
    if not names or not all(isinstance(c, str) and c for c in names) or len(set(names)) < len(names):
        raise UserError(path, "no list of classes", "classes: their names, each once", ANEW)
    for key, default in (("fingerprint", None), ("duplicates", {})):
        if not isinstance(info.get(key, default), dict):
            raise UserError(path, f"no mapping under {key!r}", f"{key}: settings and their values", ANEW)
    learnt = info.get(LEARNT, [])
    if not isinstance(learnt, list) or not all(isinstance(h, str) and is_hash(h) for h in learnt):
        raise UserError(path, f"no list of hashes under {LEARNT!r}", "64 hexadecimal digits each", ANEW)
    try:
        ArraySpec.from_json(info.get("arrays"))
    except ValueError as error:
        raise UserError(path, "another description of the arrays", f"arrays: {error}", ANEW) from error
    frame = info.get("frame")
    if frame is not None and not (isinstance(frame, list) and len(frame) == 4 and all(0 <= f <= 1 for f in frame)):
        raise UserError(path, f"frame {frame}", "four shares of the sides", ANEW)
    return dict(info)


def _check_records(path: Path, pairs: SampleSet) -> None:
    """What rows have to say together: unique ids, groups in one split, known classes, files that are there."""
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    base = Path(os.path.realpath(pairs.root))
    classes, has_masks = pairs.classes, pairs.arrays.mask_values is not None
    for number, record in enumerate(pairs.records, start=2):
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
        if not (bool(record.mask_file_name) == bool(record.mask_hash) == has_masks):
            found = "no mask" if has_masks else "a mask"
            expected = f"{'one for' if has_masks else 'none in'} every row, as {DATASET_FILE} says of the arrays"
            raise UserError(where, found, expected, "Correct the row.")
        for name in filter(None, (record.image_file_name, record.mask_file_name)):
            if not Path(os.path.realpath(base / name)).is_relative_to(base):
                raise UserError(where, f"path {name!r}", "a path inside the folder", "Correct the row.")
            if not (base / name).is_file():
                raise UserError(where, f"no file {name}", "an existing file", "Restore it, or remove the row.")
