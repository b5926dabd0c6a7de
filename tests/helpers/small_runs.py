"""What the tests of the downstream benchmark share: settings of a run of seconds, and an external set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.engine.files import write_png


def settings(data: Path, output: Path, **changes: Any) -> SegmentConfig:
    """Two steps at 32 pixels."""
    base = SegmentConfig(
        str(data), str(output), steps=2, evals=1, batch_size=4, warmup_steps=1, img_size=32, bootstrap=20,
        device="cpu", encoder="mobilenet_v2",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def write_stu(root: Path, seed: int, count: int = 5) -> Path:
    """Pictures in the layout of STU-Hospital that look like nothing in the other data."""
    random = np.random.default_rng(seed)
    (root / "Hospital").mkdir(parents=True)
    y, x = np.mgrid[:48, :48]
    for number in range(count):
        mask = (y - random.uniform(15, 30)) ** 2 + (x - random.uniform(15, 30)) ** 2 < 100
        image = np.where(mask, 60, 180) + random.normal(0, 30, mask.shape)
        write_png(root / "Hospital" / f"Test_Image_{number}.png", image.clip(0, 255).astype(np.uint8))
        write_png(root / "Hospital" / f"mask_{number}.png", mask.astype(np.uint8) * 255)
    return root
