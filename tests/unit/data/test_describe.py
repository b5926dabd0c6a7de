"""What `describe` says of two classes with a known difference."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from medsegdiff.data.records import SampleRecord, SampleSet, write_sample, write_samples
from medsegdiff.errors import UserError
from medsegdiff.evaluation.describe import DescribeConfig, describe


def ellipse(height: float, width: float, size: tuple[int, int] = (256, 256), centre: float = 0.5) -> np.ndarray:
    """(H, W) uint8 mask {0, 255} of an upright ellipse with semi-axes in pixels."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = ((y - centre * size[0]) / height) ** 2 + ((x - size[1] / 2) / width) ** 2 < 1
    return inside.astype(np.uint8) * 255


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
    assert real["benign"]["value"] == pytest.approx(0.7, rel=0.05)
    assert real["malignant"]["value"] == pytest.approx(1.2, rel=0.05)
    assert real["difference"]["classes"] == "malignant - benign"
    assert 0.4 < real["difference"]["low"] < real["difference"]["value"] < real["difference"]["high"] < 0.6
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
    sampled = [dataclasses.replace(r, generator="abc", split="train") for r in real.records[:20]]
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
