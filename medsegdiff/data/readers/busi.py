"""Reader of the BUSI layout (Al-Dhabyani et al. 2020): a folder a class, `x.png` beside `x_mask.png`, `x_mask_1.png`

    Dataset_BUSI_with_GT/benign/benign (3).png, benign (3)_mask.png, benign (3)_mask_1.png
    Dataset_BUSI_with_GT/malignant/...          Dataset_BUSI_with_GT/normal/...

Letter case does not matter. Several masks of one picture are merged: they outline several lesions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medsegdiff.data.decoding import read_grey
from medsegdiff.data.readers import RawSample
from medsegdiff.data.readers.matching import MASK_THRESHOLD, SUFFIXES, contents, subfolder
from medsegdiff.engine.files import require_folder
from medsegdiff.errors import UserError

MASK_NAME = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE)
EMPTY_CLASS = "normal"  # the one class whose masks are empty
NAMING = "pairs like 'benign (1).png' and 'benign (1)_mask.png'"


def read_busi(folder: Path, classes: list[str]) -> list[RawSample]:
    """Read every picture of the given classes with its merged masks, ordered by class and number.

    `folder` holds the class folders directly or one level below. Raises `UserError`, naming the file, where the layout
    is another one, a picture or a mask is missing, cannot be decoded or differs in size, or a lesion mask is empty.
    """
    root = _class_root(Path(folder), classes)
    tasks = []
    for label in classes:
        directory = subfolder(root, label)
        if directory is None:
            raise UserError(root, contents(root), f"the class folders {', '.join(classes)}", "Check --classes.")
        tasks += [(label, image, masks) for image, masks in _match_files(directory)]
    names = _unique_names([(label, image) for label, image, _ in tasks])
    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        found = pool.map(lambda task: _read_pair(*task), tasks)
        pictures = list(tqdm(found, total=len(tasks), desc="reading pictures", unit="pair", leave=False))
    return [
        RawSample(name, label, f"{image.parent.name}/{image.name}", picture, mask)
        for name, (label, image, _), (picture, mask) in zip(names, tasks, pictures, strict=True)
    ]


def _class_root(folder: Path, classes: list[str]) -> Path:
    """`folder` or the one sub-folder of it that holds class folders."""
    require_folder(folder, f"the class folders {', '.join(classes)}")
    for candidate in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        if any(subfolder(candidate, label) for label in classes):
            return candidate
    expected = f"the class folders {', '.join(classes)}, there or one level below"
    raise UserError(folder, contents(folder), expected, "Give the folder of the unpacked data set.")


def _order(path: Path) -> tuple[int, str]:
    """Sorting key: the number in the file name, then the name."""
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else 0, path.name)


def _match_files(directory: Path) -> list[tuple[Path, list[Path]]]:
    """Pictures of a class folder, each with its masks; an error where one stands without the other."""
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    files = (p for p in directory.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    for path in sorted(files, key=_order):
        match = MASK_NAME.fullmatch(path.stem)
        if match:
            masks.setdefault(match["image"].lower(), []).append(path)
            continue
        twin = images.setdefault(path.stem.lower(), path)
        if twin is not path:
            raise UserError(path, f"a second picture of the name of {twin.name}", "one", "Remove one of them.")
    if not images:
        raise UserError(directory, "no picture", NAMING, "Check that the data set was unpacked completely.")
    for stem, path in images.items():
        if stem not in masks:
            raise UserError(path, "no mask beside it", f"'{path.stem}_mask.png'", "Add the mask or remove the picture.")
    for stem, paths in masks.items():
        if stem not in images:
            raise UserError(paths[0], "a mask without its picture", NAMING, "Add the picture or remove the mask.")
    return [(path, masks[stem]) for stem, path in images.items()]


def _unique_names(files: Iterable[tuple[str, Path]]) -> list[str]:
    """Ids: class and number (`benign_0003`) where the file is called `<class> (<number>)`, else class and file name."""
    names: dict[str, Path] = {}
    for label, path in files:
        numbered = re.fullmatch(rf"{re.escape(label)}\W*(\d+)\W*", path.stem, re.IGNORECASE)
        tail = f"{int(numbered[1]):04d}" if numbered else re.sub(r"\W+", "-", path.stem).strip("-")
        name = f"{label}_{tail}"
        if names.setdefault(name, path) is not path:
            found = f"the same id {name!r} as {names[name].name!r}"
            raise UserError(path, found, "names that differ in letters or number", "Rename one of them.")
    return list(names)


def _read_pair(label: str, image: Path, masks: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 picture and the union of its masks, {0, 255}."""
    picture = read_grey(image)
    merged = np.zeros_like(picture)
    for path in masks:
        mask = read_grey(path)
        if mask.shape != picture.shape:
            found, expected = (f"{a.shape[1]} x {a.shape[0]} pixels" for a in (mask, picture))
            raise UserError(path, found, f"{expected}, as its picture", "Restore the published file.")
        merged[mask > MASK_THRESHOLD] = 255
    if label.lower() != EMPTY_CLASS and not merged.any():
        hint = "Restore the mask, or remove the picture and its mask."
        raise UserError(masks[0], "an empty mask", f"a lesion outlined in every picture of class {label}", hint)
    return picture, merged
