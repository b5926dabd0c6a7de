"""Reader of STU-Hospital (Zhuang et al., "An RDAU-NET model for lesion segmentation in breast ultrasound images",
PLoS ONE 14(8), 2019): 42 pictures without classes.

    Hospital/Test_Image_1.png, mask_1.png

Some masks are larger than their picture and soft-edged: they are resized to it and cut at half.
"""

from __future__ import annotations

from pathlib import Path

from medsegdiff.data.readers.matching import find_roots, match, pictures, read_pair
from medsegdiff.data.readers.raw import RawSample, ReadOptions

IMAGE, MASK = "test_image_", "mask_"  # how names begin, in small letters
LAYOUT = "STU-Hospital: Hospital/Test_Image_1.png and mask_1.png"


def find(folder: Path, _: ReadOptions) -> list[Path]:
    """The folders that hold the pictures, each one at `folder` or below."""
    return find_roots(folder, lambda f: any(p.stem.lower().startswith(IMAGE) for p in pictures(f)))


def read(root: Path, _: ReadOptions) -> list[RawSample]:
    """All pairs, in the order of their numbers. Raises `UserError` where a file is missing or broken."""
    files = pictures(root)
    images = [p for p in files if p.stem.lower().startswith(IMAGE)]
    masks = [p for p in files if p.stem.lower().startswith(MASK)]
    found = []
    for image, mask in match(images, masks, lambda stem: MASK + stem[len(IMAGE) :]):
        number = image.stem[len(IMAGE) :]
        found.append(RawSample(f"stu_{number.zfill(4)}", "", image.name, *read_pair(image, mask, resize=True)))
    return sorted(found, key=lambda pair: pair.name)
