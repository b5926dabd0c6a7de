"""Reader of pictures with captions, as MINIM has them (Wang et al., Nature Medicine 2024): a CSV names each picture.

    captions.csv: path,Text,modality        one row a picture; `modal` and `caption` are understood as well
    and perhaps columns label, subject

Cells may have blanks around them. A caption may hold commas without quotation marks where all other columns are whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.decoding import decode
from medsegdiff.data.readers.folders import channels_of
from medsegdiff.data.readers.matching import find_roots, plain, unique_names, visible
from medsegdiff.data.readers.raw import RawSample, RawSet, ReadOptions
from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError, require

LAYOUT = "captions: a CSV with columns path, Text, modality, and the pictures that it names"
NAMES = {  # what columns are called
    "path": "path", "image": "path", "image_path": "path", "text": "text", "caption": "text", "modality": "modality",
    "modal": "modality", "label": "label", "subject": "subject",
}  # fmt: skip


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """The folders that hold such a CSV, each one at `folder` or below."""
    return find_roots(folder, lambda candidate: bool(_tables(candidate)))


def read(root: Path, options: ReadOptions) -> RawSet:
    """All pictures of the CSV, without masks. Raises `UserError`, naming the line, for what cannot be read."""
    tables = _tables(root)
    require(len(tables) == 1, str(root), f"{len(tables)} tables of captions", "one", "Remove the others.")
    rows = _rows(tables[0])
    if options.classes is not None:
        wanted = {plain(name) for name in options.classes}
        rows = [row for row in rows if plain(row["label"]) in wanted]
    paths = [root / row["path"] for row in rows]
    channels = channels_of(paths, options)

    def load(path: Path) -> object:
        file = decode(path)
        return file.grey if channels == 1 else file.colours

    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        images = list(progress_bar(pool.map(load, paths), "reading pictures", len(paths), unit="picture", leave=False))
    # Names of files come again in other folders: the fundus and the OCT of one eye
    names = unique_names([("", Path("-".join(Path(row["path"]).parts))) for row in rows])
    samples = [
        RawSample(
            name, row["label"], row["path"], image, None,
            subject=row["subject"], text=row["text"], modality=row["modality"], files=1,
        )
        for name, row, image in zip(names, rows, images, strict=True)
    ]  # fmt: skip
    return RawSet(samples, ArraySpec(channels, None))


def _tables(folder: Path) -> list[Path]:
    """The CSV files of a folder whose first line names path and text."""
    found = []
    for path in visible(folder):
        if path.is_file() and path.suffix.lower() == ".csv":
            with path.open("rb") as file:
                first = file.readline().decode("utf-8-sig", errors="replace")
            if {"path", "text"} <= {NAMES.get(cell.strip().lower(), "") for cell in first.split(",")}:
                found.append(path)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    """path, text, modality, label and subject of every line, "" where a column is missing."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(path, f"a file that is no table ({error})", "a CSV in UTF-8", "Save it as UTF-8.") from error
    header, *lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns = [NAMES.get(cell.strip().lower(), "") for cell in header]
    for name in set(NAMES.values()):
        require(columns.count(name) < 2, str(path), f"{columns.count(name)} columns for {name}", "one")
    found: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        if not any(cell.strip() for cell in line):
            continue
        where = f"{path}, line {number}"
        cells = _with_commas([cell.strip() for cell in line], columns, where)
        row = dict.fromkeys(NAMES.values(), "") | {n: cell for n, cell in zip(columns, cells, strict=True) if n}
        row["path"] = row["path"].replace("\\", "/").removeprefix("./")
        inside = (path.parent / row["path"]).resolve().is_relative_to(path.parent.resolve())
        expected = "the path of a picture in the folder of the table"
        require(
            inside and (path.parent / row["path"]).is_file(), where, repr(row["path"]), expected, "Correct the row."
        )
        same = found.setdefault(row["path"], row) == row  # the same row again says nothing new
        found_twice = f"a second row of {row['path']!r} that says something else"
        require(same, where, found_twice, "one", "Remove one of them.")
    require(bool(found), str(path), "no rows", "a row for each picture")
    return list(found.values())


def _with_commas(cells: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """A cell for each column: those that are too many are parts of a caption with commas."""
    more = len(cells) - len(columns)
    require(more >= 0, where, f"{len(cells)} cells", f"{len(columns)}, one a column", "Correct the row.")
    first = columns.index("text")
    return [*cells[:first], ", ".join(cells[first : first + more + 1]), *cells[first + more + 1 :]]
