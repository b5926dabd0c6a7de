"""Picture files to arrays: upright whatever EXIF says, colours in their order, palettes as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medsegdiff.data.decoding import decode, read_grey, read_picture

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how pixels of an upright picture lie for an orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_are_upright(ending: str, orientation: int, mode: str, tmp_path: Path) -> None:
    """Damage: pixels as stored, so that a mask sampled in a viewer lies elsewhere; turned twice where OpenCV turns."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
    upright = cv2.resize(coarse, (60, 40), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).convert(mode)
    stored.save(tmp_path / f"x.{ending}", exif=exif, **({"quality": 97} if ending == "jpg" else {}))
    found = read_grey(tmp_path / f"x.{ending}")
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 2


def test_colours_and_grey(tmp_path: Path) -> None:
    """Damage: RGB read as BGR; a grey file that has no three channels where RGB is asked for."""
    Image.new("RGB", (3, 2), (255, 10, 0)).save(tmp_path / "c.png")
    Image.new("L", (3, 2), 7).save(tmp_path / "g.png")
    assert read_picture(tmp_path / "c.png", 3)[0, 0].tolist() == [255, 10, 0]
    assert read_picture(tmp_path / "c.png", 1).shape == (2, 3)
    assert read_picture(tmp_path / "g.png", 3)[0, 0].tolist() == [7, 7, 7]


def test_palettes_come_as_numbers_too(tmp_path: Path) -> None:
    """Damage: the colours of a palette alone, of which nobody can know the class."""
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    picture.save(tmp_path / "p.png")
    found = decode(tmp_path / "p.png")
    assert found.numbers is not None
    assert found.numbers.tolist() == [[0, 1], [2, 1]]
    assert found.colours[0, 1].tolist() == [128, 0, 0]
