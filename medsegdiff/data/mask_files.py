"""Mask files -> arrays: the one place that says what a mask may be, for raw data sets and for masks given to generate.

A binary mask shows lesions white on black, opaque on transparent, or in the colours of a palette. A label map has one
pixel value (or palette number) a class. What could be read in two ways is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from medsegdiff.data.decoding import Decoded, decode
from medsegdiff.errors import UserError

MASK_THRESHOLD = 127  # grey values above it are lesion
LARGEST_LESION = 0.8  # share of the picture; the largest lesion of BUSI covers 56 %
UNCLEAR = (64, 192)  # grey values between these are neither lesion nor background of a mask
UNCLEAR_SHARE = 0.05  # largest share of such pixels; soft edges stay below it, ultrasound pictures far above
MOST_VALUES = 16  # so many pixel values a label map may have to be called one in a message
INVERTED = "Is it inverted? Lesions are white."
NAME_ALL = "Name every value in --mask_classes."


def read_binary_mask(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """(H, W) uint8 mask in {0, 255}; with `shape`, a mask of another size is resized to it before it is thresholded.

    Raises `UserError` where the file is no picture, or no mask of lesions on a background.
    """
    grey = _grey_mask(path, decode(path))
    _check_binary(path, grey)
    if shape is not None and grey.shape != shape:
        grey = cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.where(grey > MASK_THRESHOLD, 255, 0).astype(np.uint8)


def read_label_map(path: Path, values: Mapping[str, int], hint: str = NAME_ALL) -> np.ndarray:
    """(H, W) uint8 mask whose pixels are all among `values` (class name -> pixel value; palette number in a palette).

    Raises `UserError` where the file is no picture, is coloured without a palette, or holds another value (`hint`).
    """
    file = decode(path)
    found = file.numbers if file.numbers is not None else _as_numbers(path, file)
    unknown = sorted(set(np.unique(found).tolist()) - set(values.values()))
    if unknown:
        expected = ", ".join(f"{value} ({name})" for name, value in values.items())
        some = ", ".join(map(str, unknown[:MOST_VALUES]))
        raise UserError(path, f"pixel values {some}", f"only {expected}", hint)
    return np.asarray(found, dtype=np.uint8)


def check_not_inverted(masks: Sequence[np.ndarray], where: object) -> None:
    """Raise `UserError` where most of the {0, 255} masks that have a lesion are white all along their edges."""
    edges = [np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]]) for m in masks if m.any()]
    inverted = sum(float((edge > 0).mean()) > 0.5 for edge in edges)
    if inverted > len(edges) / 2:
        found = f"{inverted} of {len(edges)} masks with white along most of their edges"
        raise UserError(where, found, "masks with white lesions on black", "Are they inverted? Invert them.")


def _grey_mask(path: Path, file: Decoded) -> np.ndarray:
    """(H, W) uint8, lesions bright: what colours, palette or transparency say."""
    if file.numbers is not None:
        return _palette_mask(path, file)
    if file.pixels.ndim == 2 or file.pixels.shape[2] == 3:
        return file.grey
    alpha = file.pixels[..., 3]
    if (alpha == alpha.flat[0]).all():
        return file.grey
    shown = file.grey[alpha > 0]
    if (shown == shown[0]).all():
        return np.ascontiguousarray(alpha)
    hint = "Save it without transparency, white lesion on black."
    raise UserError(path, "a mask in its colours and another one in its transparency", "one of them", hint)


def _palette_mask(path: Path, file: Decoded) -> np.ndarray:
    """A palette of greys is a grey picture; in one of colours, all but black is lesion if it is one colour."""
    numbers = file.numbers
    assert numbers is not None
    used = {int(n): file.colours[numbers == n][0] for n in np.unique(numbers)}
    if all(int(c.max()) == int(c.min()) for c in used.values()):
        return file.grey
    coloured = [n for n, c in used.items() if c.any()]
    if len(coloured) > 1:
        raise _several_values(path, sorted(used))
    return np.where(np.isin(numbers, coloured), 255, 0).astype(np.uint8)


def _as_numbers(path: Path, file: Decoded) -> np.ndarray:
    """The pixel values of a picture whose channels are equal."""
    colours = file.colours
    if (colours[..., :1] == colours).all():
        return np.ascontiguousarray(colours[..., 0])
    expected = "one grey value or palette number for each class"
    raise UserError(path, "a mask in colours without a palette", expected, "Save it as an index map.")


def _several_values(path: Path, values: list[int]) -> UserError:
    """Refusal of a label map where a binary mask is due."""
    named = " ".join(f"{'background' if n == 0 else f'name{i}'}={n}" for i, n in enumerate(values))
    found = f"a label map (pixel values {', '.join(map(str, values))})"
    return UserError(path, found, "a mask, white lesion on black", f"Name its classes: --mask_classes {named}.")


def _check_binary(path: Path, grey: np.ndarray) -> None:
    """Raise `UserError` where a grey picture is no mask."""
    values = np.unique(grey)
    if 2 < len(values) <= MOST_VALUES and _is_flat(grey):
        raise _several_values(path, values.tolist())
    unclear = float(((grey > UNCLEAR[0]) & (grey < UNCLEAR[1])).mean())
    if unclear > UNCLEAR_SHARE:
        found = f"a picture of which {unclear:.0%} is neither black nor white"
        raise UserError(path, found, "a mask, white lesion on black", "Give a folder of masks alone.")
    if 0 < grey.max() <= MASK_THRESHOLD:
        found = f"a picture whose brightest pixel is {grey.max()}"
        raise UserError(path, found, f"a mask, lesion above {MASK_THRESHOLD}", "Scale it to 0 and 255.")
    share = float((grey > MASK_THRESHOLD).mean())
    if share > LARGEST_LESION:
        raise UserError(path, f"a lesion on {share:.0%} of the picture", f"at most {LARGEST_LESION:.0%}", INVERTED)


def _is_flat(grey: np.ndarray) -> bool:
    """Whether each of its values fills areas, as classes do, rather than soft edges alone."""
    around = np.ones((5, 5), np.uint8)
    flat = (cv2.erode(grey, around) == grey) & (cv2.dilate(grey, around) == grey)
    return bool(np.isin(np.unique(grey), np.unique(grey[flat])).all())
