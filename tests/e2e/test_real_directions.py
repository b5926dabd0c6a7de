"""The direction mask -> image on a real model: does what is sampled for a mask show a lesion there?

    MEDSEGDIFF_RUN=runs/busi_128 python -m pytest tests/e2e/test_real_directions.py

The folder holds `real/`, `checkpoints/` and `segmentation_real/seed_0/`, as benchmarks/busi_128_cpu.py leaves them. So
much training cannot be had in a test run, so without that variable this is skipped; benchmarks/directions.py measures
the same with intervals.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from medsegdiff.data.dataset import load_tensors
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.models import load_model
from medsegdiff.downstream.segmentation.scores import overlaps
from medsegdiff.downstream.segmentation.training import predict_masks, true_masks
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

pytestmark = pytest.mark.slow

REQUIRED_DROP = 0.3  # Dice


def test_shuffled_masks_cost_agreement(tmp_path: Path) -> None:
    """Damage: a network that does not see the conditioning mask, or the conditioning mask taken from another item of
    the batch."""
    if "MEDSEGDIFF_RUN" not in os.environ:
        pytest.skip("MEDSEGDIFF_RUN does not name a folder of benchmarks/busi_128_cpu.py with its trained networks")
    run = Path(os.environ["MEDSEGDIFF_RUN"])
    config = GenerateConfig(
        str(run / "checkpoints" / "best_model.safetensors"), str(tmp_path / "sampled"), masks=str(run / "real"),
        split="val", steps=12, chunk_size=24,
    )  # fmt: skip
    sampled = generate(config)
    model, settings = load_model(run / "segmentation_real" / "seed_0" / "best_model.safetensors")
    data = load_tensors(sampled, int(settings["config"]["img_size"]), what="sampled pairs")
    recipe = SegmentConfig("", precision="fp32", tta_flip=False)
    found = predict_masks(model, data, settings["mean"], settings["std"], recipe, torch.device("cpu"))
    given = true_masks(data)
    right = np.mean([overlaps(f, g)["dice"] for f, g in zip(found, given, strict=True)])
    shuffled = np.mean([overlaps(f, g)["dice"] for f, g in zip(np.roll(found, 1, axis=0), given, strict=True)])
    assert right - shuffled >= REQUIRED_DROP
