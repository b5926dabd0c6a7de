"""benchmarks/training_time.py: figures of a run, found where the phases leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsegdiff.engine.files import write_json

SHARE = {"value": 0.5, "low": 0.4, "high": 0.6}
MEAN = {"value": 0.5, "low": 0.4, "high": 0.6}


def left_by_phases(run: Path, minutes: float, share: float) -> Path:
    """JSON files as the phases leave them, with what the page takes from them."""
    metrics = {
        "distances": {"spaces": {"radiomics": {"all": {"frechet": {"synthetic": SHARE, "baseline": SHARE}}}}},
        "agreement": {"masks": {"all": {"synthetic": SHARE}}},
        "privacy": {"embedding": {"nearest_to_train": SHARE | {"value": share}}, "membership": {"auc": SHARE}},
    }
    verdicts = [{"metric": "privacy", "outcome": "pass"}]
    left = {
        "checkpoints/summary.json": {"seconds": 60 * minutes, "steps": 10, "best": {"val_loss": 0.3}},
        "evaluation/report.json": {"metrics": metrics, "verdicts": verdicts},
        "synthetic/class_balance.json": {
            "generated": {"benign": 3, "malignant": 3},
            "masks_redrawn": {"benign": {"empty": 1}, "malignant": {"empty": 0, "tiny": 1}},
        },
        "segmentation_synthetic/scores.json": {"val_dice": [0.6, 0.8]},
        "segmentation_synthetic/comparison.json": {"subgroups": {"all": {"dice": {"ratio": MEAN}}}},
        "description/description.json": {"copying": {"nearest_to_train": MEAN}},
    }
    for name, reported in left.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(run / name, reported)
    return run


def test_every_run_is_reported_by_its_training_time(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: columns in the order given; samples that were refused counted as pairs; a figure of another run."""
    page = benchmark("training_time")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    runs = [
        left_by_phases(tmp_path / name, minutes, share) for name, minutes, share in (("b", 9, 0.53), ("a", 4, 0.51))
    ]
    monkeypatch.setattr("sys.argv", ["training_time.py", "--run_dirs", *map(str, runs)])
    page.main()
    text = (tmp_path / "training_time.md").read_text()
    assert "| figure | 4 minutes | 9 minutes |" in text
    assert "| ... embedding | 0.510 [0.400, 0.600] | 0.530 [0.400, 0.600] |" in text
    assert "| share of samples whose masks were no lesion masks | 0.250 | 0.250 |" in text
    assert "| val Dice of U-Nets that learnt these pairs alone | 0.700 (0.600, 0.800) |" in text
    assert "| verdict on privacy | pass | pass |" in text
    assert (tmp_path / "training_time.png").stat().st_size > 1000
