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
    Case("a mode that this generator has not", f"{GENERATE} --mode text_to_image",
         ("--mode: found text_to_image", "image_to_mask")),
    Case("inpainting without pictures", f"{GENERATE} --mode inpaint", ("--mode inpaint: found no --images",)),
    Case("a region beyond the picture", f"{GENERATE} --mode inpaint --images real --region 0.5 0.5 0.8 0.2",
         ("--region: found 0.5 0.5 0.8 0.2", "within the picture")),
    Case("a region of three numbers", f"{GENERATE} --mode inpaint --images real --region 0.5 0.5 0.2",
         ("--region: found 0.5 0.5 0.2",)),
    Case("attributes of a checkpoint that takes none", f"{GENERATE} --attributes area=0.1",
         ("--attributes: found a checkpoint that takes label", "--conditions label attributes")),
    Case("an attribute without a number", f"{GENERATE} --attributes area", ("--attributes: found 'area'",)),
    Case("a prompt for a checkpoint that takes classes alone", f"{GENERATE} --prompt small", ("--prompt: found",)),
    Case("a prompt with a word that nobody knows", f"{GENERATE} --prompt malignent",
         ("--prompt: found 'malignent'", "Did you mean 'malignant'?")),
    Case("a prompt of two classes", f"{GENERATE} --prompt benign,cancer",
         ("--prompt: found 'benign' and 'cancer'",)),
    Case("a modality of a checkpoint that takes none", f"{GENERATE} --modality CT", ("--modality: found",)),
    Case("a table of requests with another column", f"{GENERATE} --requests rows.csv", ("column 'size'",),
         lambda folder: (folder / "rows.csv").write_text("label,size\nbenign,1\n")),
    Case("a table of requests with an unknown class", f"{GENERATE} --requests rows.csv",
         ("row 2 column label: found 'cyst'",), lambda folder: (folder / "rows.csv").write_text("label\ncyst\n")),
    Case("control of a checkpoint without attributes", "control --checkpoint_path model.safetensors --output_dir out",
         ("--checkpoint_path: found a checkpoint that takes label",)),
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
