"""Reader of the BUSI layout (Al-Dhabyani et al. 2020): a folder a class, `x.png` beside `x_mask.png`, `x_mask_1.png`

    Dataset_BUSI_with_GT/benign/benign (3).png, benign (3)_mask.png, benign (3)_mask_1.png
    Dataset_BUSI_with_GT/malignant/...          Dataset_BUSI_with_GT/normal/...

Letter case does not matter. Several masks of one picture are merged: they outline several lesions.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medsegdiff.data.decoding import read_grey
from medsegdiff.data.readers.matching import (
    MASK_NAME,
    contents,
    find_roots,
    merge_masks,
    pictures,
    plain,
    subfolder,
    subfolders,
    unique_names,
)
from medsegdiff.data.readers.raw import RawSample, ReadOptions
from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError

CLASSES = ("benign", "malignant")
EMPTY_CLASS = "normal"  # the one class whose masks are empty
NAMING = "pairs like 'benign (1).png' and 'benign (1)_mask.png'"
LAYOUT = "BUSI: class folders benign and malignant with 'benign (1).png' beside 'benign (1)_mask.png'"


def find(folder: Path, options: ReadOptions) -> list[Path]:
    """The folders that hold class folders with masks beside the pictures, each one at `folder` or below."""

    def is_root(candidate: Path) -> bool:
        folders = (subfolder(candidate, label) for label in options.classes or CLASSES)
        return any(MASK_NAME.fullmatch(path.stem) for f in folders if f is not None for path in pictures(f))

    return find_roots(folder, is_root)


def read(root: Path, options: ReadOptions) -> list[RawSample]:
    """Read every picture of the classes with its merged masks, ordered by class and number.

    Raises `UserError`, naming the file, where a class, a picture or a mask is missing, cannot be decoded or differs in
    size, or a lesion mask is empty.
    """
    classes = options.classes or CLASSES
    tasks = []
    for label in classes:
        directory = subfolder(root, label)
        if directory is None:
            raise UserError(root, contents(root), f"the class folders {', '.join(classes)}", "Check --classes.")
        twins = [p.name for p in subfolders(root) if plain(p.name) == plain(label)]
        if len(twins) > 1:
            raise UserError(
                root, f"the folders {', '.join(twins)}", f"one of class {label}", "Merge them, or remove one."
            )
        tasks += [(label, image, masks) for image, masks in _match_files(directory)]
    names = unique_names([(label, image) for label, image, _ in tasks])
    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        found = pool.map(lambda task: _read_pair(*task), tasks)
        pixels = list(progress_bar(found, total=len(tasks), desc="reading pictures", unit="pair", leave=False))
    return [
        RawSample(name, label, f"{image.parent.name}/{image.name}", picture, mask, files=1 + len(masks))
        for name, (label, image, masks), (picture, mask) in zip(names, tasks, pixels, strict=True)
    ]


def _order(path: Path) -> tuple[int, str]:
    """Sorting key: the number in the file name, then the name."""
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else 0, path.name)


def _match_files(directory: Path) -> list[tuple[Path, list[Path]]]:
    """Pictures of a class folder, each with its masks; an error where one stands without the other."""
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    for path in sorted(pictures(directory), key=_order):
        match = MASK_NAME.fullmatch(path.stem)
        if match:
            masks.setdefault(plain(match["image"]), []).append(path)
            continue
        twin = images.setdefault(plain(path.stem), path)
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


def _read_pair(label: str, image: Path, masks: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 picture and the union of its masks, {0, 255}."""
    picture = read_grey(image)
    merged = merge_masks(masks, picture)
    if label.lower() != EMPTY_CLASS and not merged.any():
        hint = "Restore the mask, or remove the picture and its mask."
        raise UserError(masks[0], "an empty mask", f"a lesion outlined in every picture of class {label}", hint)
    return picture, merged
