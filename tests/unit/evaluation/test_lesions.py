"""Characteristics of lesions: closed forms of drawn ellipses, and what damage does to the comparison."""

from __future__ import annotations

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
from evaluation_sets import CLASSES, context, sampled, three_sets
from scipy.ndimage import binary_erosion, gaussian_filter

from medsegdiff.evaluation.lesions import NAMES, lesion_descriptors
from medsegdiff.evaluation.metrics.lesions import run
from medsegdiff.evaluation.sets import Pairs

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
    """One true ellipse in pixels of three shapes. Fails if the shape of pixels is left out of any of these."""
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
    """Fails if the outline is measured along pixels, which adds up to 8 % depending on its direction."""
    found = lesion_descriptors(GREY, ellipse(0.2, 0.1, turn=turn))
    assert found["irregularity"] == pytest.approx(0, abs=0.01)


def test_an_l_has_six_sevenths_of_its_hull() -> None:
    """Three squares of a 2 x 2 block: 3 of 3.5. Fails if the hull is the bounding box (3 of 4)."""
    mask = np.zeros((128, 128), bool)
    mask[20:100, 30:70] = mask[60:100, 30:110] = True
    assert lesion_descriptors(GREY, mask)["solidity"] == pytest.approx(6 / 7, abs=0.01)


def test_lobes_make_a_margin_irregular() -> None:
    """Fails if irregularity does not see the outline, or circularity and solidity do not fall with it."""
    angle = np.linspace(0, 2 * math.pi, 400)
    radius = 35 * (1 + 0.2 * np.cos(9 * angle))
    points = np.stack([64 + radius * np.cos(angle), 64 + radius * np.sin(angle)], axis=1)
    lobed = cv2.fillPoly(np.zeros((128, 128), np.uint8), [points.round().astype(np.int32)], 1) > 0
    found, smooth = lesion_descriptors(GREY, lobed), lesion_descriptors(GREY, ellipse(0.27, 0.27))
    assert found["irregularity"] > 0.2
    assert found["circularity"] < smooth["circularity"] - 0.2
    assert found["solidity"] < smooth["solidity"] - 0.05


def test_the_largest_of_several_lesions_is_described() -> None:
    """Fails if small parts move the centre of the lesion, or a speck of two pixels counts as a lesion."""
    mask = ellipse(0.15, 0.15, at=(0.3, 0.3)) | ellipse(0.05, 0.05, at=(0.8, 0.8)) | ellipse(0.03, 0.03, at=(0.8, 0.2))
    mask[120, 60:62] = True
    found = lesion_descriptors(GREY, mask)
    assert (found["count"], found["specks"]) == (3, 1)
    assert [found["depth"], found["lateral"]] == pytest.approx([0.3, 0.3], abs=0.003)
    assert found["area"] == pytest.approx(math.pi * (0.15**2 + 0.05**2 + 0.03**2), rel=0.02)


def test_grey_values_of_a_drawn_lesion() -> None:
    """Lesion 60, tissue 140, 190 right below. Fails if posterior tissue is compared with the lesion, a sign turns
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
    """Fails if the step is not taken at the outline, or is not in units of the grey around it."""
    mask = ellipse(0.2, 0.12)
    image = np.where(mask, 60, 120) + np.random.default_rng(0).normal(0, 8, (128, 128))
    sharp = lesion_descriptors(image, mask)["sharpness"]
    blurred = [lesion_descriptors(gaussian_filter(image, s), mask)["sharpness"] for s in (2, 4)]
    assert sharp == pytest.approx(60 / 8, rel=0.15)
    assert blurred[1] < blurred[0] < 0.5 * sharp
    assert lesion_descriptors(0.5 * image, mask)["sharpness"] == pytest.approx(sharp)


def test_a_shrunk_mask_is_smaller_and_stands_out_less() -> None:
    """The dark rim falls into the surroundings. Fails if the ring is not taken from around the mask."""
    mask = ellipse(0.2, 0.2)
    image = np.where(mask, 60, 140).astype(np.uint8)
    whole, inner = lesion_descriptors(image, mask), lesion_descriptors(image, ellipse(0.16, 0.16))
    assert inner["area"] == pytest.approx(0.64 * whole["area"], rel=0.03)
    assert -80 < inner["echogenicity"] < whole["echogenicity"] + 80
    assert inner["echogenicity"] > whole["echogenicity"] + 20
    assert inner["sharpness"] < 0.2 * whole["sharpness"]


@pytest.mark.parametrize("pixels", [0, 1, 3, 128 * 128])
def test_masks_without_a_shape_have_no_value(pixels: int) -> None:
    """Nothing, a speck, everything. Fails if one of these crashes, or the empty mask gets a place."""
    mask = (np.arange(128 * 128) < pixels).reshape(128, 128)
    found = lesion_descriptors(GREY * 0, mask)
    assert tuple(found) == NAMES
    assert found["area"] == pixels / 128**2
    assert not np.isinf(list(found.values())).any()
    assert math.isnan(found["depth"]) == (pixels == 0)
    assert math.isnan(found["echogenicity"])


def test_sets_of_one_kind_are_alike() -> None:
    """Fails if anything of the same kind is named as far off, or a difference of classes is called lost."""
    section = run(context(three_sets()))
    assert section.values["farthest"] == []
    assert any("No characteristic" in sentence for sentence in section.text)
    assert section.values["class_difference"]["malignant - benign"]["area"]["outcome"] == "kept"
    assert section.values["with_specks"] == {"train": 0, "held_out": 0, "synthetic": 0}
    assert [t.title.split(" (")[0] for t in section.tables[:2]] == ["Lesions, benign", "Lesions, malignant"]
    assert len(section.figures) == 2
    assert all(figure.png[:4] == b"\x89PNG" for figure in section.figures)
    assert {len(values) for values in section.per_pair.values()} == {40}


def shrunk(pairs: Pairs) -> Pairs:
    """The same pictures with masks eroded by three pixels."""
    return dataclasses.replace(pairs, masks=np.stack([binary_erosion(m, iterations=3) for m in pairs.masks]))


def test_shrunk_masks_are_found_and_named() -> None:
    """Fails if the comparison sees neither the size of masks nor the rim left in their surroundings."""
    section = run(context(three_sets(shrunk(sampled(40, 3, "synthetic")))))
    for label in CLASSES:
        reported = section.values["per_class"][label]
        assert reported["area"]["synthetic_mean"] < reported["area"]["real_mean"]
        assert reported["area"]["ks_p_holm"] < 0.05
        assert reported["echogenicity"]["synthetic_mean"] > reported["echogenicity"]["real_mean"] + 10
        assert reported["echogenicity"]["distance"]["low"] > reported["echogenicity"]["baseline"]["high"]
    assert any("Farthest from real lesions" in sentence for sentence in section.text)


def test_shuffled_labels_lose_the_difference_of_classes() -> None:
    """Fails if the difference is taken over anything but the synthetic labels."""
    own = sampled(80, 3, "synthetic")
    labels = np.array([CLASSES[i // 2 % 2] for i in range(80)])  # half of each class under either label
    section = run(context(three_sets(dataclasses.replace(own, labels=labels))))
    reported = section.values["class_difference"]["malignant - benign"]["area"]
    assert reported["outcome"] == "lost"
    assert reported["real"]["low"] > 0
    assert any("Lost: area" in sentence for sentence in section.text)


def test_bad_sets_are_reported_and_do_not_crash() -> None:
    """Empty masks on black pictures; three pictures; one class alone. Fails if NaN gets out, or nothing is said."""
    own = sampled(40, 3, "synthetic")
    nothing = dataclasses.replace(own, masks=np.zeros_like(own.masks), images=np.zeros_like(own.images))
    sections = [run(context(three_sets(synthetic))) for synthetic in (nothing, own.rows([0, 1, 2]))]
    sections.append(run(context(three_sets(classes=("benign",)))))
    for section in sections:
        assert json.dumps([section.values, section.per_pair], allow_nan=False)
        assert section.skipped
    assert "40 of 40 synthetic pairs have an empty mask" in sections[0].skipped[0]
    assert sections[0].per_pair["lesion_depth"] == [None] * 40
    assert sections[0].values["per_class"]["benign"]["count"]["distance"] is None
    assert not sections[1].tables
    assert any("one class alone" in line for line in sections[2].skipped)
