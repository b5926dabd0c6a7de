"""Schema 2 of metadata.csv: the columns of a sample, and how a row is written, read and checked."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsegdiff.errors import UserError

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
ATTRIBUTE = "attribute:"  # how columns of measured attributes begin
ANEW = "Make the data set anew."


def _is_name(value: str) -> bool:
    return bool(value) and value.isprintable()


def is_hash(value: str) -> bool:
    """Whether a text is a SHA-256 or a perceptual hash."""
    return re.fullmatch(r"[0-9a-f]{64}", value) is not None


# Columns whose values are more than of a type: what holds for them, and how it is reported. Ids become file names.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda value: _is_name(value) and not set(value) & {"/", "\\"}, "a name that can be a file name"),
    "image_file_name": (_is_name, "a file name"),
    "mask_file_name": (lambda value: not value or _is_name(value), "a file name, or nothing without a mask"),
    "group": (_is_name, "a name"),
    "fold": (lambda value: value >= -1, "-1 or more"),
    "pixel_aspect": (lambda value: 0 < value < math.inf, "a number above 0"),
    "width": (lambda value: value > 0, "a number above 0"),
    "height": (lambda value: value > 0, "a number above 0"),
    "image_hash": (is_hash, "64 hexadecimal digits"),
    "mask_hash": (lambda value: not value or is_hash(value), "64 hexadecimal digits, or nothing without a mask"),
    "perceptual_hash": (is_hash, "64 hexadecimal digits"),
}


@dataclass(frozen=True)
class SampleRecord:
    """One row of metadata.csv: an image, its mask, and where they stand."""

    id: str
    image_file_name: str  # relative to the folder
    mask_file_name: str  # "" where the data set has no masks
    label: str  # class name, e.g. "benign"
    split: str  # train, val or test
    fold: int  # 0..k-1 for real train and val pairs, -1 for test and synthetic ones
    group: str  # cluster of subjects and near-duplicates; never crosses splits or folds
    source: str  # where it comes from, for people: "busi:benign/benign (3).png"
    pixel_aspect: float  # pixel width / pixel height; 1 for native pictures
    width: int  # pixels
    height: int  # pixels
    image_hash: str  # SHA-256 of the decoded image (`content_hash`)
    mask_hash: str  # of the mask; "" where the data set has none
    perceptual_hash: str  # 256-bit DCT hash of the image, hexadecimal (`perceptual_hash`)
    text: str = ""  # caption, where there is one
    modality: str = ""  # "ultrasound", "fundus", ... where it is known
    subject: str = ""  # patient, where one is known
    generator: str = ""  # hash of the checkpoint that made it; "" for real samples
    derived_from: str = ""  # id of the sample whose mask or image it was made for
    attributes: Mapping[str, float] = field(default_factory=dict, hash=False)  # by name: {"area": 0.12}

    @property
    def is_synthetic(self) -> bool:
        """Whether the pair was generated."""
        return bool(self.generator)


# Columns of metadata.csv in their order, each with its type; attributes follow in columns of their own.
COLUMNS: dict[str, type] = {
    **dict.fromkeys(("id", "image_file_name", "mask_file_name", "label", "text", "modality", "split"), str),
    "fold": int,
    **dict.fromkeys(("subject", "group"), str),
    "width": int,
    "height": int,
    "pixel_aspect": float,
    **dict.fromkeys(("source", "generator", "derived_from", "image_hash", "mask_hash", "perceptual_hash"), str),
}
NEW_COLUMNS = ("text", "modality", "subject", "generator", "derived_from")  # which folders of schema 1 lack
V1_SYNTHETIC = "synthetic:"  # how `source` of every generated pair begins in schema 1, before the hash


def format_rows(rows: Iterable[SampleRecord]) -> str:
    """The text of metadata.csv."""
    names = sorted({name for r in rows for name in r.attributes})
    cells = [
        {c: getattr(r, c) for c in COLUMNS} | {f"{ATTRIBUTE}{name}": r.attributes.get(name, "") for name in names}
        for r in rows
    ]
    # csv leaves a lone carriage return unquoted, and reads it back as the end of the row
    unusual = any("\r" in str(value) for row in cells for pair in row.items() for value in pair)
    columns = [*COLUMNS, *(f"{ATTRIBUTE}{name}" for name in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if unusual else csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue()


def parse_rows(path: Path, version: int) -> tuple[SampleRecord, ...]:
    """The rows of a metadata.csv of that schema version, each value of its type and in its range."""
    return tuple(
        _parse_row(path, number, row, version) for number, row in enumerate(_read_rows(path, version), start=2)
    )


def _read_rows(path: Path, version: int) -> list[dict[str | None, str]]:
    """The rows of metadata.csv by column; under None what is beyond the last one."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        columns, rows = reader.fieldnames or [], list(reader)
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable CSV", ANEW) from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"text that is not UTF-8 ({error.reason})", "a CSV", ANEW) from error
    except csv.Error as error:
        raise UserError(path, f"text that is not CSV ({error})", "a CSV", ANEW) from error
    missing = [name for name in COLUMNS if name not in columns and not (version == 1 and name in NEW_COLUMNS)]
    if missing:
        found = f"no column {', '.join(missing)}" if columns else "an empty file"
        raise UserError(path, found, "every column of samples", ANEW)
    return rows


def _parse_row(path: Path, number: int, row: dict[str | None, str], version: int) -> SampleRecord:
    """One row, every value of its type and in its range."""
    if None in row or None in row.values():
        found = "more values than columns" if None in row else "fewer values than columns"
        raise UserError(f"{path}, line {number}", found, "a value for every column", "Correct the row.")
    values: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        if version == 1 and name in NEW_COLUMNS:
            continue
        where, text = f"{path}, line {number}, column {name}", row[name]
        values[name] = value = _parse(where, text, kind)
        fits, expected = RANGES.get(name, (lambda value: True, ""))
        if not fits(value):
            raise UserError(where, repr(text), expected, "Correct the row.")
    attributes = {}
    for column, text in row.items():
        if column is not None and column.startswith(ATTRIBUTE) and text:
            where = f"{path}, line {number}, column {column}"
            attributes[column.removeprefix(ATTRIBUTE)] = value = _parse(where, text, float)
            if not math.isfinite(value):
                raise UserError(where, repr(text), "a finite number, or nothing", "Correct the row.")
    if version == 1 and values["source"].startswith(V1_SYNTHETIC):
        values["generator"] = values["source"].removeprefix(V1_SYNTHETIC) or "unknown"
    return SampleRecord(**values, attributes=attributes)


def _parse(where: str, text: str, kind: type) -> Any:
    """The value of one cell."""
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(where, repr(text), f"a value of type {kind.__name__}", "Correct the row.") from error
