"""Pictures that Python programs hand over, checked as the files of the command lines are."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from medsegdiff.data.dataset import to_grey_or_rgb
from medsegdiff.errors import UserError


def as_array(picture: np.ndarray | Image.Image | Any, name: str, channels: int) -> np.ndarray:
    """(H, W) uint8 for 1 channel, (H, W, 3) for 3, of an array or a PIL image; colour is converted to grey and back.

    Raises `UserError` for another type of numbers, or another shape; `name` is that of the argument.
    """
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    if not isinstance(picture, np.ndarray):
        found = f"a {type(picture).__name__}"
        raise UserError(name, found, "a numpy array or a PIL image", "Convert it, such as by tensor.numpy().")
    if picture.dtype != np.uint8:
        size = f" from {picture.min():.4g} to {picture.max():.4g}" if picture.size else ""
        hint = "Scale it to 0..255 and round: (x * 255).round().astype(numpy.uint8)."
        raise UserError(name, f"{picture.dtype} numbers{size}", "uint8 grey values from 0 to 255", hint)
    fits = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if not fits or not picture.size:
        hint = "Give one picture at a time, channels last."
        raise UserError(name, f"shape {picture.shape}", "(height, width) or (height, width, 3)", hint)
    return to_grey_or_rgb(picture, channels)
