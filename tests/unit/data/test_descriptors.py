"""Shape of sampled lesions, and what `describe` says of two classes with a known difference."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.records import SampleRecord, SampleSet, write_sample, write_samples
from medsegdiff.errors import UserError
from medsegdiff.evaluation.describe import DescribeConfig, describe
from medsegdiff.features.lesion_shape import (
    PAIR_FEATURES,
    feature_distance,
    feature_matrix,
    largest_component,
    lesion_shape,
    pair_features,
)


def ellipse(height: float, width: float, size: tuple[int, int] = (256, 256), centre: float = 0.5) -> np.ndarray:
    """(H, W) uint8 mask {0, 255} of an upright ellipse with semi-axes in pixels."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = ((y - centre * size[0]) / height) ** 2 + ((x - size[1] / 2) / width) ** 2 < 1
    return inside.astype(np.uint8) * 255


def star(spikes: int = 9, depth: float = 0.4) -> np.ndarray:
    """A spiculated blob of mean radius 60."""
    y, x = np.mgrid[:256, :256] - 127.5
    radius = 60 * (1 + depth * np.cos(spikes * np.arctan2(y, x)))
    return (np.hypot(y, x) < radius).astype(np.uint8) * 255


@pytest.mark.parametrize(("height", "width"), [(30, 60), (50, 50), (70, 40)])
def test_depth_to_width(height: int, width: int) -> None:
    """Damage: width / depth."""
    shape = lesion_shape(ellipse(height, width))
    assert shape["depth_to_width"] == pytest.approx(height / width, rel=0.03)
    assert shape["area"] == pytest.approx(math.pi * height * width / 256**2, rel=0.01)


@pytest.mark.parametrize("aspect", [0.5, 1.6])
def test_true_geometry(aspect: float) -> None:
    """Damage: ignoring pixel_aspect, or multiplying depth by it instead of width."""
    mask = ellipse(60, 50 / aspect)  # 50 wide in truth
    shape = lesion_shape(mask, aspect)
    assert shape["depth_to_width"] == pytest.approx(60 / 50, rel=0.03)
    assert shape["irregularity"] == pytest.approx(0, abs=0.05)


def test_resized_and_native_pictures_agree() -> None:
    """Damage: taking the mask's own pixels for square ones."""
    native = ellipse(40, 80, (200, 400))
    resized = cv2.resize(native, (128, 128), interpolation=cv2.INTER_AREA)
    first, second = lesion_shape(native), lesion_shape((resized > 127).astype(np.uint8), 400 / 200)
    for name in ("depth_to_width", "area", "centre_depth"):
        assert second[name] == pytest.approx(first[name], rel=0.06)


@pytest.mark.parametrize(("height", "width"), [(30, 60), (50, 50), (90, 40), (12, 16)])
def test_an_ellipse_is_regular(height: int, width: int) -> None:
    """Damage: the perimeter of a circle of equal area as reference, against which a long ellipse is irregular."""
    assert lesion_shape(ellipse(height, width))["irregularity"] == pytest.approx(0, abs=0.06)


def test_spicules_are_irregular() -> None:
    """Damage: perimeter of the convex hull; solidity, which few spikes hardly lower."""
    mild, wild = (lesion_shape(star(9, depth))["irregularity"] for depth in (0.1, 0.4))
    assert 0.08 < mild < wild
    assert wild > 0.5
    assert lesion_shape(star(15, 0.4))["irregularity"] > wild


def test_largest_part_counts() -> None:
    """Damage: extent over all parts, so that a stray pixel makes a lesion tall."""
    mask = ellipse(30, 60)
    mask[2:5, 2:5] = 255
    assert lesion_shape(mask)["depth_to_width"] == pytest.approx(0.5, rel=0.05)
    assert lesion_shape(mask)["area"] == pytest.approx((mask > 0).mean())
    assert largest_component(mask).sum() == (ellipse(30, 60) > 0).sum()
    assert largest_component(np.zeros((4, 5), np.uint8)).shape == (4, 5)


def test_empty_mask() -> None:
    """Damage: 0 instead of NaN, which would pull means down."""
    shape = lesion_shape(np.zeros((64, 64), np.uint8))
    assert shape["area"] == 0
    assert all(math.isnan(v) for k, v in shape.items() if k != "area")


def test_centre_depth() -> None:
    """Damage: columns for rows."""
    assert lesion_shape(ellipse(20, 20, centre=0.25))["centre_depth"] == pytest.approx(0.25, abs=0.01)


def test_grey_features() -> None:
    """Damage: contrast with its sign turned; the region above the lesion instead of below."""
    mask = ellipse(25, 30, (128, 128), 0.4)
    image = np.full((128, 128), 120, np.uint8)
    image[mask > 0] = 40
    image[80:, 34:94] = 200  # enhancement below
    found = dict(zip(PAIR_FEATURES, pair_features(image, mask), strict=True))
    assert found["contrast"] == pytest.approx((40 - 120) / 255, abs=0.05)
    assert found["posterior"] > 0.1
    assert found["mean"] == pytest.approx(image.mean() / 255, abs=1e-4)
    flat = dict(zip(PAIR_FEATURES, pair_features(np.full((128, 128), 9, np.uint8), mask), strict=True))
    assert flat["fine_texture"] == pytest.approx(0, abs=1e-6)
    assert found["edge_sharpness"] > flat["edge_sharpness"]


def test_feature_distance() -> None:
    """Damage: no division by scale; NaN rows kept."""
    random = np.random.default_rng(0)
    first = random.normal(size=(4000, 2)) * [1, 10]
    assert feature_distance(first, first, [1, 10]) == 0
    assert feature_distance(first, np.add(first, [1, 10]), [1, 10]) == pytest.approx(1)
    holes = np.concatenate([first, [[math.nan, 0.0]]])
    assert feature_distance(holes, np.add(first, [1, 0]), [1, 10]) == pytest.approx(0.5, abs=0.01)
    assert feature_matrix([]).shape == (0, len(PAIR_FEATURES))


def shapes(root: Path, ratios: dict[str, float], count: int = 12) -> SampleSet:
    """Samples of ellipses whose depth-to-width ratio is the class's, within 5 %, and a val pair to compare with."""
    random = np.random.default_rng(0)
    records: list[SampleRecord] = []
    for label, ratio in ratios.items():
        for number in range(count):
            height = 20 * ratio * random.uniform(0.95, 1.05)
            mask = ellipse(height, 20, (96, 96))
            name = f"{label}_{number}"
            group = f"{label}_{(number + 1) // 2}"
            split = "train" if number else "val"
            records.append(write_sample(root, mask, mask, id=name, label=label, split=split, group=group, source="t"))
    return write_samples(root, records, classes=list(ratios), fingerprint={})


def test_describe(tmp_path: Path) -> None:
    """Damage: first - last instead of last - first; intervals of single pictures instead of means."""
    shapes(tmp_path / "real", {"benign": 0.7, "malignant": 1.2})
    shapes(tmp_path / "sampled", {"benign": 0.7, "malignant": 0.7}, 8)
    config = DescribeConfig(str(tmp_path / "real"), str(tmp_path / "sampled"), str(tmp_path / "out"), bootstrap=300)
    result = describe(config)
    assert json.loads((tmp_path / "out" / "description.json").read_text()) == result
    real, sampled = result["real"]["depth_to_width"], result["synthetic"]["depth_to_width"]
    assert real["benign"]["mean"] == pytest.approx(0.7, rel=0.05)
    assert real["malignant"]["mean"] == pytest.approx(1.2, rel=0.05)
    assert real["difference"]["classes"] == "malignant - benign"
    assert 0.4 < real["difference"]["low"] < real["difference"]["mean"] < real["difference"]["high"] < 0.6
    assert sampled["difference"]["low"] <= 0 <= sampled["difference"]["high"]
    assert result["real"]["pairs"] == {"benign": 11, "malignant": 11}  # train only
    assert result["synthetic"]["pairs"] == {"benign": 8, "malignant": 8}


def test_describe_needs_two_classes(tmp_path: Path) -> None:
    """Damage: a difference of a class with itself."""
    shapes(tmp_path / "real", {"benign": 0.7})
    with pytest.raises(UserError, match=r"found lesions of benign; expected lesions of two classes"):
        describe(DescribeConfig(str(tmp_path / "real"), output_dir=str(tmp_path / "out")))


def test_describe_say_real_from_synthetic(tmp_path: Path) -> None:
    """Damage: synthetic pairs taken for real ones, or real ones of a combined set for synthetic ones."""
    real = shapes(tmp_path / "real", {"benign": 0.7, "malignant": 1.2})
    sampled = [dataclasses.replace(r, source="synthetic:abc", split="train") for r in real.records[:20]]
    mixed = write_samples(
        tmp_path / "real", [*sampled, *real.records[20:]], classes=["benign", "malignant"], fingerprint={}
    )
    with pytest.raises(UserError, match=r"found 20 synthetic pairs; expected real pairs alone"):
        describe(DescribeConfig(str(mixed.root), output_dir=str(tmp_path / "out")))
    shapes(tmp_path / "other", {"benign": 0.7, "malignant": 1.2})
    config = DescribeConfig(str(tmp_path / "other"), str(mixed.root), str(tmp_path / "out"), bootstrap=20)
    result = describe(config)
    assert sum(result["synthetic"]["pairs"].values()) == 20
    assert result["copying"]["verdict"] == "fail"  # they are copies
