"""The readers of external sets: which folder they take, the pixels, classes and patients they give, their refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.readers import READERS, RawSample, ReadOptions, read_raw
from medsegdiff.errors import UserError

HEIGHT, WIDTH = 48, 64
GREEN, RED, BLUE = (0, 255, 0), (0, 0, 255), (255, 0, 0)  # as OpenCV writes them


def scene(seed: int) -> np.ndarray:
    """(48, 64) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def box(value: int | tuple[int, int, int] = 255, left: int = 10) -> np.ndarray:
    """A mask of one box in that grey value or colour, 12 pixels high and 20 wide."""
    mask = np.zeros((HEIGHT, WIDTH) if isinstance(value, int) else (HEIGHT, WIDTH, 3), np.uint8)
    mask[30:42, left : left + 20] = value
    return mask


def save(path: Path, pixels: np.ndarray) -> None:
    """A picture, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def make_stu(root: Path) -> None:
    """Two pictures."""
    for number in (2, 10):
        save(root / f"Test_Image_{number}.png", scene(number))
        save(root / f"mask_{number}.png", box())


def make_bus_bra(root: Path) -> None:
    """Two pictures of two patients; the table begins with a mark of its encoding, as spreadsheets write it."""
    for number in (1, 2):
        save(root / "Images" / f"bus_000{number}-l.png", scene(number))
        save(root / "Masks" / f"mask_000{number}-l.png", box())
    table = "ID,Case,Pathology\r\nbus_0001-l,7,Benign\r\nbus_0002-l,8,malignant\r\n"
    (root / "bus_data.csv").write_bytes(table.encode("utf-8-sig"))


def make_bus_uclm(root: Path) -> None:
    """A benign, a malignant and a normal picture."""
    for number, colour in enumerate((GREEN, RED, (0, 0, 0))):
        save(root / "images" / f"ALWI_00{number}.png", scene(number))
        save(root / "masks" / f"ALWI_00{number}.png", box(colour))
    (root / "INFO.csv").write_text("Image;Label\n")


def make_udiat(root: Path) -> None:
    """Two pictures, the classes of both given by folders."""
    for number, label in ((1, "benign"), (2, "Malignant")):
        for folder, pixels in (("original", scene(number)), ("GT", box()), (label, scene(number))):
            save(root / folder / f"00000{number}.png", pixels)


MAKERS: dict[str, Callable[[Path], None]] = {
    "stu_hospital": make_stu,
    "bus_bra": make_bus_bra,
    "bus_uclm": make_bus_uclm,
    "udiat": make_udiat,
}
FACTS = {  # id, class, file, patient, seed of the picture
    "stu_hospital": [("stu_0002", "", "Test_Image_2.png", "", 2), ("stu_0010", "", "Test_Image_10.png", "", 10)],
    "bus_bra": [
        ("bus_0001-l", "benign", "Images/bus_0001-l.png", "7", 1),
        ("bus_0002-l", "malignant", "Images/bus_0002-l.png", "8", 2),
    ],
    "bus_uclm": [
        ("ALWI_000", "benign", "images/ALWI_000.png", "ALWI", 0),
        ("ALWI_001", "malignant", "images/ALWI_001.png", "ALWI", 1),
    ],
    "udiat": [
        ("udiat_000001", "benign", "original/000001.png", "", 1),
        ("udiat_000002", "malignant", "original/000002.png", "", 2),
    ],
}


def find(name: str, folder: Path) -> list[Path]:
    """The data sets of that layout."""
    return READERS[name].find(folder, ReadOptions())


def read(name: str, root: Path) -> list[RawSample]:
    """The pairs of one of them."""
    found = READERS[name].read(root, ReadOptions())
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_facts_and_pixels(name: str, tmp_path: Path) -> None:
    """Damage: 10 comes before 2, a class or patient is read from elsewhere, or a picture and its mask are swapped."""
    MAKERS[name](tmp_path)
    pairs = read(name, tmp_path)
    assert [(p.name, p.label, p.source, p.subject) for p in pairs] == [fact[:4] for fact in FACTS[name]]
    for pair, fact in zip(pairs, FACTS[name], strict=True):
        assert np.array_equal(pair.image, scene(fact[4]))
        assert np.array_equal(pair.mask, box())


@pytest.mark.parametrize("name", MAKERS)
def test_found_up_to_two_levels_below(name: str, tmp_path: Path) -> None:
    """Damage: a level is left out or added, or the folder that was given comes back instead of the data set's."""
    make = MAKERS[name]
    for depth in ("", "a", "a/b"):
        root = tmp_path / f"depth_{len(depth)}" / depth
        make(root)
        assert find(name, tmp_path / f"depth_{len(depth)}") == [root]
    make(tmp_path / "deep" / "a" / "b" / "c")
    assert find(name, tmp_path / "deep") == []


@pytest.mark.parametrize("name", MAKERS)
def test_leftovers_of_other_systems(name: str, tmp_path: Path) -> None:
    """What macOS leaves behind, and a hidden copy. Damage: `._*` counts as a picture, or `.trash` as the data set."""
    make = MAKERS[name]
    make(tmp_path / "data")
    folders = [tmp_path / "data", *(p for p in (tmp_path / "data").iterdir() if p.is_dir())]
    for path in [p for folder in folders for p in folder.iterdir() if p.suffix == ".png"]:
        path.with_name("._" + path.name).write_bytes(b"\0\5\x16\7")
    make(tmp_path / ".trash")
    assert find(name, tmp_path) == [tmp_path / "data"]
    assert len(read(name, tmp_path / "data")) == 2


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("stu_hospital", {"Test_Image_2.png": "test_image_2.PNG", "mask_10.png": "Mask_10.png"}),
        ("bus_bra", {"Images": "images", "Masks": "MASKS"}),
        ("bus_uclm", {"images": "Images", "masks": "Masks"}),
        ("udiat", {"original": "Original", "GT": "gt"}),
    ],
)
def test_letter_case(name: str, renamed: dict[str, str], tmp_path: Path) -> None:
    """Damage: names are compared letter by letter."""
    MAKERS[name](tmp_path)
    for old, new in renamed.items():
        (tmp_path / old).rename(tmp_path / new)
    assert find(name, tmp_path) == [tmp_path]
    assert [pair.name for pair in read(name, tmp_path)] == [fact[0] for fact in FACTS[name]]


def test_masks_in_another_format(tmp_path: Path) -> None:
    """Damage: a mask has to end as its picture does."""
    make_udiat(tmp_path)
    (tmp_path / "GT" / "000001.png").unlink()
    save(tmp_path / "GT" / "000001.bmp", box(left=3))
    assert np.array_equal(read("udiat", tmp_path)[0].mask, box(left=3))


def test_larger_masks_of_stu_hospital(tmp_path: Path) -> None:
    """Each grey value thrice as wide and high. Damage: the mask is cut before it shrinks, or not at half."""
    make_stu(tmp_path)
    large = np.kron(box(), np.ones((3, 3), np.uint8))
    large[0:3, 0:2], large[0:3, 3:4] = 255, 255  # two thirds of one pixel, one third of the next
    large[6:9, 0:3], large[6:9, 3:6] = 127, 128
    save(tmp_path / "mask_2.png", large)
    expected = box()
    expected[0, 0] = expected[2, 1] = 255
    pair = read("stu_hospital", tmp_path)[0]
    assert pair.image.shape == pair.mask.shape
    assert np.array_equal(pair.mask, expected)


def test_lesions_of_both_kinds(tmp_path: Path) -> None:
    """Damage: the masks of one colour alone are taken, or benign wins."""
    make_bus_uclm(tmp_path)
    save(tmp_path / "masks" / "ALWI_000.png", np.maximum(box(GREEN), box(RED, left=40)))
    pair = read("bus_uclm", tmp_path)[0]
    assert pair.label == "malignant"
    assert np.array_equal(pair.mask, np.maximum(box(), box(left=40)))


def test_one_layout_in_several_folders(tmp_path: Path) -> None:
    """Damage: the first is scored and the other left out without a word."""
    for part in ("a", "b"):
        make_udiat(tmp_path / "data" / part)
    make_udiat(tmp_path / "more")
    with pytest.raises(
        UserError, match=r"several data sets: more \(udiat\), data/a \(udiat\), data/b \(udiat\); expected"
    ):
        read_raw(tmp_path)
    assert find("udiat", tmp_path / "data" / "a") == [tmp_path / "data" / "a"]


@pytest.mark.parametrize(
    ("name", "file", "pixels", "message"),
    [
        ("bus_bra", "Masks/mask_0001-l.png", box(0), r"mask_0001-l\.png: found an empty mask"),
        ("bus_bra", "Masks/mask_0001-l.png", box()[:, :60], "found 60 x 48 pixels; expected 64 x 48 pixels, as its"),
        ("bus_bra", "Masks/mask_0001-l.bmp", box(), r"mask_0001-l\.png: found a mask beside mask_0001-l\.bmp"),
        ("bus_uclm", "masks/ALWI_000.png", box(GREEN)[:, :60], "found 60 x 48 pixels; expected 64 x 48 pixels, as its"),
        ("bus_uclm", "masks/ALWI_000.png", box((0, 100, 0)), "found other colours; expected green and red on black"),
        ("bus_uclm", "masks/ALWI_000.png", box(GREEN) + box(BLUE, left=40), "found other colours"),
        ("bus_uclm", "masks/ALWI_000.png", box(), "found a mask that is not coloured; expected green and red"),
        ("bus_uclm", "masks/ALWI_009.png", box(GREEN), r"ALWI_009\.png: found a mask without its picture"),
        ("stu_hospital", "mask_2.png", box(127), "found a picture of which 8% is neither black nor white"),
        ("udiat", "GT/000001.png", box(50), "found a picture whose brightest pixel is 50; expected a mask"),
        ("udiat", "original/000009.png", scene(9), r"000009\.png: found no mask; expected a mask named '000009'"),
    ],
)
def test_refused_pictures(name: str, file: str, pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    """Damage: the check of that fault is taken out of its reader."""
    MAKERS[name](tmp_path)
    save(tmp_path / file, pixels)
    with pytest.raises(UserError, match=message) as caught:
        read(name, tmp_path)
    assert file.split("/")[-1].split(".")[0] in caught.value.where


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("stu_hospital", "mask_2.png"),
        ("bus_bra", "Images/bus_0001-l.png"),
        ("bus_uclm", "images/ALWI_001.png"),
        ("bus_uclm", "masks/ALWI_002.png"),
        ("udiat", "GT/000002.png"),
    ],
)
def test_cut_off_files(name: str, file: str, tmp_path: Path) -> None:
    """Damage: OpenCV alone decodes a file: what is missing of a cut-off one comes out black."""
    MAKERS[name](tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-20])
    with pytest.raises(UserError, match="found a damaged or cut-off file") as caught:
        read(name, tmp_path)
    assert caught.value.where == str(tmp_path / file)


@pytest.mark.parametrize(("name", "folder"), [("bus_bra", "Masks"), ("bus_uclm", "masks")])
def test_no_folder_of_masks(name: str, folder: str, tmp_path: Path) -> None:
    """Damage: the missing folder ends in a traceback, or the set counts as another layout."""
    MAKERS[name](tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    assert find(name, tmp_path) == [tmp_path]
    with pytest.raises(UserError, match=f"found no folder {folder}"):
        read(name, tmp_path)
