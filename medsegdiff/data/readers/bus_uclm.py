"""Reader of BUS-UCLM (Vallez et al., "BUS-UCLM: Breast ultrasound lesion segmentation dataset", Scientific Data 12,
2025): 683 pictures of 38 patients, benign, malignant and normal.

    BUS-UCLM/images/ALWI_000.png, BUS-UCLM/masks/ALWI_000.png, BUS-UCLM/INFO.csv

Masks are coloured: green is a benign lesion, red a malignant one, black neither. Names begin with the patient. Pictures
without a lesion have nothing to outline and are left out; one with lesions of both kinds counts as malignant.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medsegdiff.data.decoding import decode, read_grey
from medsegdiff.data.mask_files import MASK_THRESHOLD
from medsegdiff.data.readers.matching import check_size, find_roots, match, pictures, subfolder
from medsegdiff.data.readers.raw import RawSample, ReadOptions
from medsegdiff.errors import UserError

LAYOUT = "BUS-UCLM: images/ALWI_000.png, masks/ALWI_000.png (coloured), INFO.csv"


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """The folders that hold images and masks, each one at `folder` or below."""
    return find_roots(folder, lambda f: (f / "INFO.csv").is_file() and subfolder(f, "images") is not None)


def read(root: Path, _: ReadOptions) -> list[RawSample]:
    """All pairs with a lesion, with class and patient. Raises `UserError` where a file is missing or broken."""
    images, masks = subfolder(root, "images"), subfolder(root, "masks")
    if images is None or masks is None:
        raise UserError(root, "no folder masks", "images and masks", "Unpack the data set completely.")
    found = []
    for image, mask in match(pictures(images), pictures(masks), lambda stem: stem):
        label, lesion = _read_mask(mask)
        if label:
            picture = read_grey(image)
            check_size(mask, lesion, picture)
            patient = image.stem.rsplit("_", 1)[0]
            found.append(RawSample(image.stem, label, f"images/{image.name}", picture, lesion, patient))
    return found


def _read_mask(path: Path) -> tuple[str, np.ndarray]:
    """The class of a coloured mask, "" for an empty one, and its lesions of all kinds as (H, W) in {0, 255}."""
    file = decode(path)
    red, green, blue = (file.colours[..., channel] > MASK_THRESHOLD for channel in range(3))
    if (green & red).any():
        raise UserError(path, "a mask that is not coloured", "green and red on black", "Restore the published file.")
    lesion = np.where(green | red, 255, 0).astype(np.uint8)
    if blue.any() or (file.grey.any() and not lesion.any()):
        raise UserError(path, "other colours", "green and red on black", "Restore the published file.")
    return "malignant" if red.any() else "benign" if green.any() else "", lesion
