"""What readers of pictures and masks in two places share: finding the folders, matching files, decoding a pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from medsegdiff.data.decoding import read_grey
from medsegdiff.errors import UserError

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_THRESHOLD = 127  # grey values above it are lesion
LEVELS = 2  # how far below the given folder the data set may lie


def subfolder(folder: Path, name: str) -> Path | None:
    """The sub-folder of that name, whatever its letter case."""
    matches = [p for p in folder.iterdir() if p.is_dir() and p.name.lower() == name.lower()]
    return min(matches) if matches else None


def contents(folder: Path) -> str:
    """What a folder holds, for a message."""
    found = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return shown or "an empty folder"


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, in order."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=lambda p: p.name)


def find_root(folder: Path, is_root: Callable[[Path], bool]) -> Path | None:
    """`folder`, or the highest folder at most two levels below it, of which `is_root` holds.

    Raises `UserError` where it holds of several on one level: taking the first would leave pictures out silently.
    """
    layer = [folder]
    for _ in range(LEVELS + 1):
        found = [candidate for candidate in layer if is_root(candidate)]
        if len(found) > 1:
            names = ", ".join(str(p.relative_to(folder)) for p in found)
            hint = "Give the folder of each of them."
            raise UserError(folder, f"one layout in several folders ({names})", "one data set", hint)
        if found:
            return found[0]
        layer = [p for parent in layer for p in sorted(parent.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return None


def match(images: list[Path], masks: list[Path], mask_name: Callable[[str], str]) -> list[tuple[Path, Path]]:
    """Each picture with its mask, `mask_name` giving the name of the mask (without ending) for that of the picture.

    Raises `UserError` where one stands without the other, or two masks have one name.
    """
    by_name: dict[str, Path] = {}
    for path in masks:
        if (other := by_name.setdefault(path.stem.lower(), path)) is not path:
            raise UserError(path, f"a mask beside {other.name}", "one mask of that name", "Remove one of them.")
    pairs = []
    for image in images:
        wanted = mask_name(image.stem)
        mask = by_name.pop(wanted.lower(), None)
        if mask is None:
            raise UserError(image, "no mask", f"a mask named {wanted!r}", "Add the mask or remove the picture.")
        pairs.append((image, mask))
    if by_name:
        stray = min(by_name.values())
        raise UserError(stray, "a mask without its picture", "both", "Add the picture or remove the mask.")
    return pairs


def read_pair(image: Path, mask: Path, *, resize: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 picture and its mask in {0, 255}.

    Raises `UserError` where a file cannot be decoded, the mask is empty, or has another size and may not be resized.
    """
    picture, outline = read_grey(image), read_grey(mask)
    if outline.shape != picture.shape:
        if not resize:
            found, expected = (f"{a.shape[1]} x {a.shape[0]} pixels" for a in (outline, picture))
            raise UserError(mask, found, f"{expected}, as its picture", "Restore the published file.")
        outline = cv2.resize(outline, picture.shape[::-1], interpolation=cv2.INTER_AREA)
    lesion = np.where(outline > MASK_THRESHOLD, 255, 0).astype(np.uint8)
    if not lesion.any():
        raise UserError(mask, "an empty mask", "the outline of a lesion", "Restore it, or remove the pair.")
    return picture, lesion
