"""Bad input of the directions of phase 3: masks or images that are given, and settings that contradict each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from bad_base import Case

GENERATE = "generate --checkpoint_path model.safetensors --output_dir out --steps 2 --device cpu"
UNCLEAR = "is neither black nor white"


def draw_mask(folder: Path, name: str, radius: int) -> None:
    """A mask file with a disc of that radius, in pixels."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:40, :48]
    cv2.imwrite(str(path), np.where((y - 20) ** 2 + (x - 24) ** 2 < radius**2, 255, 0).astype(np.uint8))


def grey_pictures(folder: Path) -> None:
    """Pictures with all grey values, as of ultrasound."""
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photos" / "a.png"), np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8))


DIRECTIONS = [
    Case("--masks that is missing", f"{GENERATE} --masks nowhere", ("nowhere: found nothing",)),
    Case("--images that is missing", f"{GENERATE} --images nowhere", ("nowhere: found nothing",)),
    Case("mode without its masks", f"{GENERATE} --mode mask_to_image", ("--mode mask_to_image: found no --masks",)),
    Case("mode without its images", f"{GENERATE} --mode image_to_mask", ("--mode image_to_mask: found no --images",)),
    Case("masks and images together", f"{GENERATE} --masks real --images real", ("--masks: found --images beside it",)),
    Case("--num_samples_per_input of new pairs", f"{GENERATE} --num_samples_per_input 4",
         ("--num_samples_per_input: found mode joint",)),
    Case("a class given with images", f"{GENERATE} --images real --classes benign", ("found mode image_to_mask",)),
    Case("unknown mode", f"{GENERATE} --mode inpaint", ("--mode: found inpaint", "image_to_mask")),
    Case("folder without masks", f"{GENERATE} --masks empty", ("empty: found no masks",),
         lambda folder: (folder / "empty").mkdir()),
    Case("pictures given as masks", f"{GENERATE} --masks photos --classes benign", (UNCLEAR, "expected a mask"),
         grey_pictures),
    Case("masks given as images", f"{GENERATE} --images flat", ("a black and white picture", "no mask"),
         lambda folder: draw_mask(folder, "flat/a.png", 9)),
    Case("mask without a class", f"{GENERATE} --masks flat", ("whose class nobody gave", "--classes"),
         lambda folder: draw_mask(folder, "flat/a.png", 9)),
    Case("empty mask of a lesion class", f"{GENERATE} --masks flat --classes benign", ("is empty", "a lesion"),
         lambda folder: draw_mask(folder, "flat/a.png", 0)),
    Case("two masks of one name", f"{GENERATE} --masks flat --classes benign", ("the same name 'a'",),
         lambda folder: [draw_mask(folder, f"flat/a.{ending}", 9) for ending in ("bmp", "png")]),
    Case("--split of a folder without splits", f"{GENERATE} --masks flat --split val", ("--split: found val",),
         lambda folder: draw_mask(folder, "flat/a.png", 9)),
]  # fmt: skip
