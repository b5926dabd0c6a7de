"""The figures of pretrained/MODEL_CARD.md, from a run of reproduce_busi.py.

    python benchmarks/model_card.py --run_dir runs/busi_128_long

Writes what stands between the two marks of the card, from the JSON files that the phases left; the rest of the card is
written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reproduce_busi import cell, dice_cells, finished, verdict_lines

from medsegdiff.engine.files import REPORT_FILE, SUMMARY_FILE, read_json

CARD = Path(__file__).resolve().parent.parent / "pretrained" / "MODEL_CARD.md"
MARKS = ("<!-- figures: written by benchmarks/model_card.py -->\n", "<!-- end of figures -->\n")
Interval = dict[str, float]


def interval(value: Interval, digits: int = 3) -> str:
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def pair_rows(report: dict[str, Any]) -> list[str]:
    """What `medsegdiff evaluate` says of sampled pairs, beside real held-out ones."""
    metrics = report["metrics"]
    frechet = metrics["distances"]["spaces"]["radiomics"]["all"]["frechet"]
    masks = metrics["agreement"]["masks"]["all"]
    counts = {name: part["count"] for name, part in metrics["lesions"]["per_class"].items()}
    lesions = [", ".join(f"{n} {c[side]:.2f}" for n, c in counts.items()) for side in ("real_mean", "synthetic_mean")]
    privacy = metrics["privacy"]
    rows = {
        "Fréchet distance, radiomic features": [interval(frechet[k], 1) for k in ("baseline", "synthetic")],
        "Dice of masks with those of a segmenter": [interval(masks[k]) for k in ("held_out", "synthetic")],
        "lesions a picture": lesions,
        "masks with specks": [f"{metrics['lesions']['with_specks'][k]:.3f}" for k in ("held_out", "synthetic")],
        "nearest real picture is a train picture": ["0.5 expected", interval(privacy["embedding"]["nearest_to_train"])],
    }
    if "membership" in privacy:
        rows["membership inference from these weights, AUC"] = ["0.5: none", interval(privacy["membership"]["auc"])]
    return ["| figure | real | sampled |", "|---|---|---|", *(f"| {k} | {' | '.join(v)} |" for k, v in rows.items())]


def dice_rows(run: Path) -> list[str]:
    """Test Dice of a U-Net by what it was trained on."""
    lines = ["| a U-Net trained on | Dice of the seeds | test Dice | beside real pairs alone |", "|---" * 4 + "|"]
    for arm, title in finished(run).items():
        scores, seeds, (_, ratio) = dice_cells(run, arm)
        lines.append(f"| {title} | {seeds} | {cell(scores['test']['all']['dice'])} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True, help="of reproduce_busi.py")
    run = parser.parse_args().run_dir
    train = read_json(run / "checkpoints" / SUMMARY_FILE)
    report = read_json(run / "evaluation" / REPORT_FILE)
    trained = (
        f"Trained for {train['steps']:,} steps of {train['config']['batch_size']} pairs in {train['seconds'] / 60:.0f} "
        f"minutes, seed {train['config']['seed']}; {train['parameters'] / 1e6:.1f} M parameters."
    )
    lines = [trained, "", *pair_rows(report), "", *verdict_lines(run), "", *dice_rows(run), ""]
    before, rest = CARD.read_text().split(MARKS[0])
    CARD.write_text(before + MARKS[0] + "\n".join(lines) + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    main()
