"""Segmentation networks side by side on real BUSI, and how much a split that leaks flatters one of them.

    python benchmarks/segmenters.py --input_dir Dataset_BUSI_with_GT --stu_dir stu_hospital --run_dir runs/segmenters

Prepares BUSI with near-duplicates kept in one split each, with them spread at random, and like that but without the
train and val pictures that have near-duplicates in test; trains every arm with every seed (finished runs are not
trained again), and writes docs/results/segmenters.md and segmenters.json. `--arms` names the arms to train, so that two
processes may share the work; `--table_only` writes the tables alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.records import read_samples, write_samples
from medsegdiff.downstream.rows import read_run
from medsegdiff.downstream.segmentation.results import ImageScore
from medsegdiff.downstream.summary import compare, per_run_means, summarise
from medsegdiff.engine.files import DATASET_FILE
from medsegdiff.statistics.runs import mean_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
RESAMPLES = 5000
GROUPED, RANDOM, CLEANED = "grouped", "random", "cleaned"  # the preparations
LEAKY, CLEAN = "unet_leaky", "unet_cleaned"  # the same test pictures, with and without near-duplicates in train and val
ARMS = {  # name -> (title, data, flags); all else is the default recipe
    "unet": ("U-Net, ResNet-18", GROUPED, "--model unet"),
    "unet_mobilenet": ("U-Net, MobileNetV2", GROUPED, "--model unet --encoder mobilenet_v2"),
    "unetplusplus": ("U-Net++, ResNet-18", GROUPED, "--model unetplusplus"),
    "deeplabv3plus": ("DeepLabV3+, ResNet-18", GROUPED, "--model deeplabv3plus"),
    "madgnet": ("MADGNet, ResNet-18", GROUPED, "--model madgnet --encoder resnet18"),
    "madgnet_resnest50": ("MADGNet, ResNeSt-50 (as published)", GROUPED, "--model madgnet"),
    "unet_long": ("U-Net, ResNet-18, 850 steps", GROUPED, "--model unet --steps 850"),
    LEAKY: ("U-Net, ResNet-18, duplicates left in", RANDOM, "--model unet"),
    CLEAN: ("U-Net, ResNet-18, same test, duplicates taken out of train and val", CLEANED, "--model unet"),
    "classify": ("ResNet-18 classifier", GROUPED, "--task classify"),
}
REFERENCE = "unet"


def commands(args: argparse.Namespace) -> dict[str, str]:
    """Name -> command line, in order."""
    seeds = " ".join(map(str, args.seeds))
    prepare = f"prepare_busi_dataset.py --input_dir {args.input_dir} --output_dir {args.run_dir}"
    lines = {
        GROUPED: f"{prepare}/{GROUPED}",
        RANDOM: f"{prepare}/{RANDOM} --duplicate_bits 0 --duplicate_correlation 1",
    }
    for name in args.arms:
        _, data, flags = ARMS[name]
        line = f"train_segmentation.py --data_dir {args.run_dir}/{data} {flags} --seeds {seeds}"
        if data == GROUPED and name != "classify":  # STU-Hospital says no classes
            line += f" --test_data {args.stu_dir}"
        lines[name] = f"{line} --output_dir {args.run_dir}/{name}"
    return lines


def run_all(lines: dict[str, str], run: Path) -> None:
    """Run every command; before a training its memory is measured, in four steps at full size."""
    for name, line in lines.items():
        if name in ARMS and ARMS[name][1] == CLEANED:
            take_out(run)
        record = run / f"{name}_memory.json"
        if name in ARMS and not record.exists():
            short = line.split(" --seeds")[0].replace(" --steps 850", "")
            short += f" --steps 4 --evals 1 --progressive_resizing 0 --bootstrap 10 --output_dir {run}/memory/{name}"
            record.write_text(json.dumps({"gigabytes": round(execute(short), 2)}))
        execute(line)


def execute(line: str) -> float:
    """Run a command, which has to succeed; returns the largest resident memory of its process, GiB."""
    print(f"$ python {line}", flush=True)
    process = subprocess.Popen([sys.executable, *shlex.split(line)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return usage.ru_maxrss / 2**20


def summary(folder: Path) -> dict[str, Any]:
    """Everything that the tables say of an arm, from its JSON and CSV files."""
    scores = json.loads((folder / "scores.json").read_text())
    reported = {
        key: scores[key] for key in ("test", "test_by_run", "seconds", "steps", "best_step", "parameters", "pairs")
    }
    reported["config"] = {k: v for k, v in scores["config"].items() if not k.endswith("_dir") and k != "test_data"}
    reported["val"] = scores.get("val_dice") or scores["val_auc"]
    external = folder / "external" / "scores.json"
    reported["external"] = json.loads(external.read_text()) if external.exists() else {}
    memory = folder.parent / f"{folder.name}_memory.json"
    return reported | (json.loads(memory.read_text()) if memory.exists() else {})


def take_out(run: Path) -> None:
    """Write the preparation CLEANED: RANDOM without train and val pictures that have near-duplicates in test."""
    target = run / CLEANED
    if (target / DATASET_FILE).exists():
        return
    groups = {record.id: record.group for record in read_samples(run / GROUPED).records}
    pairs = read_samples(run / RANDOM)
    tested = {groups[r.id] for r in pairs.records if r.split == "test"}
    for folder in ("images", "masks"):
        shutil.copytree(run / RANDOM / folder, target / folder, dirs_exist_ok=True)
    kept = [r for r in pairs.records if r.split == "test" or groups[r.id] not in tested]
    write_samples(target, kept, classes=pairs.classes, fingerprint={"cleaned": pairs.info["fingerprint"]})


def leak(run: Path) -> dict[str, Any]:
    """Dice of the same U-Net on the same test pictures, with their near-duplicates in train and val and without."""
    groups = {record.id: record.group for record in read_samples(run / GROUPED).records}
    learnt = {groups[r.id] for r in read_samples(run / RANDOM).records if r.split == "train"}
    picked = {groups[r.id] for r in read_samples(run / RANDOM).records if r.split == "val"}
    runs = {name: read_run(run / name, ImageScore)[1] for name in (LEAKY, CLEAN)}
    of = [groups[row.id] for row in runs[LEAKY][0]]
    known = np.array([group in learnt for group in of])
    subgroups = {
        "all": np.arange(len(known)),
        "with near-duplicates in train": np.flatnonzero(known),
        "without": np.flatnonzero([group not in learnt | picked for group in of]),
    }
    measures = {"dice": mean_of("dice")}
    found: dict[str, Any] = {
        name: {
            "summary": summarise(rows, measures, subgroups, RESAMPLES, 0),
            "by_run": per_run_means(rows, measures, subgroups),
        }
        for name, rows in runs.items()
    }
    found["difference"] = compare(runs[LEAKY], runs[CLEAN], measures, subgroups, RESAMPLES, 0)
    return found


def differences(run: Path, arms: list[str]) -> dict[str, Any]:
    """Every arm on the same test pictures minus the reference, paired by picture."""
    _, reference = read_run(run / REFERENCE, ImageScore)
    subgroups = {"all": np.arange(len(reference[0]))}
    measures = {"dice": mean_of("dice")}
    found = {}
    for name in arms:
        if name != REFERENCE and ARMS[name][1] == GROUPED and name != "classify":
            _, runs = read_run(run / name, ImageScore)
            found[name] = compare(runs, reference, measures, subgroups, RESAMPLES, 0)["all"]["dice"]["difference"]
    return found


def collect(run: Path) -> dict[str, Any]:
    """Results of all finished arms."""
    done = [name for name in ARMS if (run / name / "scores.json").exists()]
    return {
        "arms": {name: summary(run / name) for name in done},
        "differences": differences(run, done) if REFERENCE in done else {},
        "leak": leak(run) if {LEAKY, CLEAN} <= set(done) else None,
    }


def cell(value: dict[str, Any] | None, digits: int = 3, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value['value']:{sign}.{digits}f} [{value['low']:{sign}.{digits}f}, {value['high']:{sign}.{digits}f}]"


def listed(values: list[float], digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def dice_table(found: dict[str, Any]) -> list[str]:
    """Val, test and external Dice of every segmentation arm on the grouped split."""
    lines = [
        "| network | M parameters | val Dice, each seed | test Dice, each seed | test Dice | minus U-Net | "
        "STU-Hospital, each seed | STU-Hospital |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        if ARMS[name][1] == GROUPED and name != "classify":
            stu = arm["external"].get("stu_hospital")
            outside = (
                [listed(stu["test_by_run"]["all"]["dice"]), cell(stu["test"]["all"]["dice"])] if stu else ["-", "-"]
            )
            lines.append(
                f"| {ARMS[name][0]} | {arm['parameters'][0] / 1e6:.1f} | {listed(arm['val'])} | "
                f"{listed(arm['test_by_run']['all']['dice'])} | {cell(arm['test']['all']['dice'])} | "
                f"{cell(found['differences'].get(name), sign='+')} | {outside[0]} | {outside[1]} |"
            )
    return lines


def detail_table(found: dict[str, Any]) -> list[str]:
    """Other measures, and Dice by class and by size of the lesion."""
    parts = ("benign", "malignant", "small", "large")
    lines = [
        "| network | "
        + " | ".join(f"Dice, {part}" for part in parts)
        + " | IoU | sensitivity | precision | HD95, native px |",
        "|---|" + "---|" * (len(parts) + 4),
    ]
    for name, arm in found["arms"].items():
        if name != "classify":
            test = arm["test"]
            cells = [cell(test[part]["dice"]) for part in parts]
            cells += [
                cell(test["all"][m], 1 if m == "hd95" else 3) for m in ("iou", "sensitivity", "precision", "hd95")
            ]
            lines.append(f"| {ARMS[name][0]} | " + " | ".join(cells) + " |")
    return lines


def cost_table(found: dict[str, Any]) -> list[str]:
    """Seconds of every training, and the largest memory of the process."""
    lines = ["| network | seconds of each training | steps | best step | peak memory, GiB |", "|---|---|---|---|---|"]
    for name, arm in found["arms"].items():
        steps, best = (", ".join(map(str, arm[key])) for key in ("steps", "best_step"))
        memory = arm.get("gigabytes", "-")
        lines.append(f"| {ARMS[name][0]} | {listed(arm['seconds'], 0)} | {steps} | {best} | {memory} |")
    return lines


def leak_lines(found: dict[str, Any]) -> list[str]:
    """The same U-Net on the same test pictures, with and without near-duplicates in train and val."""
    pairs = {name: found["arms"][name]["pairs"] for name in (LEAKY, CLEAN)}
    lines = [
        "BUSI split at random, without regard to near-duplicates; the same test pictures for both. Left in: "
        + "; taken out: ".join(f"{p['train']} train, {p['val']} val pairs" for p in pairs.values())
        + ".",
        "",
        "| test pictures | n | left in, each seed | taken out, each seed | left in | taken out | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    leak = found["leak"]
    for subgroup in leak[LEAKY]["summary"]:
        reported = [leak[name]["summary"][subgroup]["dice"] for name in (LEAKY, CLEAN)]
        seeds = [listed(leak[name]["by_run"][subgroup]["dice"]) for name in (LEAKY, CLEAN)]
        difference = cell(leak["difference"][subgroup]["dice"]["difference"], sign="+")
        lines.append(
            f"| {subgroup} | {reported[0]['n']} | {seeds[0]} | {seeds[1]} | {cell(reported[0])} | {cell(reported[1])} "
            f"| {difference} |"
        )
    return lines


def class_lines(arm: dict[str, Any]) -> list[str]:
    """Scores of the classifier on test."""
    lines = ["| score | each seed | mean |", "|---|---|---|"]
    for name, value in arm["test"]["all"].items():
        lines.append(f"| {name} | {listed(arm['test_by_run']['all'][name])} | {cell(value)} |")
    return lines


def write_tables(found: dict[str, Any], lines: dict[str, str]) -> Path:
    """docs/results/segmenters.md and .json; remarks come from segmenters_notes.md beside them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "segmenters.json").write_text(json.dumps(found, indent=1) + "\n")
    notes = RESULTS / "segmenters_notes.md"
    first = next(iter(found["arms"].values()))
    config, pairs = first["config"], first["pairs"]
    sections: dict[str, list[str]] = {
        "Networks": dice_table(found),
        "By class, by size, other scores (test)": detail_table(found),
        "Cost": cost_table(found),
        "What leakage does": leak_lines(found) if found["leak"] else [],
        "Benign against malignant": class_lines(found["arms"]["classify"]) if "classify" in found["arms"] else [],
        "Remarks": [notes.read_text().strip()] if notes.exists() else [],
        "Commands": ["```", *(f"python {line}" for line in lines.values()), "```"],
    }
    text = [
        "# Segmentation networks on real BUSI",
        "",
        f"BUSI split by group of near-duplicates ({pairs['train']} train, {pairs['val']} val, {pairs['test']} test "
        f"pairs), {config['img_size']} px, from scratch, {first['steps'][0]} steps of {config['batch_size']}, seeds "
        f"{', '.join(map(str, config['seeds']))}.",
        "Means over seeds, with 95 % intervals of a bootstrap over seeds and groups of pictures.",
        "Weights were picked on val. Written by `python benchmarks/segmenters.py`.",
    ]
    for title, body in sections.items():
        text += ["", f"## {title}", "", *body] if body else []
    target = RESULTS / "segmenters.md"
    target.write_text("\n".join(text) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", default="Dataset_BUSI_with_GT", help="folder of the published BUSI data set")
    parser.add_argument("--stu_dir", default="stu_hospital", help="folder of the STU-Hospital data set")
    parser.add_argument("--run_dir", default="runs/segmenters", help="folder for everything that the run makes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of every network")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="what to train")
    parser.add_argument("--table_only", action="store_true", help="only write the tables of finished runs")
    args = parser.parse_args()
    if not args.table_only:
        run_all(commands(args), Path(args.run_dir))
    args.input_dir, args.stu_dir, args.run_dir = "Dataset_BUSI_with_GT", "stu_hospital", "runs/segmenters"
    found = collect(Path(parser.parse_args().run_dir))
    print(write_tables(found, {k: v for k, v in commands(args).items() if k not in ARMS or k in found["arms"]}))


if __name__ == "__main__":
    main()
