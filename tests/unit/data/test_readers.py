"""The reader of the BUSI layout: what it accepts, what it merges, and what it refuses in which words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.readers import RawSample, ReadOptions, read_raw
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError

CLASSES = ["benign", "malignant"]


def scene(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    """(H, W) uint8 smooth noise."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))


def disc(x: int, y: int, height: int = 40, width: int = 50) -> np.ndarray:
    """(H, W) uint8 mask of a disc."""
    return np.asarray(cv2.circle(np.zeros((height, width), np.uint8), (x, y), 5, 255, -1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two pictures each."""
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for number in (2, 10):
            stem = tmp_path / label / f"{label} ({number})"
            write_png(stem.with_name(stem.name + ".png"), scene(number))
            write_png(stem.with_name(stem.name + "_mask.png"), disc(20, 20))
    return tmp_path


def read_busi(folder: Path, classes: list[str]) -> list[RawSample]:
    """The pairs of a folder in the layout of BUSI."""
    return read_raw(folder, "busi", ReadOptions(tuple(classes))).samples


def message(folder: Path, classes: list[str] | None = None) -> str:
    """The text of the error that reading raises."""
    with pytest.raises(UserError) as caught:
        read_busi(folder, classes or CLASSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_order_ids_and_sources(folder: Path) -> None:
    """Damage: sorting names as text puts 10 before 2."""
    pairs = read_busi(folder, CLASSES)
    assert [p.name for p in pairs] == ["benign_0002", "benign_0010", "malignant_0002", "malignant_0010"]
    assert pairs[1].source == "benign/benign (10).png"
    assert np.array_equal(pairs[0].image, scene(2))


def test_several_masks_are_merged(folder: Path) -> None:
    """Damage: reading `_mask.png` only loses the second lesion."""
    write_png(folder / "benign" / "benign (2)_mask_1.png", disc(40, 30))
    assert np.array_equal(read_busi(folder, CLASSES)[0].mask, np.maximum(disc(20, 20), disc(40, 30)))


def test_grey_mask_edges_are_thresholded_at_half(folder: Path) -> None:
    """Damage: taking every value above 0 as lesion grows it."""
    mask = disc(20, 20)
    mask[0, :2] = 127, 128
    write_png(folder / "benign" / "benign (2)_mask.png", mask)
    found = read_busi(folder, CLASSES)[0].mask
    assert (found[0, 0], found[0, 1]) == (0, 255)
    assert set(np.unique(found)) == {0, 255}


def test_colour_becomes_grey(folder: Path) -> None:
    """Damage: taking channels as RGB where OpenCV gives BGR weighs red as blue."""
    write_png(folder / "benign" / "benign (2).png", np.full((40, 50, 3), (255, 0, 0), np.uint8))
    image = read_busi(folder, CLASSES)[0].image
    assert image.shape == (40, 50)
    assert image[0, 0] == 76  # 0.299 x 255


def test_letter_case_and_one_nested_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Damage: comparing folder names with == finds nothing on a case-sensitive file system."""
    outer = tmp_path_factory.mktemp("outer")
    folder.rename(outer / "Dataset_BUSI_with_GT")
    inner = outer / "Dataset_BUSI_with_GT"
    (inner / "benign").rename(inner / "Benign")
    (inner / "Benign" / "benign (2)_mask.png").rename(inner / "Benign" / "Benign (2)_MASK.PNG")
    assert [p.label for p in read_busi(outer, CLASSES)] == ["benign"] * 2 + ["malignant"] * 2


def test_other_names_and_hidden_files(folder: Path) -> None:
    """Damage: reading `._*` files, which macOS adds, as pictures."""
    (folder / "benign" / "._benign (2).png").write_bytes(b"no picture")
    write_png(folder / "benign" / "case A.png", scene(5))
    write_png(folder / "benign" / "case A_mask.png", disc(20, 20))
    assert "benign_case-A" in [p.name for p in read_busi(folder, CLASSES)]


def test_normal_pictures_have_empty_masks(folder: Path) -> None:
    """Damage: refusing every empty mask refuses the class of healthy pictures."""
    (folder / "normal").mkdir()
    write_png(folder / "normal" / "normal (1).png", scene(7))
    write_png(folder / "normal" / "normal (1)_mask.png", np.zeros((40, 50), np.uint8))
    assert not read_busi(folder, [*CLASSES, "normal"])[-1].mask.any()


def test_missing_folder(tmp_path: Path) -> None:
    """Damage: letting iterdir raise FileNotFoundError ends in a traceback."""
    assert "found nothing; expected a folder with a data set" in message(tmp_path / "none")


def test_other_layout(tmp_path: Path) -> None:
    """Damage: returning an empty list for a folder without classes."""
    (tmp_path / "train").mkdir()
    text = message(tmp_path)
    assert "found train/; expected one of these layouts: BUSI: class folders benign and malignant" in text


def test_missing_class(folder: Path) -> None:
    """Damage: skipping a class that is not there."""
    text = message(folder, [*CLASSES, "normal"])
    assert "found benign/, malignant/; expected the class folders benign, malignant, normal" in text


def test_one_class_in_two_folders(folder: Path) -> None:
    """Damage: reading the first by name, and not a word of the other."""
    (folder / "Benign").mkdir()
    assert "found the folders Benign, benign; expected one of class benign" in message(folder)


def test_class_without_pictures(folder: Path) -> None:
    """Damage: returning a class of no pairs."""
    for path in (folder / "malignant").iterdir():
        path.unlink()
    assert "malignant: found no picture; expected pairs like" in message(folder)


def test_picture_without_mask(folder: Path) -> None:
    """Damage: treating a missing mask as an empty one."""
    (folder / "benign" / "benign (10)_mask.png").unlink()
    assert "benign (10).png: found no mask beside it; expected 'benign (10)_mask.png'" in message(folder)


def test_mask_without_picture(folder: Path) -> None:
    """Damage: looking from pictures to masks only."""
    (folder / "benign" / "benign (10).png").unlink()
    assert "benign (10)_mask.png: found a mask without its picture" in message(folder)


def test_sizes_differ(folder: Path) -> None:
    """Damage: resizing the mask silently, or reporting height x width where width x height is meant."""
    write_png(folder / "benign" / "benign (2)_mask.png", disc(20, 20, 41, 50))
    assert "benign (2)_mask.png: found 50 x 41 pixels; expected 50 x 40 pixels, as its picture" in message(folder)


@pytest.mark.parametrize("keep", [20, 700, -30, -4, -1])
def test_truncated_file(folder: Path, keep: int) -> None:
    """Damage: leaving it to OpenCV, of which some versions give half a picture; no look at the checksums."""
    path = folder / "benign" / "benign (2).png"
    path.write_bytes(path.read_bytes()[:keep])
    assert "benign (2).png: found a damaged or cut-off file; expected a whole PNG picture" in message(folder)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of Pillow, about the TIFF that is cut off here
@pytest.mark.parametrize("ending", [".jpg", ".bmp", ".tiff"])
def test_other_formats(folder: Path, ending: str) -> None:
    """Damage: a signature or an ending mistyped, so that a format that is read no longer is."""
    done, data = cv2.imencode(ending, scene(2))
    assert done
    (folder / "benign" / "benign (2).png").unlink()
    path = folder / "benign" / f"benign (2){ending}"
    path.write_bytes(data.tobytes())
    image = read_busi(folder, CLASSES)[0].image
    assert np.abs(image.astype(int) - scene(2)).mean() < (3 if ending == ".jpg" else 1e-9)
    path.write_bytes(data.tobytes()[: len(data) // 2])
    assert f"benign (2){ending}: found a damaged or cut-off file" in message(folder)


def test_sixteen_bits(folder: Path) -> None:
    """Damage: casting to uint8 wraps grey values around."""
    done, buffer = cv2.imencode(".png", scene(2).astype(np.uint16) * 257)
    assert done
    (folder / "benign" / "benign (2).png").write_bytes(buffer.tobytes())
    assert "benign (2).png: found 16-bit pixels; expected 8-bit pixels" in message(folder)


def test_empty_lesion_mask(folder: Path) -> None:
    """Damage: keeping a lesion picture whose mask is empty."""
    write_png(folder / "malignant" / "malignant (2)_mask.png", np.zeros((40, 50), np.uint8))
    assert "malignant (2)_mask.png: found an empty mask; expected a lesion outlined" in message(folder)


def test_two_files_of_one_id(folder: Path) -> None:
    """Damage: letting the second file overwrite the first under its id."""
    write_png(folder / "benign" / "benign 02.png", scene(5))
    write_png(folder / "benign" / "benign 02_mask.png", disc(20, 20))
    assert "found the same id 'benign_0002' as" in message(folder)
