"""Reader of BUS-BRA (Gomez-Flores, Gregorio-Calas and Pereira, Medical Physics 51(4), 2024): 1,875 pictures of 1,064
patients, benign and malignant.

    BUSBRA/Images/bus_0001-l.png, BUSBRA/Masks/mask_0001-l.png, BUSBRA/bus_data.csv (ID, Case, Pathology, ...)
"""

from __future__ import annotations

import csv
from pathlib import Path

from medsegdiff.data.readers import RawPair
from medsegdiff.data.readers.matching import find_root, match, pictures, read_pair, subfolder
from medsegdiff.errors import UserError

TABLE = "bus_data.csv"
COLUMNS = ("ID", "Case", "Pathology")
LAYOUT = "BUS-BRA: Images/bus_0001-l.png, Masks/mask_0001-l.png, bus_data.csv"


def find(folder: Path) -> Path | None:
    """The folder that holds the table, at `folder` or below; None where this is another data set."""
    return find_root(folder, lambda f: (f / TABLE).is_file() and subfolder(f, "Images") is not None)


def read(root: Path) -> list[RawPair]:
    """All pairs, with class and patient. Raises `UserError` where a file, a row or a column is missing or broken."""
    rows = _table(root / TABLE)
    images, masks = subfolder(root, "Images"), subfolder(root, "Masks")
    if images is None or masks is None:
        raise UserError(root, "no folder Masks", "Images and Masks", "Unpack the data set completely.")
    found = []
    for image, mask in match(pictures(images), pictures(masks), lambda stem: "mask_" + stem.removeprefix("bus_")):
        row = rows.get(image.stem)
        if row is None:
            raise UserError(root / TABLE, f"no row {image.stem}", "a row for every picture", "Restore the file.")
        pair = read_pair(image, mask)
        found.append(RawPair(image.stem, row["Pathology"].lower(), f"Images/{image.name}", *pair, patient=row["Case"]))
    return found


def _table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of the table by picture."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise UserError(path, f"no column {missing[0]}", f"the columns {', '.join(COLUMNS)}", "Restore the file.")
        return {row["ID"]: row for row in reader}
