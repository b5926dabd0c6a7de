"""Sampling from a checkpoint, and what `medsegdiff evaluate` says of it against val."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from medsegdiff.engine.files import REPORT_FILE, read_json

ROOT = Path(__file__).resolve().parent.parent


def medsegdiff(*words: str) -> None:
    """Run a subcommand; raises where it fails."""
    print("$ medsegdiff", " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "medsegdiff", *words], check=True, cwd=ROOT)


def sampled_and_evaluated(
    folder: Path, checkpoint: Path, real: str, reference_models: Path | None, flags: list[str]
) -> dict[str, Any]:
    """Sample pairs with `flags` into folder/synthetic, evaluate them against val, and say `figures`; goes on."""
    sampled, report = folder / "synthetic", folder / "report"
    medsegdiff("generate", "--checkpoint_path", str(checkpoint), "--output_dir", str(sampled), *flags)
    kept = [] if reference_models is None else ["--reference_models_dir", str(reference_models)]
    medsegdiff(
        "evaluate", "--real_data", real, "--synthetic_data", str(sampled), "--output_dir", str(report),
        "--held_out", "val", "--bootstrap", "50", *kept,
    )  # fmt: skip
    return figures(read_json(report / REPORT_FILE))


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation report that decide, with the baselines beside them."""
    metrics = report["metrics"]
    distance = metrics["distances"]["spaces"]["radiomics"]["all"]["frechet"]
    masks = metrics["agreement"]["masks"]["all"]
    counts = [part["count"]["synthetic_mean"] for part in metrics["lesions"]["per_class"].values()]
    privacy = metrics["privacy"]["embedding"]["nearest_to_train"]
    return {
        "frechet": distance["synthetic"]["value"],
        "frechet_interval": [distance["synthetic"][end] for end in ("low", "high")],
        "frechet_floor": distance["baseline"]["value"],
        "agreement": masks["synthetic"]["value"],
        "agreement_interval": [masks["synthetic"][end] for end in ("low", "high")],
        "agreement_real": masks["held_out"]["value"],
        "lesions": sum(counts) / len(counts),  # a picture; classes count alike
        "specks": metrics["lesions"]["with_specks"]["synthetic"],
        "nearest_to_train": [privacy["value"], privacy["low"], privacy["high"]],
    }
