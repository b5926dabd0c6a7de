"""What readers share: finding folders, naming and matching files, decoding a pair."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from medsegdiff.data.decoding import read_grey
from medsegdiff.data.mask_files import read_binary_mask
from medsegdiff.errors import UserError

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_NAME = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE)
LEVELS = 2  # how far below the given folder the data set may lie
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def plain(name: str) -> str:
    """A name as files are matched by: small letters, accents in one form (macOS writes another than Windows)."""
    return unicodedata.normalize("NFC", name).lower()


def visible(folder: Path) -> list[Path]:
    """What a folder holds but hidden files and folders, in order of name; nothing where it may not be opened."""
    try:
        return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    except PermissionError:  # lost+found, System Volume Information beside the data
        return []


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, but hidden ones."""
    return [p for p in visible(folder) if p.is_dir()]


def subfolder(folder: Path, name: str) -> Path | None:
    """The sub-folder of that name, whatever its letter case."""
    return next((p for p in subfolders(folder) if plain(p.name) == plain(name)), None)


def contents(folder: Path) -> str:
    """What a folder holds, for a message."""
    found = [p.name + "/" * p.is_dir() for p in visible(folder)]
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return shown or "an empty folder"


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, in order."""
    return [p for p in visible(folder) if p.suffix.lower() in SUFFIXES]


def find_roots(folder: Path, is_root: Callable[[Path], bool]) -> list[Path]:
    """All folders, `folder` itself or at most two levels below, of which `is_root` holds.

    All, since taking the first would leave pictures out without a word.
    """
    found, layer = [], [folder]
    for _ in range(LEVELS + 1):
        found += [candidate for candidate in layer if is_root(candidate)]
        layer = [p for parent in layer for p in subfolders(parent) if _opens(p)]
    return found


def _opens(folder: Path) -> bool:
    """Whether one may look into a folder; lost+found beside the data, which root alone may read, is none of it."""
    try:
        os.scandir(folder).close()
    except PermissionError:
        return False
    return True


def walk(folder: Path) -> Iterator[Path]:
    """All visible files below a folder, in order."""
    for path in visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)
        elif path.is_file():
            yield path


def count_passed_over(root: Path, pictures_read: int, table: str = "") -> dict[str, int]:
    """Files below a data set's own folder that were not read, by kind: hidden ones, other endings, pictures."""
    endings = Counter(path.suffix.lower() or "no ending" for path in walk(root) if path.name != table)
    images = sum(endings.pop(suffix, 0) for suffix in SUFFIXES)
    counts = {"pictures": images - pictures_read, **{f"files ({k})": n for k, n in sorted(endings.items())}}
    counts["hidden"] = sum(1 for path in root.rglob(".*"))
    return {kind: count for kind, count in counts.items() if count > 0}


def match(images: list[Path], masks: list[Path], mask_name: Callable[[str], str]) -> list[tuple[Path, Path]]:
    """Each picture with its mask, `mask_name` giving the name of the mask (without ending) for that of the picture.

    Raises `UserError` where one stands without the other, or two masks have one name.
    """
    by_name: dict[str, Path] = {}
    for path in masks:
        if (other := by_name.setdefault(plain(path.stem), path)) is not path:
            raise UserError(path, f"a mask beside {other.name}", "one mask of that name", "Remove one of them.")
    pairs = []
    for image in images:
        wanted = mask_name(image.stem)
        mask = by_name.pop(plain(wanted), None)
        if mask is None:
            raise UserError(image, "no mask", f"a mask named {wanted!r}", "Add the mask or remove the picture.")
        pairs.append((image, mask))
    if by_name:
        stray = min(by_name.values())
        raise UserError(stray, "a mask without its picture", "both", "Add the picture or remove the mask.")
    return pairs


def unique_names(files: Iterable[tuple[str, Path]]) -> list[str]:
    """Ids of (class, file): `benign_0003` where it is called `<class> (<number>)`, else class and file name."""
    names: dict[str, Path] = {}
    for label, path in files:
        stem = unicodedata.normalize("NFC", path.stem)
        numbered = re.fullmatch(rf"{re.escape(label)}\W*(\d+)\W*", stem, re.IGNORECASE) if label else None
        tail = f"{int(numbered[1]):04d}" if numbered else re.sub(r"\W+", "-", stem).strip("-")
        name = f"{label}_{tail}" if label else tail
        if not name or names.setdefault(name, path) is not path:
            found = f"the same id {name!r} as {names[name].name!r}" if name else "a name without letters or digits"
            raise UserError(path, found, "names that differ in letters or number", "Rename one of them.")
    return list(names)


def check_size(path: Path, mask: np.ndarray, picture: np.ndarray) -> None:
    """Raise `UserError` unless a mask has the size of its picture."""
    if mask.shape[:2] != picture.shape[:2]:
        found, expected = (f"{a.shape[1]} x {a.shape[0]} pixels" for a in (mask, picture))
        raise UserError(path, found, f"{expected}, as its picture", "Restore the published file.")


def read_pair(image: Path, mask: Path, *, resize: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 picture and its mask in {0, 255}.

    Raises `UserError` where a file cannot be decoded, the mask is none or empty, or has another size and may not be
    resized.
    """
    picture = read_grey(image)
    lesion = read_binary_mask(mask, picture.shape if resize else None)
    check_size(mask, lesion, picture)
    if not lesion.any():
        raise UserError(mask, "an empty mask", "the outline of a lesion", "Restore it, or remove the pair.")
    return picture, lesion


def merge_masks(paths: list[Path], picture: np.ndarray) -> np.ndarray:
    """The union of the binary masks of one picture, {0, 255}."""
    merged = np.zeros(picture.shape[:2], np.uint8)
    for path in paths:
        mask = read_binary_mask(path)
        check_size(path, mask, picture)
        merged = np.maximum(merged, mask)
    return merged
