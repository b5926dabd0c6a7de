"""Scores of test pictures, a row each: dataclasses as CSV files and as columns, and the folders of finished runs."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from medsegdiff.engine.files import SCORES_FILE, read_record, require_folder, write_bytes
from medsegdiff.errors import UserError
from medsegdiff.statistics.runs import Columns

PER_IMAGE_FILE = "per_image.csv"
EXPECTED, HINT = "the scores per image of a finished run", "Train that run anew."
REPORTED = {"config": dict, "img_size": int, "test_ids": list, "test_digest": str}  # what scores.json has at least

Row = TypeVar("Row")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _truth(text: str) -> bool:
    return {"True": True, "False": False}[text]


PARSERS: dict[type, Callable[[str], Any]] = {str: str, float: _number, int: int, bool: _truth}


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write one CSV line a row, atomically, with every digit; rows are dataclasses of one type.

    Fields are str, float, int or bool. Raises `ValueError` without rows, and for a number that is not finite.
    """
    if not rows:
        raise ValueError(f"{path}: no rows to write")
    names = _names(type(rows[0]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        bad = [n for n, v in zip(names, values, strict=True) if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            raise ValueError(f"{path}: {bad[0]} of {row} is not a finite number")
        writer.writerow(values)
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read what `write_rows` wrote of dataclasses of `row_type`.

    Raises `UserError`, with the number of the line, where the file is missing, empty, broken or of other rows.
    """
    parsers = {name: PARSERS[kind] for name, kind in get_type_hints(row_type).items()}
    line = 0
    try:
        text = path.read_bytes().decode()
        reader = csv.reader(io.StringIO(text), strict=True)
        if (header := next(reader, [])) != _names(row_type):
            expected = f"the columns {','.join(_names(row_type))}"
            raise UserError(path, ",".join(header) or "an empty file", expected, HINT)
        rows = []
        for values in reader:
            line = reader.line_num
            if len(values) != len(parsers):
                raise ValueError(f"{len(values)} values for {len(parsers)} columns")
            cells = zip(parsers.items(), values, strict=True)
            rows.append(row_type(**{name: parse(value) for (name, parse), value in cells}))
    except (OSError, KeyError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        where = f"{path}, line {line}" if line else path
        raise UserError(where, f"{type(error).__name__}: {error}", EXPECTED, HINT) from error
    if not rows:
        raise UserError(path, "no row", EXPECTED, HINT)
    return rows


def columns(rows: Sequence[Any]) -> Columns:
    """The fields of N rows of one dataclass: {name: (N,) array}. Raises `ValueError` without rows."""
    if not rows:
        raise ValueError("no rows")
    return {name: np.array([getattr(row, name) for row in rows]) for name in _names(type(rows[0]))}


def read_run(folder: Path, row_type: type[Row]) -> tuple[dict[str, Any], list[list[Row]]]:
    """scores.json of a finished run, and the rows of each training in it, which are dataclasses of `row_type`.

    `folder` holds one training (scores.json, per_image.csv), or several with other seeds: its scores.json names their
    folders under "runs", and each of these holds a per_image.csv. Raises `UserError` where it holds neither, where
    scores.json lacks what it has to say, and where a run was scored on other test images than it names.
    """
    require_folder(folder, f"{SCORES_FILE} of a finished run")
    path = folder / SCORES_FILE
    if not path.is_file():
        hint = "Finish that run first: the same command goes on where it stopped."
        raise UserError(folder, f"no {SCORES_FILE}", "the output folder of a finished run", hint)
    scores = read_record(path)
    names = scores.get("runs", ["."]) if isinstance(scores, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(path, "no list of runs", "the scores of a finished run", HINT)
    lacking = [key for key, kind in REPORTED.items() if not isinstance(scores.get(key), kind)]
    if lacking:
        raise UserError(path, f"no {', '.join(lacking)}", "the scores of a finished run", HINT)
    runs = [read_rows(folder / name / PER_IMAGE_FILE, row_type) for name in names]
    named = sorted(map(str, scores["test_ids"]))
    for name, rows in zip(names, runs, strict=True):
        found = sorted(str(id) for id in columns(rows)["id"])
        if found != named or len(set(found)) != len(found):
            expected = "the same test images in every run, each once"
            raise UserError(folder / name / PER_IMAGE_FILE, "other or repeated test images", expected, HINT)
    return scores, runs


def _names(row_type: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(row_type)]
