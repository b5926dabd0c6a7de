"""Shape and grey of sampled lesions against their closed forms."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsegdiff.features.lesion_shape import NAMES, largest_component, lesion_descriptors, lesion_shape

GREY = np.full((128, 128), 100, np.uint8)


def ellipse(
    half_width: float, half_depth: float, aspect: float = 1.0, turn: float = 0.0, at: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """(128, 128) mask of an ellipse, semi-axes in picture heights, at (depth, share of the width)."""
    rows, columns = np.mgrid[:128, :128] + 0.5
    y, x = rows / 128 - at[0], (columns / 128 - at[1]) * aspect
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return np.asarray((u / half_width) ** 2 + (v / half_depth) ** 2 <= 1)


def perimeter(a: float, b: float) -> float:
    """Of an ellipse, by summing up its outline."""
    t = np.linspace(0, 2 * math.pi, 20001)
    return float(np.hypot(np.diff(a * np.cos(t)), np.diff(b * np.sin(t))).sum())


@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.6])
def test_an_ellipse_has_its_closed_forms(aspect: float) -> None:
    """One true ellipse in pixels of three shapes. Damage: the shape of pixels is left out of any of these."""
    a, b = 0.25, 0.15
    found = lesion_descriptors(GREY, ellipse(a, b, aspect, at=(0.4, 0.55)), aspect)
    assert found["area"] == pytest.approx(math.pi * a * b, rel=0.01)
    assert found["depth_to_width"] == pytest.approx(b / a, rel=0.02)
    assert found["circularity"] == pytest.approx(4 * math.pi * math.pi * a * b / perimeter(a, b) ** 2, rel=0.025)
    assert found["solidity"] == pytest.approx(1, abs=0.01)
    assert found["irregularity"] == pytest.approx(0, abs=0.0125)
    assert [found["depth"], found["lateral"]] == pytest.approx([0.4, 0.55], abs=0.003)
    assert found["count"] == 1


@pytest.mark.parametrize("turn", [0.0, 0.4, 0.8, 1.2])
def test_an_ellipse_is_regular_whichever_way_it_lies(turn: float) -> None:
    """Damage: the outline is measured along pixels, which adds up to 8 % depending on its direction."""
    found = lesion_descriptors(GREY, ellipse(0.2, 0.1, turn=turn))
    assert found["irregularity"] == pytest.approx(0, abs=0.01)


def test_an_l_has_six_sevenths_of_its_hull() -> None:
    """Three squares of a 2 x 2 block: 3 of 3.5. Damage: the hull is the bounding box (3 of 4)."""
    mask = np.zeros((128, 128), bool)
    mask[20:100, 30:70] = mask[60:100, 30:110] = True
    assert lesion_descriptors(GREY, mask)["solidity"] == pytest.approx(6 / 7, abs=0.015)


def test_lobes_make_a_margin_irregular() -> None:
    """Damage: irregularity does not see the outline, or circularity and solidity do not fall with it."""
    angle = np.linspace(0, 2 * math.pi, 400)
    radius = 35 * (1 + 0.2 * np.cos(9 * angle))
    points = np.stack([64 + radius * np.cos(angle), 64 + radius * np.sin(angle)], axis=1)
    lobed = cv2.fillPoly(np.zeros((128, 128), np.uint8), [points.round().astype(np.int32)], 1) > 0
    found, smooth = lesion_descriptors(GREY, lobed), lesion_descriptors(GREY, ellipse(0.27, 0.27))
    assert found["irregularity"] > 0.2
    assert found["circularity"] < smooth["circularity"] - 0.2
    assert found["solidity"] < smooth["solidity"] - 0.05


def test_the_largest_of_several_lesions_is_described() -> None:
    """Damage: small parts move the centre of the lesion, or a speck of two pixels counts as a lesion."""
    mask = ellipse(0.15, 0.15, at=(0.3, 0.3)) | ellipse(0.05, 0.05, at=(0.8, 0.8)) | ellipse(0.03, 0.03, at=(0.8, 0.2))
    mask[120, 60:62] = True
    found = lesion_descriptors(GREY, mask)
    assert (found["count"], found["specks"]) == (3, 1)
    assert [found["depth"], found["lateral"]] == pytest.approx([0.3, 0.3], abs=0.003)
    assert found["area"] == pytest.approx(math.pi * (0.15**2 + 0.05**2 + 0.03**2), rel=0.02)


def test_grey_values_of_a_drawn_lesion() -> None:
    """Lesion 60, tissue 140, 190 right below. Damage: posterior tissue is compared with the lesion, a sign turns
    round, or the ring takes in the lesion."""
    mask = ellipse(0.2, 0.12, at=(0.3, 0.5))
    image = np.where(mask, 60, 140).astype(np.uint8)
    found = lesion_descriptors(image, mask)
    assert found["echogenicity"] == pytest.approx(-80)
    assert found["posterior"] == pytest.approx(0)
    image[54:, 42:86] = 190
    assert lesion_descriptors(image, mask)["posterior"] == pytest.approx(50)
    image[54:, 42:86] = 90
    assert lesion_descriptors(image, mask)["posterior"] == pytest.approx(-50)


def test_blur_lowers_sharpness_and_gain_does_not() -> None:
    """Damage: the step is not taken at the outline, or is not in units of the grey around it."""
    mask = ellipse(0.2, 0.12)
    image = np.where(mask, 60, 120) + np.random.default_rng(0).normal(0, 8, (128, 128))
    sharp = lesion_descriptors(image, mask)["sharpness"]
    blurred = [lesion_descriptors(gaussian_filter(image, s), mask)["sharpness"] for s in (2, 4)]
    assert sharp == pytest.approx(60 / 8, rel=0.15)
    assert blurred[1] < blurred[0] < 0.5 * sharp
    assert lesion_descriptors(0.5 * image, mask)["sharpness"] == pytest.approx(sharp)


def test_a_shrunk_mask_is_smaller_and_stands_out_less() -> None:
    """The dark rim falls into the surroundings. Damage: the ring is not taken from around the mask."""
    mask = ellipse(0.2, 0.2)
    image = np.where(mask, 60, 140).astype(np.uint8)
    whole, inner = lesion_descriptors(image, mask), lesion_descriptors(image, ellipse(0.16, 0.16))
    assert inner["area"] == pytest.approx(0.64 * whole["area"], rel=0.03)
    assert -80 < inner["echogenicity"] < whole["echogenicity"] + 80
    assert inner["echogenicity"] > whole["echogenicity"] + 20
    assert inner["sharpness"] < 0.2 * whole["sharpness"]


@pytest.mark.parametrize("pixels", [0, 1, 3, 128 * 128])
def test_masks_without_a_shape_have_no_value(pixels: int) -> None:
    """Nothing, a speck, everything. Damage: one of these crashes, or the empty mask gets a place."""
    mask = (np.arange(128 * 128) < pixels).reshape(128, 128)
    found = lesion_descriptors(GREY * 0, mask)
    assert tuple(found) == NAMES
    assert found["area"] == pixels / 128**2
    assert not np.isinf(list(found.values())).any()
    assert math.isnan(found["depth"]) == (pixels == 0)
    assert math.isnan(found["echogenicity"])


def drawn_ellipse(size: int, a: float, b: float, turn: float, aspect: float) -> np.ndarray:
    """(size, size) mask of an ellipse off the middle, semi-axes in picture heights."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    y, x = (rows + 0.3) / size - 0.5, ((columns + 0.3) / size - 0.5) * aspect
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= 1)


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.6])
def test_an_ellipse_has_no_irregularity(size: int, aspect: float) -> None:
    """Damage: the outline is measured along pixels, or against a circle of equal area."""
    for axes in ((0.25, 0.15), (0.2, 0.1), (0.1, 0.1), (0.06, 0.04), (0.3, 0.08)):
        for turn in (0.0, 0.4, 0.8, 1.2, math.pi / 2):
            found = lesion_shape(drawn_ellipse(size, *axes, turn, aspect), aspect)
            assert abs(found["irregularity"]) < 0.005, (axes, turn)


def test_an_ellipse_of_a_small_mask_is_nearly_regular() -> None:
    """Damage: pixel stairs count as margin where pixels are large."""
    for turn in (0.0, 0.4, 0.8, 1.2, math.pi / 2):
        assert abs(lesion_shape(drawn_ellipse(64, 0.2, 0.1, turn, 1.0))["irregularity"]) < 0.02


def star(spikes: int = 9, depth: float = 0.4) -> np.ndarray:
    """A spiculated blob of mean radius 60."""
    y, x = np.mgrid[:256, :256] - 127.5
    radius = 60 * (1 + depth * np.cos(spikes * np.arctan2(y, x)))
    return (np.hypot(y, x) < radius).astype(np.uint8) * 255


def test_spicules_are_irregular() -> None:
    """Damage: the perimeter is that of the convex hull, or solidity stands for it, which few spikes hardly lower."""
    mild, wild = (lesion_shape(star(9, depth))["irregularity"] for depth in (0.1, 0.4))
    assert 0.08 < mild < wild
    assert wild > 0.5
    assert lesion_shape(star(15, 0.4))["irregularity"] > wild


def test_irregularity_hardly_depends_on_the_resolution() -> None:
    """Damage: the blur is a number of pixels."""
    fine, coarse = star(9, 0.3), star(9, 0.3)[::2, ::2]
    assert lesion_shape(coarse)["irregularity"] == pytest.approx(lesion_shape(fine)["irregularity"], rel=0.05)


def test_a_lesion_at_the_border_ends_there() -> None:
    """Half a disc: irregularity of the half disc itself. Damage: the outline stays open at the border."""
    rows, columns = np.mgrid[:128, :128] + 0.5
    whole = lesion_shape(np.hypot(rows - 64, columns - 64) < 40)
    half = lesion_shape(np.hypot(rows, columns - 64) < 40)
    assert half["depth_to_width"] == pytest.approx(0.5, abs=0.03)
    assert 0.02 < half["irregularity"] < 0.1
    assert abs(whole["irregularity"]) < 0.005


def test_the_largest_part_is_kept() -> None:
    """Damage: another part is returned, or an empty mask crashes."""
    mask = np.zeros((40, 50), np.uint8)
    mask[2:5, 2:5], mask[20:30, 20:40] = 255, 255
    assert largest_component(mask).sum() == 200
    assert largest_component(np.zeros((4, 5), np.uint8)).shape == (4, 5)
