"""Reader of BUS-BRA (Gomez-Flores, Gregorio-Calas and Pereira, Medical Physics 51(4), 2024): 1,875 pictures of 1,064
patients, benign and malignant.

    BUSBRA/Images/bus_0001-l.png, BUSBRA/Masks/mask_0001-l.png, BUSBRA/bus_data.csv (ID, Case, Pathology, ...)
"""

from __future__ import annotations

from pathlib import Path

from medsegdiff.data.readers.matching import find_roots, match, pictures, read_pair, subfolder
from medsegdiff.data.readers.raw import RawSample, ReadOptions
from medsegdiff.data.readers.table import read_csv
from medsegdiff.errors import UserError

TABLE = "bus_data.csv"
RESTORE = "Restore the published file."
COLUMNS = ("ID", "Case", "Pathology")
CLASSES = ("benign", "malignant")
LAYOUT = "BUS-BRA: Images/bus_0001-l.png, Masks/mask_0001-l.png, bus_data.csv"


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """The folders that hold the table, each one at `folder` or below."""
    return find_roots(folder, lambda f: (f / TABLE).is_file() and subfolder(f, "Images") is not None)


def read(root: Path, _: ReadOptions) -> list[RawSample]:
    """All pairs, with class and patient. Raises `UserError` where a file, a row or a column is missing or broken."""
    rows = _table(root / TABLE)
    images, masks = subfolder(root, "Images"), subfolder(root, "Masks")
    if images is None or masks is None:
        raise UserError(root, "no folder Masks", "Images and Masks", "Unpack the data set completely.")
    found = []
    for image, mask in match(pictures(images), pictures(masks), lambda stem: "mask_" + stem.removeprefix("bus_")):
        if image.stem not in rows:
            raise UserError(root / TABLE, f"no row {image.stem}", "a row for every picture", RESTORE)
        label, patient = rows.pop(image.stem)
        found.append(RawSample(image.stem, label, f"Images/{image.name}", *read_pair(image, mask), patient))
    if rows:
        missing = f"a row {min(rows)} without its picture"
        raise UserError(root / TABLE, missing, "a picture for every row", "Unpack the data set completely.")
    return found


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Class and patient by picture."""
    found: dict[str, tuple[str, str]] = {}
    for row in read_csv(path, COLUMNS, RESTORE):
        name, patient, label = (row[column] for column in COLUMNS)
        where = f"{path}, row {name or '(without ID)'}"
        if name in found:
            raise UserError(where, "a second row of that picture", "one", RESTORE)
        if label.lower() not in CLASSES:
            raise UserError(where, f"Pathology {label!r}", f"one of {', '.join(CLASSES)}", RESTORE)
        if not patient:
            raise UserError(where, "no Case", "the patient", RESTORE)
        found[name] = (label.lower(), patient)
    return found
