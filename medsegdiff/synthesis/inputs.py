"""Masks or images that a user gives, to sample the other modality for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsegdiff.data.arrays import BINARY, GREY_BINARY, ArraySpec, resize_anisotropic
from medsegdiff.data.dataset import to_channels
from medsegdiff.data.decoding import read_picture
from medsegdiff.data.hashing import content_hash
from medsegdiff.data.mask_files import read_binary_mask, read_label_map
from medsegdiff.data.readers.matching import MASK_NAME, SUFFIXES, pictures, subfolders
from medsegdiff.data.records import read_samples
from medsegdiff.engine.files import DATASET_FILE, read_json, require_folder
from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError

GREY_SHARE = 0.05  # least share of an ultrasound picture that is neither black nor white; masks have next to nothing


@dataclass(frozen=True, eq=False)
class ConditioningInput:
    """One picture that is given, resized to the size of the network."""

    id: str  # of the pair in samples, or the file's name
    file: str  # relative to the folder
    label: str | None  # class, where the folder says it
    group: str  # group of the pair, or one made from the content: a sampled image stays with the mask that it shows
    width: int  # pixels, native
    height: int  # pixels, native
    pixel_aspect: float  # native pixel width / height
    hash: str  # `content_hash` of the native picture (of a mask: after thresholding)
    picture: np.ndarray  # image (C, S, S) uint8, or mask (K, S, S): the share that a class covers, in 255ths

    @property
    def number(self) -> int:
        """What its chance comes from: name and content, not the other files of the folder."""
        return int(hashlib.sha256(f"{self.id} {self.hash}".encode()).hexdigest()[:15], 16)


def read_inputs(
    folder: Path, kind: str, size: int, split: str | None, classes: list[str], spec: ArraySpec = GREY_BINARY
) -> list[ConditioningInput]:
    """The "masks" or "images" (`kind`) in a sample folder (of `split`, or all), or in a folder of pictures.

    A folder of pictures may hold sub-folders named after `classes`, which give the class. Raises `UserError` where
    there is none, where one cannot be read, or where a mask is none.
    """
    require_folder(folder, kind)
    if (folder / DATASET_FILE).is_file():
        return _from_pairs(folder, kind, size, split, spec)
    if (folder.resolve().parent / DATASET_FILE).is_file():  # its split and groups would be lost, and leaks unnoticed
        hint = f"Give {folder.resolve().parent.name}/ itself, so that splits and groups are known."
        if "kind" in read_json(folder.resolve().parent / DATASET_FILE):
            hint = "What image_to_mask wrote is nothing to sample for."
        raise UserError(folder, "a part of a data set", "a sample folder, or pictures of their own", hint)
    if split is not None:
        raise UserError(
            "--split", split, f"--{kind} that is a sample folder", f"{folder} has no splits; leave --split out."
        )
    found: dict[str, ConditioningInput] = {}
    for label, stem, paths in progress_bar(
        _picture_files(folder, kind, classes), f"reading {kind}", unit="file", leave=False
    ):
        path = paths[0]
        picture = _mask(paths, spec) if kind == "masks" else _as_image(path, spec.channels)
        name = re.sub(r"[^\w.-]+", "-", stem).strip("-.")
        if not name:
            raise UserError(path, "a name without letters or digits", "one that can be an id", "Rename the file.")
        if label is not None and not name.lower().startswith(label.lower()):
            name = f"{label}_{name}"
        relative = str(path.relative_to(folder))
        if name in found:
            raise UserError(
                path, f"the same name {name!r} as {found[name].file}", "unlike names", "Rename one of them."
            )
        found[name] = input_of(picture, kind, name, size, spec, file=relative, label=label)
    return [found[name] for name in sorted(found)]


def input_of(
    picture: np.ndarray, kind: str, name: str, size: int, spec: ArraySpec, *, file: str = "", label: str | None = None
) -> ConditioningInput:
    """A native mask of pixel values or uint8 image (`kind`: "masks" or "images") that stands in no sample folder."""
    digest, (height, width) = content_hash(picture), picture.shape[:2]
    resized = _resized(picture, kind, size, spec)
    return ConditioningInput(name, file, label, f"m{digest[:12]}", width, height, 1.0, digest, resized)


def _resized(picture: np.ndarray, kind: str, size: int, spec: ArraySpec) -> np.ndarray:
    """The channels of a native mask or image at the size of the network."""
    return spec.coverage(picture, size) if kind == "masks" else to_channels(resize_anisotropic(picture, size))


def _from_pairs(folder: Path, kind: str, size: int, split: str | None, spec: ArraySpec) -> list[ConditioningInput]:
    pairs = read_samples(folder).select(split)
    ours, theirs = (a.mask_values if kind == "masks" else a.channels for a in (spec, pairs.arrays))
    if ours != theirs:
        raise UserError(folder, f"{pairs.arrays}", f"{kind} as the checkpoint has them ({spec})", "Give others.")
    if not len(pairs):
        raise UserError(folder, f"no pair in the {split} split", "at least one", "Choose another --split.")
    result = []
    for r in progress_bar(sorted(pairs.records, key=lambda r: r.id), desc=f"reading {kind}", unit="file", leave=False):
        masks = kind == "masks"
        picture = pairs.read_mask(r) if masks else pairs.read_image(r)
        name, digest = (r.mask_file_name, r.mask_hash) if masks else (r.image_file_name, r.image_hash)
        result.append(
            ConditioningInput(
                r.id, name, r.label, r.group, r.width, r.height, r.pixel_aspect, digest,
                _resized(picture, kind, size, spec),
            )
        )  # fmt: skip
    return result


def _picture_files(folder: Path, kind: str, classes: list[str]) -> list[tuple[str | None, str, list[Path]]]:
    """(class or None, name, files) of the wanted pictures.

    Files called `..._mask`, `..._mask_1` are masks where any is called so; those of one picture are one mask.
    """
    below = {p.name.lower(): p for p in subfolders(folder)}
    places: list[tuple[str | None, Path]] = [(c, below[c.lower()]) for c in classes if c.lower() in below]
    if kind == "images" and not pictures(folder):
        places = [(p.name, p) for p in below.values()]  # no class is given, so every folder will do
    result: list[tuple[str | None, str, list[Path]]] = []
    for label, place in places or [(None, folder)]:
        files = pictures(place)
        masks: dict[str, list[Path]] = {}
        for path in files:
            if match := MASK_NAME.fullmatch(path.stem):
                masks.setdefault(match["image"], []).append(path)
        if kind == "masks" and masks:
            result += [(label, stem, paths) for stem, paths in masks.items()]
        else:
            result += [(label, p.stem, [p]) for p in files if not MASK_NAME.fullmatch(p.stem)]
    if not result:
        expected = f"a sample folder, or pictures ({', '.join(SUFFIXES)}), or folders {', '.join(classes)} of them"
        raise UserError(folder, f"no {kind}", expected, "Check the path.")
    return result


def _mask(paths: list[Path], spec: ArraySpec) -> np.ndarray:
    """The mask of one picture in pixel values: the union of binary ones, or a label map."""
    if spec.mask_values == BINARY:
        return _union(paths)
    hint = "Give masks as the checkpoint learnt them."
    if len(paths) > 1:
        raise UserError(paths[0], "several masks of one picture", f"one label map ({spec})", hint)
    return read_label_map(paths[0], spec.mask_values or {}, hint)


def _union(paths: list[Path]) -> np.ndarray:
    """The masks of one picture as one, as `prepare` merges them."""
    merged = read_binary_mask(paths[0])
    for path in paths[1:]:
        mask = read_binary_mask(path)
        if mask.shape != merged.shape:
            raise UserError(path, f"size {mask.shape}", f"{merged.shape}, as {paths[0].name}", "Restore the file.")
        merged = np.maximum(merged, mask)
    return merged


def _as_image(path: Path, channels: int) -> np.ndarray:
    """The picture; `UserError` where it is black and white like a mask."""
    picture = read_picture(path, channels)
    grey = float(((picture > 8) & (picture < 247)).mean())
    if grey < GREY_SHARE:
        found = f"a black and white picture (grey in {grey:.1%} of it)"
        raise UserError(path, found, "an ultrasound picture, no mask", "Give a folder of images alone.")
    return picture
