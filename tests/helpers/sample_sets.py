"""Small folders of samples that are drawn, not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medsegdiff.data.records import SampleRecord, SampleSet, write_sample, write_samples

CLASSES = ["benign", "malignant"]
WriteSamples = Callable[..., SampleSet]


def ellipse_pairs(
    root: Path, counts: dict[str, int], *, side: int = 32, seed: int = 0, classes: list[str] | None = None
) -> SampleSet:
    """Samples of dark ellipses on noise, `counts` of each class and split; benign ones lie, malignant ones stand."""
    random = np.random.default_rng(seed)
    records: list[SampleRecord] = []
    y, x = np.mgrid[:side, :side] / side
    for split, count in counts.items():
        for label in classes or CLASSES:
            for number in range(count):
                high, wide = (0.18, 0.3) if label == "benign" else (0.3, 0.18)
                cy, cx = random.uniform(0.4, 0.6, size=2)
                mask = ((y - cy) / high) ** 2 + ((x - cx) / wide) ** 2 < 1
                image = np.where(mask, 40, 160) + random.normal(0, 20, size=mask.shape)
                name = f"{split}_{label}_{number}"
                pictures = image.clip(0, 255).astype(np.uint8), mask.astype(np.uint8) * 255
                record = write_sample(root, *pictures, id=name, label=label, split=split, group=name, source="test")
                records.append(record)
    return write_samples(root, records, classes=classes or CLASSES, fingerprint={"phase": "test", "seed": seed})
