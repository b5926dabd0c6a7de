"""What a mask may be: the same for raw data sets, external sets and masks given to generate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medsegdiff.data.mask_files import check_not_inverted, read_binary_mask, read_label_map
from medsegdiff.errors import UserError

DISC = np.asarray(cv2.circle(np.zeros((40, 50), np.uint8), (25, 20), 9, 255, -1))
VALUES = {"background": 0, "rv": 1, "lv": 3}


def palette(numbers: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    """A palette picture."""
    picture = Image.fromarray(numbers.astype(np.uint8), "P")
    flat = [value for colour in colours for value in colour]
    picture.putpalette(flat + [0] * (768 - len(flat)))
    return picture


def rgba(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """A grey picture with transparency."""
    return Image.fromarray(np.dstack([colour, colour, colour, alpha]))


WHITE, BLACK, OPAQUE = np.full_like(DISC, 255), np.zeros_like(DISC), np.full_like(DISC, 255)
GOOD = {
    "grey": Image.fromarray(DISC),
    "white, lesion opaque": rgba(WHITE, DISC),
    "black, lesion opaque": rgba(BLACK, DISC),
    "all opaque": rgba(DISC, OPAQUE),
    "palette of VOC": palette(DISC > 0, (0, 0, 0), (128, 0, 0)),
    "palette of greys": palette(DISC > 0, (0, 0, 0), (255, 255, 255)),
    "palette of greys, turned": palette(DISC == 0, (255, 255, 255), (0, 0, 0)),
}
LABELS = np.zeros((40, 50), np.uint8)
LABELS[5:20, 5:20], LABELS[5:20, 20:40] = 1, 3
BAD = {
    "inverted": (Image.fromarray(255 - DISC), r"a lesion on 87% of the picture; expected at most 80%\. Is it inverted"),
    "wholly opaque white": (rgba(WHITE, OPAQUE), "a lesion on 100% of the picture"),
    "two masks in one": (rgba(DISC, np.roll(DISC, 12, axis=1)), "a mask in its colours and another one in its transp"),
    "0 and 1": (Image.fromarray(DISC // 255), "a picture whose brightest pixel is 1; expected a mask"),
    "label map": (
        Image.fromarray(LABELS),
        r"a label map \(pixel values 0, 1, 3\).*--mask_classes background=0 name1=1",
    ),
    "label map of bright values": (Image.fromarray(LABELS * 80), r"a label map \(pixel values 0, 80, 240\)"),
    "palette of two classes": (palette(LABELS, (0, 0, 0), (128, 0, 0), (0,) * 3, (0, 9, 0)), "a label map .*0, 1, 3"),
    "ultrasound": (Image.fromarray(np.linspace(0, 255, 2000).reshape(40, 50).astype(np.uint8)), "neither black nor"),
}


@pytest.mark.parametrize("name", GOOD)
def test_one_lesion_however_it_is_saved(name: str, tmp_path: Path) -> None:
    """Damage: alpha dropped, so that the whole picture is lesion; dark palette colours thresholded away."""
    GOOD[name].save(tmp_path / "m.png")
    assert np.array_equal(read_binary_mask(tmp_path / "m.png"), DISC)


@pytest.mark.parametrize("name", BAD)
def test_no_mask(name: str, tmp_path: Path) -> None:
    """Damage: leaving out the check of that fault, which makes wrong masks without a word."""
    picture, message = BAD[name]
    picture.save(tmp_path / "m.png")
    with pytest.raises(UserError, match=message):
        read_binary_mask(tmp_path / "m.png")


def test_label_maps(tmp_path: Path) -> None:
    """Damage: colours of a palette taken for values; unknown values kept; values thresholded."""
    Image.fromarray(LABELS).save(tmp_path / "grey.png")
    palette(LABELS, (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)).save(tmp_path / "palette.png")
    Image.fromarray(LABELS).convert("RGB").save(tmp_path / "rgb.png")
    for name in ("grey", "palette", "rgb"):
        assert np.array_equal(read_label_map(tmp_path / f"{name}.png", VALUES), LABELS)
    with pytest.raises(UserError, match=r"pixel values 3; expected only 0 \(background\), 1 \(rv\)"):
        read_label_map(tmp_path / "grey.png", {"background": 0, "rv": 1})
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "colours.png")
    with pytest.raises(UserError, match="a mask in colours without a palette"):
        read_label_map(tmp_path / "colours.png", VALUES)


def test_inverted_as_a_whole() -> None:
    """Large lesions, inverted, stay below the limit of one mask. Damage: looking at each mask alone."""
    large = np.zeros((40, 50), np.uint8)
    large[5:35, 5:40] = 255
    check_not_inverted([large, DISC, 255 - large], "here")
    with pytest.raises(UserError, match="2 of 3 masks with white along most of their edges"):
        check_not_inverted([255 - large, 255 - large, DISC, BLACK], "here")
