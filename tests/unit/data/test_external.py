"""External test sets: four published layouts and samples, recognised, read, and cleared of what training knew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.external import read_external
from medsegdiff.data.hashing import content_hash, hash_distances, perceptual_hash
from medsegdiff.data.readers import ReadOptions, read_raw
from medsegdiff.data.records import SampleSet, write_sample, write_samples
from medsegdiff.engine.files import write_png
from medsegdiff.errors import UserError

CLASSES = ["benign", "malignant"]
NOTHING = ["00" * 32]  # hashes of pictures that nobody has
SIDE = 64
TABLE = "ID,Case,Pathology\nbus_0001-l,1,benign\nbus_0001-r,1,benign\nbus_0002-l,2,malignant\n"  # whole


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth noise; no two alike."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((side, side)), (0, 0), 3)
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def disc(side: int = SIDE, radius: int = 12) -> np.ndarray:
    """A mask of one lesion."""
    return np.asarray(cv2.circle(np.zeros((side, side), np.uint8), (side // 2, side // 3), radius, 255, -1))


def write(path: Path, pixels: np.ndarray) -> None:
    """A PNG, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, pixels)


def stu(root: Path) -> None:
    """Three pictures; the mask of the third is larger and soft-edged."""
    for number in (1, 2, 10):
        write(root / "Hospital" / f"Test_Image_{number}.png", picture(number))
        mask = disc() if number < 10 else cv2.GaussianBlur(disc(3 * SIDE, 36), (0, 0), 4)
        write(root / "Hospital" / f"mask_{number}.png", mask)


def bus_bra(root: Path) -> None:
    """Two pictures of one patient and one of another."""
    rows = ["ID,Case,Histology,Pathology,BIRADS"]
    for number, (name, case, kind) in enumerate(
        (("bus_0001-l", "1", "benign"), ("bus_0001-r", "1", "benign"), ("bus_0002-l", "2", "malignant"))
    ):
        write(root / "BUSBRA" / "Images" / f"{name}.png", picture(20 + number))
        write(root / "BUSBRA" / "Masks" / f"{name.replace('bus', 'mask')}.png", disc())
        rows.append(f"{name},{case},x,{kind},4")
    (root / "BUSBRA" / "bus_data.csv").write_text("\n".join(rows) + "\n")


def bus_uclm(root: Path) -> None:
    """A benign, a malignant and a normal picture, and one with lesions of both kinds."""
    colours = {"ALWI_000": (0, 255, 0), "ALWI_001": (255, 0, 0), "BOPO_000": (0, 0, 0), "BOPO_001": (0, 255, 0)}
    for number, (name, colour) in enumerate(colours.items()):
        write(root / "images" / f"{name}.png", picture(30 + number))
        mask = (disc()[..., None] > 0) * np.array(colour, np.uint8)
        if name == "BOPO_001":
            mask[:10, :10] = (255, 0, 0)
        write(root / "masks" / f"{name}.png", mask.astype(np.uint8))
    (root / "INFO.csv").write_text("Image;Label\n")


def udiat(root: Path) -> None:
    """Two pictures, one of which also lies in a folder of its class."""
    for number in (1, 2):
        write(root / "BUS" / "original" / f"{number:06d}.png", picture(40 + number))
        write(root / "BUS" / "GT" / f"{number:06d}.png", disc())
    write(root / "BUS" / "Malignant" / "000002.png", picture(42))


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, str], int]] = {  # maker, label by id, groups
    "stu_hospital": (stu, {"stu_0001": "", "stu_0002": "", "stu_0010": ""}, 3),
    "bus_bra": (bus_bra, {"bus_0001-l": "benign", "bus_0001-r": "benign", "bus_0002-l": "malignant"}, 2),
    "bus_uclm": (bus_uclm, {"ALWI_000": "benign", "ALWI_001": "malignant", "BOPO_001": "malignant"}, 2),
    "udiat": (udiat, {"udiat_000001": "", "udiat_000002": "malignant"}, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, tmp_path: Path) -> None:
    """Recognised, with labels and patients. Damage: another layout answers first, or masks are swapped."""
    make, labels, groups = LAYOUTS[name]
    make(tmp_path)
    found = read_external(tmp_path, 32, CLASSES, NOTHING)
    assert found.name == name
    assert {r.id: r.label for r in found.data.records} == labels
    assert found.data.labels.tolist() == [CLASSES.index(v) if v else -1 for v in labels.values()]
    assert len({r.group for r in found.data.records}) == groups
    assert found.data.images.shape == (len(labels), 1, 32, 32)
    share = (found.data.masks >= 128).float().mean(dim=(1, 2, 3))
    assert share.numpy() == pytest.approx(np.full(len(labels), np.pi * 12**2 / SIDE**2), abs=0.03)
    assert found.data.records[0].width == SIDE


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("stu_hospital", "Hospital/mask_2.png", r"Test_Image_2\.png: found no mask; expected a mask named 'mask_2'"),
        ("stu_hospital", "Hospital/Test_Image_2.png", r"mask_2\.png: found a mask without its picture"),
        ("bus_bra", "BUSBRA/Masks/mask_0001-r.png", "found no mask"),
        ("bus_uclm", "masks/BOPO_000.png", "found no mask"),
        ("udiat", "BUS/original/000001.png", "a mask without its picture"),
    ],
)
def test_missing_files(name: str, spoil: str, message: str, tmp_path: Path) -> None:
    """Damage: a picture without its mask is left out without a word, or scored against an empty one."""
    LAYOUTS[name][0](tmp_path)
    (tmp_path / spoil).unlink()
    with pytest.raises(UserError, match=message):
        read_external(tmp_path, 32, CLASSES, NOTHING)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("stu_hospital", "Hospital/mask_1.png", np.zeros((SIDE, SIDE), np.uint8), "an empty mask"),
        ("udiat", "BUS/GT/000001.png", disc(SIDE + 1), "found 65 x 65 pixels; expected 64 x 64 pixels"),
        ("bus_uclm", "masks/ALWI_000.png", disc(), "a mask that is not coloured"),
        ("bus_bra", "BUSBRA/bus_data.csv", "ID,Case\nbus_0001-l,1\n", "no column Pathology"),
        ("bus_bra", "BUSBRA/bus_data.csv", "ID,Case,Pathology\nbus_0001-l,1,benign\n", "no row bus_0001-r"),
        ("bus_bra", "BUSBRA/bus_data.csv", TABLE + "bus_0003-l,3,benign\n", "a row bus_0003-l without its picture"),
        ("bus_bra", "BUSBRA/bus_data.csv", TABLE + "bus_0002-l,2,benign\n", "row bus_0002-l: found a second row"),
        ("bus_bra", "BUSBRA/bus_data.csv", TABLE + "bus_0003-l,3\n", "row bus_0003-l: found Pathology ''"),
        ("bus_bra", "BUSBRA/bus_data.csv", TABLE + "bus_0003-l,,benign\n", "row bus_0003-l: found no Case"),
        ("bus_bra", "BUSBRA/bus_data.csv", b"ID,Case,Pathology\n\xf1,1,benign\n", "a file that is no table"),
        ("udiat", "BUS/Benign/000002.png", disc(), "found the picture in benign as well"),
        ("stu_hospital", "Hospital/Test_Image_1.png", "no picture", "a file that is no picture"),
    ],
)
def test_spoilt_files(name: str, file: str, content: np.ndarray | str | bytes, message: str, tmp_path: Path) -> None:
    """Damage: the check of that fault is taken out."""
    LAYOUTS[name][0](tmp_path)
    if isinstance(content, np.ndarray):
        write(tmp_path / file, content)
    else:
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        read_external(tmp_path, 32, CLASSES, NOTHING)


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    """Damage: the first layout that is found is scored, and the other one left out without a word."""
    bus_bra(tmp_path / "a")
    udiat(tmp_path / "b")
    with pytest.raises(UserError, match=r"found several data sets: .*\(bus_bra\), .*\(udiat\); expected one"):
        read_external(tmp_path, 32, CLASSES, NOTHING)


def test_neighbouring_frames_are_one_group(tmp_path: Path) -> None:
    """One scene, shifted by four pixels. Damage: hashes alone group pictures, unlike in `prepare`."""
    udiat(tmp_path)
    scene = picture(1, SIDE + 16)
    for number, start in ((1, 0), (2, 4)):
        write_png(tmp_path / "BUS" / "original" / f"{number:06d}.png", scene[start:][:SIDE, start : start + SIDE])
    records = read_external(tmp_path, 32, CLASSES, NOTHING).data.records
    assert records[0].group == records[1].group
    assert hash_distances([records[0].perceptual_hash], [records[1].perceptual_hash]) > PrepareConfig.duplicate_bits


def test_known_pictures_are_left_out(tmp_path: Path) -> None:
    """One stands in train, at twice the size and brighter. Damage: it is scored, or only exact copies are found."""
    stu(tmp_path)
    copy = cv2.convertScaleAbs(cv2.resize(picture(2), (2 * SIDE, 2 * SIDE)), alpha=0.8, beta=20)
    found = read_external(tmp_path, 32, CLASSES, [perceptual_hash(copy)])
    assert [r.id for r in found.data.records] == ["stu_0001", "stu_0010"]
    assert found.left_out == 1
    assert len(found.data.images) == len(found.data.labels) == 2
    with pytest.raises(UserError, match="pictures of train and val only"):
        read_external(tmp_path, 32, CLASSES, [perceptual_hash(picture(n)) for n in (1, 2, 10)])


def test_known_pictures_may_be_shifted(tmp_path: Path) -> None:
    """By a pixel of 64 to the right. Damage: only pictures that lie exactly alike are left out."""
    stu(tmp_path)
    shifted = np.hstack([picture(10)[:, :1], picture(10)[:, :-1]])
    found = read_external(tmp_path, 32, CLASSES, [*NOTHING, perceptual_hash(shifted)])
    assert ([r.id for r in found.data.records], found.left_out) == (["stu_0001", "stu_0002"], 1)


def flipped(hash: str, bits: int) -> str:
    """A hash so many bits away."""
    return f"{int(hash, 16) ^ ((1 << bits) - 1):064x}"


def test_other_views_of_known_pictures_are_left_out(tmp_path: Path) -> None:
    """As near as `prepare` groups pictures. Damage: only crops of one frame are left out, or all that is alike."""
    stu(tmp_path)
    own = perceptual_hash(picture(2))
    for bits, left_out in ((PrepareConfig.duplicate_bits, 1), (PrepareConfig.duplicate_bits + 1, 0)):
        assert read_external(tmp_path, 32, CLASSES, [flipped(own, bits)]).left_out == left_out


def test_synthetic_copies_are_counted(tmp_path: Path) -> None:
    """Damage: they leave pictures out, in one arm alone, or everything that looks alike counts as a copy."""
    stu(tmp_path)
    hashes = [perceptual_hash(picture(number)) for number in (1, 2)]
    synthetic = [flipped(hashes[0], 40), flipped(hashes[0], 3), flipped(hashes[1], 41)]
    found = read_external(tmp_path, 32, CLASSES, NOTHING, synthetic)
    assert (len(found.data), found.left_out, found.near_synthetic) == (3, 0, 1)
    assert read_external(tmp_path, 32, CLASSES, NOTHING).digest == found.digest


def test_known_hashes_leave_out_a_border(tmp_path: Path) -> None:
    """Damage: hashes of whole pictures are compared with hashes within the frame of train, and nothing is known."""
    stu(tmp_path)
    frame = (0.25, 0.25, 0.75, 0.75)
    known = [perceptual_hash(picture(2), frame)]
    assert read_external(tmp_path, SIDE, CLASSES, known, frame=frame).left_out == 1
    assert read_external(tmp_path, SIDE, CLASSES, known).left_out == 0


def test_one_class_of_another_pixel_value(tmp_path: Path) -> None:
    """Damage: every mask of one class is read as white on black."""
    spec = ArraySpec(1, {"background": 0, "nodule": 1})
    for name in "ab":
        write(tmp_path / "images" / f"{name}.png", picture(ord(name)))
        write(tmp_path / "masks" / f"{name}.png", disc() // 255)
    found = read_external(tmp_path, SIDE, CLASSES, NOTHING, arrays=spec)
    assert found.data.spec == spec
    assert np.array_equal(found.data.masks[0, 0].numpy(), disc())


def test_classes_are_chosen_in_every_layout(tmp_path: Path) -> None:
    """Damage: a published data set of two classes is read whole, and prepared as of one."""
    bus_bra(tmp_path)
    found = read_raw(tmp_path, options=ReadOptions(classes=("Malignant",)))
    assert [(s.name, s.label) for s in found.samples] == [("bus_0002-l", "Malignant")]


def test_images_without_masks(tmp_path: Path) -> None:
    """Damage: a set to classify, of a model that saw no masks, ends in a traceback."""
    for name in ("benign/a", "malignant/b"):
        write(tmp_path / f"{name}.png", picture(ord(name[-1])))
    found = read_external(tmp_path, SIDE, CLASSES, NOTHING, arrays=ArraySpec(1, None))
    assert found.data.masks.shape == (2, 0, SIDE, SIDE)
    assert found.data.labels.tolist() == [0, 1]


def test_nothing_is_known(tmp_path: Path) -> None:
    """Damage: an empty list of known pictures ends in a traceback, or leaves pictures out."""
    stu(tmp_path)
    found = read_external(tmp_path, 32, CLASSES, [])
    assert (len(found.data), found.left_out) == (3, 0)


def test_classes_that_were_not_asked_for(tmp_path: Path) -> None:
    """Damage: labels index into the classes of the set, or pictures of another class are left out."""
    bus_bra(tmp_path)
    assert read_external(tmp_path, 32, ["other", "malignant"], NOTHING).data.labels.tolist() == [-1, -1, 1]


def test_pictures_and_records_in_one_order(tmp_path: Path) -> None:
    """Damage: rows shift where a known picture is left out, or sizes and hashes are of the resized picture."""
    stu(tmp_path)
    wide = np.hstack([picture(2), picture(3)])
    write_png(tmp_path / "Hospital" / "Test_Image_2.png", wide)
    write_png(tmp_path / "Hospital" / "mask_2.png", np.hstack([disc(), disc()]))
    data = read_external(tmp_path, 32, CLASSES, [perceptual_hash(picture(1))]).data
    assert np.array_equal(data.images[0, 0].numpy(), cv2.resize(wide, (32, 32), interpolation=cv2.INTER_AREA))
    assert np.array_equal(data.images[1, 0].numpy(), cv2.resize(picture(10), (32, 32), interpolation=cv2.INTER_AREA))
    record = data.records[0]
    assert (record.id, record.width, record.height, record.split) == ("stu_0002", 2 * SIDE, SIDE, "external")
    assert (record.image_hash, record.perceptual_hash) == (content_hash(wide), perceptual_hash(wide))
    assert record.source == "stu_hospital:Test_Image_2.png"


def test_no_picture_with_a_lesion(tmp_path: Path) -> None:
    """Damage: a set of healthy pictures ends in a traceback."""
    bus_uclm(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        write_png(path, np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(UserError, match="found no pair with a lesion; expected BUS-UCLM: "):
        read_external(tmp_path, 32, CLASSES, NOTHING)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    """Damage: the place of the folder counts, or a changed mask or picture does not."""
    for name in ("one", "two"):
        stu(tmp_path / name)
    digests = [read_external(tmp_path / name, 32, CLASSES, NOTHING).digest for name in ("one", "two")]
    assert digests[0] == digests[1]
    write_png(tmp_path / "two" / "Hospital" / "mask_1.png", disc(radius=9))
    digests.append(read_external(tmp_path / "two", 32, CLASSES, NOTHING).digest)
    write_png(tmp_path / "two" / "Hospital" / "Test_Image_1.png", 255 - picture(1))
    digests.append(read_external(tmp_path / "two", 32, CLASSES, NOTHING).digest)
    assert len(set(digests)) == 3


def test_pairs_are_an_external_set_too(ellipses: SampleSet) -> None:
    """All splits of a sample folder. Damage: its test split alone is taken, or the folder is not recognised."""
    found = read_external(ellipses.root, 32, CLASSES, NOTHING)
    assert (found.name, len(found.data)) == (ellipses.root.name, len(ellipses))
    assert {(r.split, r.fold) for r in found.data.records} == {("external", -1)}
    labels = read_external(ellipses.root, 32, ["malignant"], NOTHING).data.labels
    assert sorted(set(labels.tolist())) == [-1, 0]


def test_synthetic_pairs_are_refused(tmp_path: Path) -> None:
    """Damage: a generated pair is scored as if it were a patient's."""
    names = {"id": "a", "label": "benign", "split": "train", "group": "a", "source": "x", "generator": "0123"}
    record = write_sample(tmp_path, picture(1), disc(), **names)
    write_samples(tmp_path, [record], classes=CLASSES, fingerprint={})
    with pytest.raises(UserError, match="a: found a synthetic pair; expected real pairs"):
        read_external(tmp_path, 32, CLASSES, NOTHING)


def test_no_known_layout(tmp_path: Path) -> None:
    """Damage: the message does not say what there is and what there should be, or says of hidden files."""
    (tmp_path / "photos").mkdir()
    (tmp_path / ".DS_Store").touch()
    expected = r"found photos/; expected one of these layouts: BUSI: .*BUS-BRA: .*UDIAT: .*STU-Hospital: .*folders: "
    with pytest.raises(UserError, match=expected):
        read_external(tmp_path, 32, CLASSES, NOTHING)


def test_real_stu_hospital() -> None:
    """Damage: masks are cut at another grey value than half, or the larger ones lie elsewhere than their lesions."""
    folder = Path(os.environ.get("MEDSEGDIFF_DATA", "")) / "stu_hospital"
    if "MEDSEGDIFF_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MEDSEGDIFF_DATA does not name a folder with stu_hospital, the published data set")
    found = read_external(folder, 128, CLASSES, NOTHING)
    assert (found.name, len(found.data), found.left_out) == ("stu_hospital", 42, 0)
    assert (found.data.labels == -1).all()
    masks = found.data.masks[:, 0].float() / 255
    inside, outside = ((found.data.images[:, 0].float() * part).sum() / part.sum() for part in (masks, 1 - masks))
    assert float(inside) == pytest.approx(33.6, abs=0.1)  # lesions are dark
    assert float(outside) == pytest.approx(62.1, abs=0.1)
    assert float(masks.mean()) == pytest.approx(0.1212, abs=0.0003)
    assert bool((masks.mean(dim=(1, 2)) > 0.005).all())
