"""The first result on real BUSI: all five phases at 128 px on two CPU cores, and the table that is told from them.

    python benchmarks/busi_128_cpu.py --input_dir Dataset_BUSI_with_GT --run_dir runs/busi_128

Runs what is not finished yet (every phase goes on where it stopped), then writes docs/results/busi_128_cpu.md and its
picture from the JSON files that the phases left. With `--table_only` it writes these alone.
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

from medsegdiff.data.describe import copying_line, shape_table
from medsegdiff.segmentation.results import read_run

ROOT = Path(__file__).resolve().parent.parent
ARMS = {"real": "real only", "synthetic": "synthetic only", "combined": "real + synthetic"}
STEPS, BATCH, PER_CLASS, BOOTSTRAP = 800, 16, 500, 5000


def commands(input_dir: str, run: str, seeds: list[int]) -> dict[str, str]:
    """Name -> command line, in order; paths relative to the project."""
    lines = {
        "prepare": f"prepare_busi_dataset.py --input_dir {input_dir} --output_dir {run}/real",
        "train": f"train_medsegdiff.py --config configs/busi_128.yaml --data_dir {run}/real "
        f"--output_dir {run}/checkpoints",
        "generate": f"generate_synthetic.py --checkpoint_path {run}/checkpoints/best_model.pth "
        f"--num_samples_per_class {PER_CLASS} --output_dir {run}/synthetic",
        "describe": f"-m medsegdiff describe --real_data {run}/real --synthetic_data {run}/synthetic "
        f"--output_dir {run}/description",
        "combine": f"create_combined_dataset.py --real_data {run}/real --synthetic_data {run}/synthetic "
        f"--output_dir {run}/data_combined",
        "combine_synthetic_only": f"create_combined_dataset.py --real_data {run}/real "
        f"--synthetic_data {run}/synthetic --synthetic_only true --output_dir {run}/data_synthetic",
    }
    data = {"real": f"{run}/real", "synthetic": f"{run}/data_synthetic", "combined": f"{run}/data_combined"}
    for seed in seeds:
        for arm in ARMS:
            line = (
                f"train_segmentation.py --data_dir {data[arm]} --model unet --encoder resnet18 --img_size 128 "
                f"--steps {STEPS} --batch_size {BATCH} --patience 30 --seed {seed} "
                f"--output_dir {run}/segmentation_{arm}_seed{seed}"
            )
            if arm != "real":
                line += f" --baseline {run}/segmentation_real_seed{seed}"
            lines[f"segment_{arm}_seed{seed}"] = line
    return lines


def run_all(lines: dict[str, str], run: Path) -> None:
    """Run every command that has not been timed yet; its seconds go to seconds.json."""
    file = run / "seconds.json"
    run.mkdir(parents=True, exist_ok=True)
    for name, line in lines.items():
        seconds = json.loads(file.read_text()) if file.exists() else {}
        if name in seconds:
            continue
        print(f"$ python {line}", flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, *shlex.split(line)], cwd=ROOT, check=True)
        spent = seconds_told(run, name) or time.perf_counter() - started
        file.write_text(json.dumps(seconds | {name: round(spent, 1)}, indent=2))


def seconds_told(run: Path, name: str) -> float | None:
    """What a training says that it took, over all resumed parts; None for the other phases."""
    told = run / (
        "checkpoints/summary.json" if name == "train" else f"{name.replace('segment', 'segmentation')}/scores.json"
    )
    return float(json.loads(told.read_text())["seconds"]) if told.is_file() else None


def ratio_interval(run: Path, arm: str, seed: int) -> tuple[float, float, float]:
    """Mean Dice of an arm over that of real only on the same images, with a paired 95 % bootstrap interval."""
    values = [np.array([r.dice for r in read_run(run / f"segmentation_{a}_seed{seed}")[1][0]]) for a in (arm, "real")]
    index = np.random.default_rng(0).integers(len(values[0]), size=(BOOTSTRAP, len(values[0])))
    draws = values[0][index].mean(axis=1) / values[1][index].mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(values[0].mean() / values[1].mean()), float(low), float(high)


def cell(value: dict[str, float], digits: int = 3) -> str:
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def dice_table(run: Path, seeds: list[int]) -> list[str]:
    """One row an arm and seed."""
    rows = [
        "| train split | seed | train pairs | steps | Dice, all | benign | malignant | IoU | HD95, native px "
        "| relative Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        for arm, title in ARMS.items():
            scores = read_run(run / f"segmentation_{arm}_seed{seed}")[0]
            test = scores["test"]
            ratio = "1" if arm == "real" else "{:.3f} [{:.3f}, {:.3f}]".format(*ratio_interval(run, arm, seed))
            rows.append(
                f"| {title} | {seed} | {scores['pairs']['train']} | {scores['steps']} | {cell(test['all']['dice'])} | "
                f"{cell(test['benign']['dice'])} | {cell(test['malignant']['dice'])} | {cell(test['all']['iou'])} | "
                f"{cell(test['all']['hd95'], 1)} | {ratio} |"
            )
    return rows


def comparison_lines(run: Path, seeds: list[int]) -> list[str]:
    """In words: each arm against real only, paired by image."""
    lines = []
    for seed in seeds:
        for arm in ("synthetic", "combined"):
            file = run / f"segmentation_{arm}_seed{seed}" / "comparison.json"
            change = json.loads(file.read_text())["scopes"]["all"]["dice"]["difference"]
            sure = change["low"] > 0 or change["high"] < 0
            verdict = ("gains" if change["mean"] > 0 else "costs") if sure else "no difference that chance excludes"
            lines.append(f"- seed {seed}, {ARMS[arm]} minus real only: {cell(change)} Dice ({verdict}).")
    return lines


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
    return [*rows, "", f"{balance['text']}. Masks drawn again because they were no lesion masks: {redrawn}."]


def picture(run: Path, target: Path) -> None:
    """Two rows of the first generated pairs of each class, the image above and the same with its mask below."""
    rows = []
    for label in ("benign", "malignant"):
        images = [cv2.imread(str(p), 0) for p in sorted((run / "synthetic/images").glob(f"syn_{label}_*.png"))[:8]]
        masks = [cv2.imread(str(p), 0) for p in sorted((run / "synthetic/masks").glob(f"syn_{label}_*.png"))[:8]]
        plain = [cv2.cvtColor(i, cv2.COLOR_GRAY2BGR) for i in images]
        drawn = [i.copy() for i in plain]
        for image, mask in zip(drawn, masks, strict=True):
            outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outline, -1, (0, 200, 255), 1)
        rows += [np.hstack([cv2.copyMakeBorder(i, 1, 1, 1, 1, 0) for i in line]) for line in (plain, drawn)]
    cv2.imwrite(str(target), np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def opening(run: Path, seeds: list[int]) -> list[str]:
    """What was run on what, and the picture."""
    prepared = json.loads((run / "real/dataset.json").read_text())["class_counts"]
    splits = ", ".join(f"{split} {sum(prepared[split].values())}" for split in ("train", "val", "test"))
    precision = json.loads((run / "checkpoints/summary.json").read_text())["config"]["precision"]
    machine = f"{platform.machine()} CPU, {torch.get_num_threads()} cores, torch {torch.__version__}, {precision}"
    return [
        "# Real BUSI at 128 px on two CPU cores",
        "",
        "Written by `python benchmarks/busi_128_cpu.py --table_only` from the JSON files of the run.",
        f"Machine: {machine}.",
        f"Data: the published BUSI, benign and malignant, near-duplicates grouped ({splits} pairs), seed 0. Scores are",
        "taken at 128 x 128 pixels. Intervals are 95 % bootstraps over test images of one network each; they hold no",
        f"variance between training seeds. Seeds run: {', '.join(map(str, seeds))}; all are listed.",
        "",
        "![generated pairs](busi_128_cpu_pairs.png)",
        "",
        "Generated pairs, the first eight of each class, not chosen: benign above, malignant below, each without and",
        "with the outline of the generated mask.",
    ]


def training_lines(run: Path) -> list[str]:
    """Speed, and how the val figures went."""
    train: dict[str, Any] = json.loads((run / "checkpoints/summary.json").read_text())
    history = [json.loads(x) for x in (run / "checkpoints/history.jsonl").read_text().splitlines()]
    floor = history[0]["quality/feature_distance_floor"]
    return [
        f"{train['parameters'] / 1e6:.1f} M parameters, {train['steps']} steps of {train['config']['batch_size']}, "
        f"{train['seconds'] / 60:.0f} minutes,",
        f"{train['images_per_second']} images/s with evaluations; best val loss at step {train['best']['step']}.",
        "",
        f"| step | val loss | feature distance of 64 samples to val (real train to val: {floor:.3f}) |",
        "|---|---|---|",
        *(f"| {h['step']} | {h['val_loss']:.4f} | {h['quality/feature_distance']:.3f} |" for h in history),
    ]


def write_report(run: Path, lines: dict[str, str], seeds: list[int]) -> Path:
    """docs/results/busi_128_cpu.md and its picture; remarks come from busi_128_cpu_notes.md beside it."""
    folder = ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    picture(run, folder / "busi_128_cpu_pairs.png")
    seconds = json.loads((run / "seconds.json").read_text())
    described = json.loads((run / "description/description.json").read_text())
    notes = folder / "busi_128_cpu_notes.md"
    recipe = f"U-Net, ResNet-18 encoder from scratch, {STEPS} steps of {BATCH} for every arm, best weights by val Dice."
    shape = "Real train pairs beside the synthetic pairs, in true geometry (`medsegdiff describe`):"
    counts = [", ".join(f"{n} {c}" for c, n in described[k]["pairs"].items()) for k in ("real", "synthetic")]
    pairs = f"{counts[0]} real and {counts[1]} synthetic pairs."
    timed = [f"| {seconds[name]:.0f} | `python {line}` |" for name, line in lines.items() if name in seconds]
    sections = {
        "Does it help a segmentation network?": [
            recipe,
            "",
            *dice_table(run, seeds),
            "",
            *comparison_lines(run, seeds),
        ],
        "Class balance": balance_lines(run),
        "Lesion shape by class": [shape, pairs, "", shape_table(described)],
        "Copying": [copying_line(described["copying"]) + "."],
        "Training": training_lines(run),
        "Remarks": [notes.read_text().strip()] if notes.exists() else [],
        "Commands and seconds": ["| seconds | command |", "|---|---|", *timed],
    }
    text = opening(run, seeds)
    for title, body in sections.items():
        text += ["", f"## {title}", "", *body] if body else []
    target = folder / "busi_128_cpu.md"
    target.write_text("\n".join(text) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", default="Dataset_BUSI_with_GT", help="folder of the published BUSI data set")
    parser.add_argument("--run_dir", default="runs/busi_128", help="folder for everything that the run makes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the segmentation networks")
    parser.add_argument("--table_only", action="store_true", help="only write the report of a finished run")
    args = parser.parse_args()
    run = Path(args.run_dir)
    if not args.table_only:
        run_all(commands(args.input_dir, args.run_dir, args.seeds), run)
    print(write_report(run, commands("Dataset_BUSI_with_GT", "runs/busi_128", args.seeds), args.seeds))


if __name__ == "__main__":
    main()
