"""Real BUSI at 128 px on two CPU cores: all five phases and the evaluation, and the table that is reported from them.

    python benchmarks/reproduce_busi.py --input_dir Dataset_BUSI_with_GT --run_dir runs/busi_128

Runs what is not finished yet (every phase goes on where it stopped), then writes docs/results/busi_128_cpu.md and its
picture from the JSON files that the phases left. With `--table_only` it writes these alone. Test pictures are compared
with in `describe` and `evaluate` and scored in the last commands; nothing is chosen by them. A longer training of the
same recipe has a page of its own:

    python benchmarks/reproduce_busi.py --input_dir Dataset_BUSI_with_GT --run_dir runs/busi_128_long --num_epochs 1000
        --page busi_128_long
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from medsegdiff.engine.files import REPORT_FILE, SCORES_FILE, SUMMARY_FILE, read_json, write_json
from medsegdiff.evaluation.describe import copying_line, shape_table

ROOT = Path(__file__).resolve().parent.parent
PER_CLASS = 500
PAGE = "busi_128_cpu"
MIXES: dict[str, tuple[float | None, str]] = {  # ways to train on both: synthetic pairs for each real one, mixing
    "combined": (None, "all"),
    "quarter_gradual": (0.25, "gradual"),
}
CHOSEN = "quarter_gradual"  # of these, on val: docs/results/archive/mixing.md
ARMS = {
    "real": "real only",
    "synthetic": "synthetic only",
    "combined": "real + synthetic",
    CHOSEN: "real + synthetic, chosen on val",
}


def segment_command(run: str, arm: str, data: str, seeds: list[int]) -> str:
    """Phase 5 on the pairs in `data`; all arms but "real" are compared with that one."""
    line = f"train_segmentation.py --data_dir {data} --img_size 128 --seeds {' '.join(map(str, seeds))} "
    baseline = "" if arm == "real" else f" --baseline {run}/segmentation_real"
    return line + f"--output_dir {run}/segmentation_{arm}" + baseline


def mix_commands(run: str, name: str, seeds: list[int]) -> dict[str, str]:
    """Name -> command line of combining and training as `MIXES` says."""
    ratio, mixing = MIXES[name]
    data = f"{run}/data_combined" if ratio is None else f"{run}/data_ratio_{ratio:g}"
    few = "" if ratio is None else f"--ratio {ratio:g} "
    line = (
        f"create_combined_dataset.py --real_data {run}/real --synthetic_data {run}/synthetic {few}--output_dir {data}"
    )
    mixed = "" if mixing == "all" else f" --mixing {mixing}"
    return {f"combine_{Path(data).name}": line, f"segment_{name}": segment_command(run, name, data, seeds) + mixed}


def commands(input_dir: str, run: str, seeds: list[int], num_epochs: int | None = None) -> dict[str, str]:
    """Name -> command line, in order; paths relative to the project. `num_epochs`: passes; None: as configured."""
    passes = "" if num_epochs is None else f"--num_epochs {num_epochs} "
    real, sampled = f"--real_data {run}/real", f"--synthetic_data {run}/synthetic"
    lines = {
        "prepare": f"prepare_busi_dataset.py --input_dir {input_dir} --output_dir {run}/real",
        "train": f"train_medsegdiff.py --config configs/busi_128.yaml {passes}--data_dir {run}/real "
        f"--output_dir {run}/checkpoints",
        "generate": f"generate_synthetic.py --checkpoint_path {run}/checkpoints/best_model.pth "
        f"--num_samples_per_class {PER_CLASS} --output_dir {run}/synthetic",
        "describe": f"-m medsegdiff describe {real} {sampled} --output_dir {run}/description",
        "combine_synthetic_only": f"create_combined_dataset.py {real} {sampled} --synthetic_only true "
        f"--output_dir {run}/data_synthetic",
        "evaluate": f"-m medsegdiff evaluate {real} {sampled} --output_dir {run}/evaluation "
        f"--reference_models_dir {run}/reference_models "
        f"--checkpoint_path {run}/checkpoints/best_model.safetensors --real_pictures false",
    }
    for arm, data in (("real", "real"), ("synthetic", "data_synthetic")):
        lines[f"segment_{arm}"] = segment_command(run, arm, f"{run}/{data}", seeds)
    return lines | mix_commands(run, "combined", seeds) | mix_commands(run, CHOSEN, seeds)


def run_all(lines: dict[str, str], run: Path) -> None:
    """Run every command that has not been timed yet; its seconds go to seconds.json."""
    file = run / "seconds.json"
    run.mkdir(parents=True, exist_ok=True)
    for name, line in lines.items():
        seconds = read_json(file) if file.exists() else {}
        if name in seconds and not name.startswith("segment_"):  # these find out by themselves which seeds are new
            continue
        print(f"$ python {line}", flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, *shlex.split(line)], cwd=ROOT, check=True)
        spent = seconds_reported(run, name) or time.perf_counter() - started
        write_json(file, seconds | {name: round(spent, 1)})


def seconds_reported(run: Path, name: str) -> float | None:
    """What trainings say that they took, over all resumed parts; None for the other phases."""
    if name == "train":
        return float(read_json(run / "checkpoints" / SUMMARY_FILE)["seconds"])
    if name.startswith("segment_"):
        return float(sum(read_json(run / name.replace("segment", "segmentation") / SCORES_FILE)["seconds"]))
    return None


def cell(value: dict[str, float], digits: int = 3) -> str:
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def dice_cells(run: Path, arm: str) -> tuple[dict[str, Any], str, list[str]]:
    """Scores of an arm; test Dice of each seed; difference and ratio of the mean to that of real pairs alone."""
    folder = run / f"segmentation_{arm}"
    scores = read_json(folder / SCORES_FILE)
    seeds = ", ".join(f"{v:.3f}" for v in scores["test_by_run"]["all"]["dice"])
    if arm == "real":
        return scores, seeds, ["", "1"]
    reported = read_json(folder / "comparison.json")["subgroups"]["all"]["dice"]
    return scores, seeds, [cell(reported["difference"]), cell(reported["ratio"])]


def dice_table(run: Path) -> list[str]:
    """One row an arm."""
    rows = [
        "| train split | train pairs | Dice of the seeds | Dice, all | benign | malignant | HD95, native px "
        "| minus real only | relative Dice |",
        "|---" * 9 + "|",
    ]
    for arm, title in finished(run).items():
        scores, seeds, against = dice_cells(run, arm)
        test = scores["test"]
        dice = [cell(test[subgroup]["dice"]) for subgroup in ("all", "benign", "malignant")]
        cells = [title, str(scores["pairs"]["train"]), seeds, *dice, cell(test["all"]["hd95"], 1), *against]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def verdict_lines(run: Path) -> list[str]:
    """What the evaluation report says, metric by metric."""
    reported = read_json(run / "evaluation" / REPORT_FILE)["verdicts"]
    return [f"- **{v['metric']}**: {v['outcome']}. {v['sentence']}" for v in reported]


def balance_lines(run: Path) -> list[str]:
    """Class balance of the real train split, of the synthetic pairs and of the combined train split."""
    balance = json.loads((run / "data_combined" / "class_balance.json").read_text())
    generated = json.loads((run / "synthetic" / "class_balance.json").read_text())
    rows = ["| train split | benign | malignant |", "|---|---|---|"]
    for title, counts in (
        ("real", balance["train_before"]["counts"]),
        ("synthetic, generated", generated["generated"]),
        ("real + synthetic", balance["train_after"]["counts"]),
    ):
        rows.append(f"| {title} | {counts['benign']} | {counts['malignant']} |")
    redrawn = ", ".join(f"{k}: {sum(v.values())}" for k, v in generated["masks_redrawn"].items())
    return [*rows, "", f"{balance['text']}. Masks sampled again because they were no lesion masks: {redrawn}."]


def picture(run: Path, target: Path) -> None:
    """Two rows of the first generated pairs of each class, the image above and the same with its mask below."""
    rows = []
    for label in ("benign", "malignant"):
        images = [cv2.imread(str(p), 0) for p in sorted((run / "synthetic/images").glob(f"syn_{label}_*.png"))[:8]]
        masks = [cv2.imread(str(p), 0) for p in sorted((run / "synthetic/masks").glob(f"syn_{label}_*.png"))[:8]]
        plain = [cv2.cvtColor(i, cv2.COLOR_GRAY2BGR) for i in images]
        sampled = [i.copy() for i in plain]
        for image, mask in zip(sampled, masks, strict=True):
            outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outline, -1, (0, 200, 255), 1)
        rows += [np.hstack([cv2.copyMakeBorder(i, 1, 1, 1, 1, 0) for i in line]) for line in (plain, sampled)]
    cv2.imwrite(str(target), np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def opening(run: Path, seeds: list[int], page: str) -> list[str]:
    """What was run on what, and the picture."""
    prepared = json.loads((run / "real/dataset.json").read_text())["class_counts"]
    splits = ", ".join(f"{split} {sum(prepared[split].values())}" for split in ("train", "val", "test"))
    train = read_json(run / "checkpoints" / SUMMARY_FILE)
    precision, which = train["config"]["precision"], "" if page == PAGE else f" --run_dir {run} --page {page}"
    machine = f"{platform.machine()} CPU, {torch.get_num_threads()} cores, torch {torch.__version__}, {precision}"
    return [
        f"# Real BUSI at 128 px on two CPU cores, {train['seconds'] / 60:.0f} minutes of training",
        "",
        f"Written by `python benchmarks/reproduce_busi.py --table_only{which}` from the JSON files of the run.",
        f"Machine: {machine}.",
        f"Data: the published BUSI, benign and malignant, near-duplicates grouped ({splits} pairs), seed 0. Scores are",
        "taken at 128 x 128 pixels. Intervals are 95 % bootstraps over seeds and groups of test pictures. Seeds of the",
        f"segmentation networks: {', '.join(map(str, seeds))}; all are listed. The generator: once, seed 0.",
        "",
        f"![generated pairs]({page}_pairs.png)",
        "",
        "Generated pairs, the first eight of each class, not chosen: benign above, malignant below, each without and",
        "with the outline of the generated mask.",
    ]


def training_lines(run: Path) -> list[str]:
    """Speed, and how the val figures went."""
    train: dict[str, Any] = json.loads((run / "checkpoints/summary.json").read_text())
    history = [json.loads(x) for x in (run / "checkpoints/history.jsonl").read_text().splitlines()]
    baseline = history[0]["quality/feature_distance_baseline"]
    return [
        f"{train['parameters'] / 1e6:.1f} M parameters, {train['steps']} steps of {train['config']['batch_size']}, "
        f"{train['seconds'] / 60:.0f} minutes,",
        f"{train['images_per_second']} images/s with evaluations; best val loss at step {train['best']['step']}.",
        "",
        f"| step | val loss | feature distance of 64 samples to val (real train to val: {baseline:.3f}) |",
        "|---|---|---|",
        *(f"| {h['step']} | {h['val_loss']:.4f} | {h['quality/feature_distance']:.3f} |" for h in history),
    ]


def finished(run: Path) -> dict[str, str]:
    """The arms that have scores, with what the page calls them."""
    return {arm: title for arm, title in ARMS.items() if (run / f"segmentation_{arm}" / SCORES_FILE).is_file()}


def seeds_of(run: Path) -> list[int]:
    """Seeds of the segmentation networks that all finished arms have; `SystemExit` where these are not the same."""
    found = {tuple(read_json(run / f"segmentation_{arm}" / SCORES_FILE)["runs"]) for arm in finished(run)}
    if len(found) > 1:
        raise SystemExit(f"error: arms with other seeds: {found}; run this without --table_only")
    return [int(name.rpartition("_")[2]) for name in found.pop()]


def write_report(run: Path, lines: dict[str, str], seeds: list[int], page: str) -> Path:
    """docs/results/<page>.md and its picture; remarks come from <page>_notes.md beside it."""
    folder = ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    picture(run, folder / f"{page}_pairs.png")
    seconds = json.loads((run / "seconds.json").read_text())
    described = json.loads((run / "description/description.json").read_text())
    notes = folder / f"{page}_notes.md"
    recipe = "U-Net, ResNet-18 encoder from scratch, the recipe of phase 5 for every arm, best weights by val Dice."
    shape = "Real train pairs beside the synthetic pairs, in true geometry (`medsegdiff describe`):"
    counts = [", ".join(f"{n} {c}" for c, n in described[k]["pairs"].items()) for k in ("real", "synthetic")]
    pairs = f"{counts[0]} real and {counts[1]} synthetic pairs."
    timed = [f"| {seconds[name]:.0f} | `python {line}` |" for name, line in lines.items() if name in seconds]
    missing = [title for arm, title in ARMS.items() if arm not in finished(run)]
    sections = {
        "Does it help a segmentation network?": [
            recipe,
            "",
            *dice_table(run),
            *([f"\nNot run yet: {', '.join(missing)}."] if missing else []),
        ],
        "What the evaluation says": verdict_lines(run),
        "Class balance": balance_lines(run),
        "Lesion shape by class": [shape, pairs, "", shape_table(described)],
        "Copying": [copying_line(described["copying"]) + "."],
        "Training": training_lines(run),
        "Remarks": [notes.read_text().strip()] if notes.exists() else [],
        "Commands and seconds": ["| seconds | command |", "|---|---|", *timed],
    }
    text = opening(run, seeds, page)
    for title, body in sections.items():
        text += ["", f"## {title}", "", *body] if body else []
    target = folder / f"{page}.md"
    target.write_text("\n".join(text) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", default="Dataset_BUSI_with_GT", help="folder of the published BUSI data set")
    parser.add_argument("--run_dir", default="runs/busi_128", help="folder for everything that the run makes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the segmentation networks")
    parser.add_argument("--num_epochs", type=int, help="passes of the training; default: as the settings file says")
    parser.add_argument("--page", default=PAGE, help="name of the page in docs/results")
    parser.add_argument("--table_only", action="store_true", help="only write the report of a finished run")
    args = parser.parse_args()
    run = Path(args.run_dir)
    if not args.table_only:
        run_all(commands(args.input_dir, args.run_dir, args.seeds, args.num_epochs), run)
    seeds = seeds_of(run)
    shown = commands("Dataset_BUSI_with_GT", args.run_dir, seeds, args.num_epochs)
    print(write_report(run, shown, seeds, args.page))


if __name__ == "__main__":
    main()
