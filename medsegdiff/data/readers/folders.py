"""Reader of own data in folders: the way that data come which nobody published.

    images/x.png, masks/x.png                 equal stems; sub-folders of both are classes (or train, val, test)
    cyst/x.png, cyst/x_mask.png, tumour/...   class folders, masks beside the pictures, or pictures alone
    train/cyst/x.png, test/cyst/y.png         either of them in folders named after splits

The words of a path say it all: `images` and `masks` what a file is, `train`, `val` and `test` its split, any other one
its class. A table metadata.csv in the data set's folder may say more: a row a picture, its column `file` the path (or
name) of the picture, and any of label, subject, text, modality, split and `attribute:<name>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.decoding import decode
from medsegdiff.data.mask_files import read_label_map
from medsegdiff.data.readers.busi import EMPTY_CLASS
from medsegdiff.data.readers.matching import (
    MASK_NAME,
    SPLIT_FOLDERS,
    SUFFIXES,
    check_size,
    merge_masks,
    pictures,
    plain,
    subfolders,
    unique_names,
    walk,
)
from medsegdiff.data.readers.raw import RawSample, RawSet, ReadOptions
from medsegdiff.data.readers.table import TABLE, Row, read_table
from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError

LAYOUT = "folders: images/x.png and masks/x.png, or class folders, or either in train, val and test"
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs"), ("masks", "mask")
COLOURED = 16  # difference of channels, grey values, from which a pixel is coloured
COLOURED_SHARE = 0.05  # least share of such pixels in a coloured picture; calipers and buttons have less


@dataclass
class Found:
    """One picture of the data set, before it is read."""

    image: Path
    label: str
    split: str
    masks: list[Path] = field(default_factory=list)


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """`folder`, or the one folder in it (and in that) that holds folders of pictures; none without any picture."""
    root = folder
    while not pictures(root) and len(inner := subfolders(root)) == 1:
        words = (*IMAGE_FOLDERS, *MASK_FOLDERS, *SPLIT_FOLDERS)
        if plain(inner[0].name) in words or pictures(inner[0]):
            break
        root = inner[0]
    return [root] if any(path.suffix.lower() in SUFFIXES for path in walk(root)) else []


def read(root: Path, options: ReadOptions) -> RawSet:
    """Read all pictures with masks, classes and what a table says.

    Raises `UserError`, naming the file, for splits that were not asked for, files without their partner, folders whose
    meaning is not clear, masks that are none, and a table that does not fit.
    """
    found = _collect(root)
    table = read_table(root / TABLE, [f.image for f in found]) if (root / TABLE).is_file() else {}
    _check_splits(root, found, table, options)
    found = _chosen(root, found, table, options)
    has_masks = any(f.masks for f in found)
    for f in found if has_masks else []:
        if not f.masks:
            raise UserError(
                f.image, "no mask", "a mask for every picture, or for none", "Add it, or remove the picture."
            )
    channels = channels_of([f.image for f in found], options)
    values = options.mask_classes if has_masks else None
    arrays = ArraySpec(channels, values) if values or not has_masks else ArraySpec(channels)

    def load(f: Found) -> tuple[np.ndarray, np.ndarray | None]:
        file = decode(f.image)
        picture = file.grey if channels == 1 else file.colours
        return picture, _read_mask(f, picture, options) if has_masks else None

    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        read_files = list(
            progress_bar(pool.map(load, found), "reading pictures", len(found), unit="picture", leave=False)
        )
    samples = []
    for name, f, (picture, mask) in zip(_names(found), found, read_files, strict=True):
        row = table.get(f.image, Row())
        source = str(f.image.relative_to(root))
        reported = {"subject": row.subject, "text": row.text, "modality": row.modality, "attributes": row.attributes}
        samples.append(
            RawSample(name, f.label, source, picture, mask, split=f.split, files=1 + len(f.masks), **reported)  # type: ignore[arg-type]
        )
    return RawSet(samples, arrays)


def _collect(root: Path) -> list[Found]:
    """Every picture below `root`, with its masks."""
    images: dict[tuple[str, ...], Found] = {}
    masks: dict[tuple[str, ...], list[Path]] = {}
    for path in walk(root):
        if path.suffix.lower() not in SUFFIXES:
            continue
        words = [plain(part) for part in path.relative_to(root).parts[:-1]]
        rest = [part for part, word in zip(path.relative_to(root).parts, words, strict=False) if _is_class(word)]
        splits = [SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS]
        if len(splits) > 1:
            raise UserError(path, f"two splits ({', '.join(splits)})", "one", "Put the picture in one of them.")
        named = MASK_NAME.fullmatch(path.stem)
        in_masks = any(word in MASK_FOLDERS for word in words)
        stem = named["image"] if named and (in_masks or not any(word in IMAGE_FOLDERS for word in words)) else path.stem
        key = (*splits, *map(plain, rest), plain(stem))
        if in_masks or stem != path.stem:
            masks.setdefault(key, []).append(path)
        elif (twin := images.setdefault(key, Found(path, "/".join(rest), "".join(splits)))).image is not path:
            raise UserError(path, f"a second picture of the name of {twin.image.name}", "one", "Remove one of them.")
    for key, paths in masks.items():
        if key not in images:
            raise UserError(paths[0], "a mask without its picture", "both", "Add the picture or remove the mask.")
        images[key].masks = paths
    return list(images.values())


def _is_class(word: str) -> bool:
    return word not in SPLIT_FOLDERS and word not in IMAGE_FOLDERS and word not in MASK_FOLDERS


def _check_splits(root: Path, found: Sequence[Found], table: dict[Path, Row], options: ReadOptions) -> None:
    """Take splits of folders or of the table where they are asked for; refuse split folders where they are not."""
    by_folder = sorted({f.split for f in found if f.split})
    if by_folder and not options.keep_splits:
        hint = "Give --keep_splits true to take these splits as they are, or the folder of one of them."
        raise UserError(root, f"folders of several splits ({', '.join(by_folder)})", "one data set", hint)
    for f in found:
        f.split = (table.get(f.image, Row()).split or f.split) if options.keep_splits else ""
        if options.keep_splits and not f.split:
            hint = f"Put it in train, val or test, or name its split in {TABLE}."
            raise UserError(f.image, "no split", "the split of every picture, as --keep_splits asks", hint)


def _chosen(root: Path, found: list[Found], table: dict[Path, Row], options: ReadOptions) -> list[Found]:
    """Pictures of the classes that are asked for, in their order; classes of the table win over those of folders."""
    for f in found:
        f.label = table.get(f.image, Row()).label or f.label
        if "/" in f.label:
            names = sorted({other.label for other in found if "/" in other.label})
            hint = f"Give one of the folders, or say the class of each picture in {TABLE} (columns file, label)."
            raise UserError(root, f"folders in folders ({', '.join(names[:5])})", "one level of class folders", hint)
    if options.classes is None:
        return sorted(found, key=lambda f: (f.label, f.split))
    wanted = {plain(name): (order, name) for order, name in enumerate(options.classes)}
    if len(wanted) == 1 and not any(f.label for f in found):
        for f in found:  # one class, and nothing that says another one
            f.label = options.classes[0]
    there = Counter(plain(f.label) for f in found)
    for name in options.classes:
        if not there[plain(name)]:
            named = ", ".join(sorted({f.label or "no class" for f in found}))
            raise UserError(root, named, f"the classes {', '.join(options.classes)}", "Check --classes.")
    chosen = [f for f in found if plain(f.label) in wanted]
    for f in chosen:
        f.label = wanted[plain(f.label)][1]
    return sorted(chosen, key=lambda f: (wanted[plain(f.label)][0], f.split))


def channels_of(images: Sequence[Path], options: ReadOptions) -> int:
    """1 or 3: as it is asked for, else 3 where most of some pictures are coloured."""
    if options.colour != "auto":
        return 1 if options.colour == "grey" else 3
    some = [images[i] for i in np.linspace(0, len(images) - 1, min(len(images), 24)).round().astype(int)]
    coloured = 0
    for path in some:
        colours = decode(path).colours.astype(np.int16)
        coloured += float((np.ptp(colours, axis=2) > COLOURED).mean()) > COLOURED_SHARE
    return 3 if coloured > len(some) / 2 else 1


def _read_mask(f: Found, picture: np.ndarray, options: ReadOptions) -> np.ndarray:
    """The mask of a picture; several binary ones are merged."""
    if options.mask_classes is None:
        merged = merge_masks(f.masks, picture)
        if f.label and plain(f.label) != EMPTY_CLASS and not merged.any():
            hint = f"Restore it, remove the pair, or call the class {EMPTY_CLASS}."
            raise UserError(f.masks[0], "an empty mask", f"a lesion outlined in every picture of class {f.label}", hint)
        return merged
    if len(f.masks) > 1:
        raise UserError(f.masks[1], "a second label map of one picture", "one", "Merge them.")
    mask = read_label_map(f.masks[0], options.mask_classes)
    check_size(f.masks[0], mask, picture)
    return mask


def _names(found: Sequence[Found]) -> list[str]:
    """Ids; the split stands before the class where names come again in another split."""
    labels = [f.label for f in found]
    stems = [(plain(f.label), plain(f.image.stem)) for f in found]
    if len(set(stems)) < len(stems) and any(f.split for f in found):
        prefix = [unique_names([(label, f.image)])[0] for label, f in zip(labels, found, strict=True)]
        return [f"{f.split}_{name}" for f, name in zip(found, prefix, strict=True)]
    return unique_names([(label, f.image) for label, f in zip(labels, found, strict=True)])
