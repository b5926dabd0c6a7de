"""Copying and quality against training time: runs of reproduce_busi.py side by side.

    python benchmarks/training_time.py --run_dirs runs/busi_128 runs/busi_128_long

Nothing is trained or sampled: figures come from the JSON files that the phases left. Writes training_time.md, .json and
.png in docs/results; remarks come from training_time_notes.md beside them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from model_card import interval
from reproduce_busi import ROOT, cell

from medsegdiff.engine.files import REPORT_FILE, SCORES_FILE, SUMMARY_FILE, read_json, write_bytes, write_json

RESULTS = ROOT / "docs" / "results"


def reported(run: Path) -> dict[str, Any]:
    """What a run says of its training, of the pairs sampled, and of U-Nets that learnt those pairs alone."""
    train = read_json(run / "checkpoints" / SUMMARY_FILE)
    report = read_json(run / "evaluation" / REPORT_FILE)
    metrics, verdicts = report["metrics"], {verdict["metric"]: verdict for verdict in report["verdicts"]}
    frechet = metrics["distances"]["spaces"]["radiomics"]["all"]["frechet"]
    segment = run / "segmentation_synthetic"
    sampled = read_json(run / "synthetic" / "class_balance.json")
    pairs = sum(sampled["generated"].values())
    redrawn = sum(sum(count.values()) for count in sampled["masks_redrawn"].values())
    return {
        "minutes": train["seconds"] / 60,
        "steps": train["steps"],
        "val_loss": train["best"]["val_loss"],
        "frechet": frechet["synthetic"],
        "frechet_floor": frechet["baseline"],
        "verdicts": {name: outcome["outcome"] for name, outcome in verdicts.items()},
        "agreement": metrics["agreement"]["masks"]["all"]["synthetic"],
        "redrawn": redrawn / (pairs + redrawn),
        "val_dice": read_json(segment / SCORES_FILE)["val_dice"],
        "ratio": read_json(segment / "comparison.json")["subgroups"]["all"]["dice"]["ratio"],
        "fine_detail": read_json(run / "description" / "description.json")["copying"]["nearest_to_train"],
        "embedding": metrics["privacy"]["embedding"]["nearest_to_train"],
        "membership": metrics["privacy"]["membership"]["auc"],
    }


def table(found: list[dict[str, Any]]) -> list[str]:
    """A column a run, by training time; a row a figure."""
    rows = {
        "steps of 16 pairs": [f"{row['steps']:,}" for row in found],
        "val loss": [f"{row['val_loss']:.4f}" for row in found],
        "Fréchet distance, radiomic features": [interval(row["frechet"], 1) for row in found],
        "agreement of masks with a segmenter, Dice": [interval(row["agreement"]) for row in found],
        "share of samples whose masks were no lesion masks": [f"{row['redrawn']:.3f}" for row in found],
        "val Dice of U-Nets that learnt these pairs alone": [
            f"{statistics.mean(row['val_dice']):.3f} ({', '.join(f'{v:.3f}' for v in row['val_dice'])})"
            for row in found
        ],
        "their test Dice beside that of real pairs": [cell(row["ratio"]) for row in found],
        "nearest real picture is a train picture, fine detail": [cell(row["fine_detail"]) for row in found],
        "... embedding": [interval(row["embedding"]) for row in found],
        "membership inference, AUC": [interval(row["membership"]) for row in found],
    }
    reported = list(dict.fromkeys(name for row in found for name in row["verdicts"]))
    rows |= {f"verdict on {name}": [row["verdicts"].get(name, "") for row in found] for name in reported}
    head = [f"{row['minutes']:.0f} minutes" for row in found]
    lines = [f"| figure | {' | '.join(head)} |", "|---" * (1 + len(found)) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def line(axes: Axes, found: list[dict[str, Any]], names: dict[str, str]) -> None:
    """Figures `names` (key: label) over minutes of training, with their intervals."""
    for k, (name, label) in enumerate(names.items()):
        minutes = [row["minutes"] + k for row in found]  # beside each other, so that every interval can be read
        middle = [row[name]["value"] for row in found]
        ends = [[v - row[name]["low"] for v, row in zip(middle, found, strict=True)],
                [row[name]["high"] - v for v, row in zip(middle, found, strict=True)]]  # fmt: skip
        axes.errorbar(minutes, middle, yerr=ends, marker="o", capsize=4, label=label)
    axes.set_xlabel("minutes of training")
    axes.set_xlim(0, None)


def picture(found: list[dict[str, Any]], target: Path) -> None:
    """Texture, utility and copying, a panel each, with what real pictures have."""
    plot = Figure(figsize=(11, 3.4), layout="constrained")
    texture, utility, copying = plot.subplots(1, 3)
    line(texture, found, {"frechet": "sampled pairs"})
    baseline = found[0]["frechet_floor"]
    texture.axhspan(baseline["low"], baseline["high"], color="0.9", label="real pictures")
    texture.set_title("Fréchet distance, radiomic features")
    line(utility, found, {"ratio": "U-Net of sampled pairs alone"})
    utility.axhline(1, color="0.5", linestyle="--", label="... of real pairs")
    utility.set_title("relative Dice on test")
    line(copying, found, {"fine_detail": "fine detail", "embedding": "embedding"})
    copying.axhline(0.5, color="0.5", linestyle="--", label="no copying")
    copying.axhline(0.6, color="0.5", linestyle=":", label="allowed")
    copying.set_title("nearest real picture is a train picture")
    for axes in (texture, utility, copying):
        axes.legend(frameon=False, fontsize=8)
    plot.savefig(target, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dirs", type=Path, nargs="+", required=True, help="folders of reproduce_busi.py")
    found = sorted(map(reported, parser.parse_args().run_dirs), key=lambda row: row["minutes"])
    notes = RESULTS / "training_time_notes.md"
    words = notes.read_text().rstrip() + "\n\n" if notes.is_file() else ""
    curve = "![Texture, utility and copying against training time](training_time.png)\n\n"
    text = "# Copying and quality against training time\n\n" + words + curve + "\n".join(table(found)) + "\n"
    picture(found, RESULTS / "training_time.png")
    write_json(RESULTS / "training_time.json", found)
    write_bytes(RESULTS / "training_time.md", text.encode())
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
