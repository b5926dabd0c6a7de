"""The table beside own data: what its rows say of each picture."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medsegdiff.data.readers.matching import SPLIT_FOLDERS, plain
from medsegdiff.data.schema import ATTRIBUTE
from medsegdiff.errors import UserError

log = logging.getLogger(__name__)

TABLE = "metadata.csv"
PATIENT = ("patient", "patient_id", "patientid", "subject_id", "subjectid", "case_id", "pid")  # what others call it
TEXTS = ("label", "subject", "text", "modality", "split")  # columns that it may have beside `file`


@dataclass(frozen=True)
class Row:
    """What a table says of one picture; "" where it does not."""

    label: str = ""
    subject: str = ""
    text: str = ""
    modality: str = ""
    split: str = ""  # train, val or test
    attributes: Mapping[str, float] = field(default_factory=dict)


def read_csv(path: Path, needed: Sequence[str], hint: str = "Correct the table.") -> list[dict[str, str]]:
    """The rows of a CSV in UTF-8, with or without a byte-order mark; `UserError` where a column is missing."""
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(path, f"a file that is no table ({error})", "a CSV in UTF-8", hint) from error
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(path, f"no column {missing[0]}", f"the columns {', '.join(needed)}", hint)
    return [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in rows]


def read_table(path: Path, images: Sequence[Path]) -> dict[Path, Row]:
    """The row of each picture, found by its path from the table's folder, or by its name where that is unique.

    Raises `UserError` for a row without its picture, a picture without or with two rows, and values that are none.
    """
    names: dict[str, list[Path]] = {}
    for image in images:
        for name in {str(image.relative_to(path.parent)), image.name, image.stem}:
            names.setdefault(plain(name), []).append(image)
    table: dict[Path, Row] = {}
    rows = read_csv(path, ("file",))
    _check_columns(path, list(rows[0]) if rows else [])
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        matches = names.get(plain(row["file"].replace("\\", "/").removeprefix("./")), [])
        if len(matches) != 1:
            found = f"{len(matches) or 'no'} pictures called {row['file']!r}"
            raise UserError(where, found, "the path of one picture", "Correct the row.")
        if matches[0] in table:
            raise UserError(where, f"a second row of {row['file']!r}", "one", "Remove one of them.")
        table[matches[0]] = _parse_row(where, row)
    without = [image for image in images if image not in table]
    if without:
        found = f"no row of {without[0].name} ({len(without)} in all)"
        raise UserError(path, found, "a row for every picture", "Add the row, or remove the picture.")
    return table


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse patients under another name, who would leak between splits; say which other columns are not read."""
    unread = [name for name in columns if name not in ("file", *TEXTS) and not name.startswith(ATTRIBUTE)]
    patients = [name for name in unread if plain(name) in PATIENT]
    if patients and "subject" not in columns:
        raise UserError(path, f"a column {patients[0]}", "patients in a column subject", "Rename the column.")
    if unread:
        log.warning("%s: not read: %s (%s<name> keeps numbers)", path, ", ".join(unread), ATTRIBUTE)


def _parse_row(where: str, row: dict[str, str]) -> Row:
    """The texts and attributes of one row."""
    texts = {name: row.get(name, "") for name in TEXTS}
    if texts["split"]:
        split = SPLIT_FOLDERS.get(plain(texts["split"]))
        if split is None:
            raise UserError(f"{where}, column split", repr(texts["split"]), "train, val or test", "Correct the row.")
        texts["split"] = split
    attributes = {}
    for name, text in row.items():
        if name.startswith(ATTRIBUTE) and text:
            try:
                attributes[name.removeprefix(ATTRIBUTE)] = value = float(text)
            except ValueError as error:
                raise UserError(f"{where}, column {name}", repr(text), "a number", "Correct the row.") from error
            if not math.isfinite(value):
                raise UserError(f"{where}, column {name}", repr(text), "a finite number", "Correct the row.")
    return Row(**texts, attributes=attributes)
