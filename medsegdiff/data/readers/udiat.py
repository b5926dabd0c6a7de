"""Reader of UDIAT, also called Dataset B (Yap et al., "Automated breast ultrasound lesions detection using
convolutional neural networks", IEEE JBHI 22(4), 2018): 163 pictures.

    original/000001.png, GT/000001.png

The published classes stand in a spreadsheet. They are read where pictures (or masks) also lie in folders `benign` and
`malignant` beside these, as in circulating copies; else they are unknown.
"""

from __future__ import annotations

from pathlib import Path

from medsegdiff.data.readers.matching import find_roots, match, pictures, read_pair, subfolder
from medsegdiff.data.readers.raw import RawSample, ReadOptions
from medsegdiff.errors import UserError

CLASSES = ("benign", "malignant")
LAYOUT = "UDIAT: original/000001.png, GT/000001.png"


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """The folders that hold original and GT, each one at `folder` or below."""
    return find_roots(folder, lambda f: all(subfolder(f, name) is not None for name in ("original", "GT")))


def read(root: Path, _: ReadOptions) -> list[RawSample]:
    """All pairs. Raises `UserError` where a file is missing or broken."""
    folders = {name: subfolder(root, name) for name in ("original", "GT", *CLASSES)}
    labels: dict[str, str] = {}
    for name in CLASSES:
        folder = folders[name]
        for path in pictures(folder) if folder else []:
            if labels.setdefault(path.stem, name) != name:
                raise UserError(path, f"the picture in {labels[path.stem]} as well", "one class", "Remove one of them.")
    images, masks = (pictures(folder) if (folder := folders[name]) else [] for name in ("original", "GT"))
    return [
        RawSample(f"udiat_{image.stem}", labels.get(image.stem, ""), f"original/{image.name}", *read_pair(image, mask))
        for image, mask in match(images, masks, lambda stem: stem)
    ]
