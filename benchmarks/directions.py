"""Every direction of one checkpoint on real BUSI: does the image follow the mask, does the mask follow the image?

    python benchmarks/directions.py --run_dir runs/busi_128 [--split val]

`run_dir` holds `real/` (phase 1), `checkpoints/` (phase 2) and `segmentation_real/seed_0/` (phase 5 on `real/`), as
benchmarks/busi_128_cpu.py leaves them. Samples in all four modes, scores, and writes docs/results/directions.md with
one sheet a mode and directions.json beside the samples. With `--table_only` it writes page and sheets from the JSON
alone. Nothing here is learnt or chosen: test pictures are only scored. While something is still to be chosen, `--split
val` asks the same of val, in folders and a page of its own (directions_val.md).
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.models import load_model
from medsegdiff.downstream.segmentation.scores import overlaps
from medsegdiff.downstream.segmentation.training import predict_masks, true_masks
from medsegdiff.generators.joint_diffusion.noise import MODES
from medsegdiff.statistics.bootstrap import mean_interval

ROOT = Path(__file__).resolve().parent.parent
RESAMPLES = 5000
REQUIRED_DROP = 0.3  # Dice that shuffling the masks has to cost


def named(name: str, split: str) -> str:
    """The name of a file or folder that belongs to a split; test has the plain one."""
    stem, dot, suffix = name.partition(".")
    return name if split == "test" else f"{stem}_{split}{dot}{suffix}"


def commands(run: str, sizes: argparse.Namespace) -> dict[str, str]:
    """Mode -> command line; paths relative to the project."""
    given = {
        "joint": f"--num_samples_per_class {sizes.per_class}",
        "mask_first": f"--mode mask_first --num_samples_per_class {sizes.per_class}",
        "mask_to_image": f"--masks {run}/real --split {sizes.split} --num_samples_per_input {sizes.images_a_mask}",
        "image_to_mask": f"--images {run}/real --split {sizes.split} --num_samples_per_input {sizes.masks_an_image} "
        f"--steps {sizes.mask_steps}",
    }
    base = f"generate_synthetic.py --checkpoint_path {run}/checkpoints/best_model.pth"
    return {
        mode: f"{base} --output_dir {run}/{named(f'mode_{mode}', sizes.split)} {flags}" for mode, flags in given.items()
    }


def run_all(lines: dict[str, str], run: Path, split: str) -> dict[str, float]:
    """Run every command; returns the seconds of those that drew something now, and of earlier calls otherwise."""
    file = run / named("directions_seconds.json", split)
    for name, line in lines.items():
        known = json.loads(file.read_text()) if file.exists() else {}
        if name in known:
            continue
        started = time.perf_counter()
        subprocess.run([sys.executable, *shlex.split(line)], cwd=ROOT, check=True)
        file.write_text(json.dumps(known | {name: round(time.perf_counter() - started, 1)}))
    return dict(json.loads(file.read_text()))


def dice(found: np.ndarray, true: np.ndarray) -> list[float]:
    """Dice of each of n couples of (S, S) boolean masks."""
    return [overlaps(f, t)["dice"] for f, t in zip(found, true, strict=True)]


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over pictures."""
    return mean_interval(np.array(values), np.arange(len(values)), RESAMPLES, 0).to_json() | {"n": len(values)}


class ReferenceModel:
    """The segmentation network that was trained on the real train split."""

    def __init__(self, folder: Path) -> None:
        self.model, self.settings = load_model(folder / "best_model.safetensors")
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def masks(self, pairs: SampleSet, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, S, S) boolean masks that it finds in the images of all pairs, and those that the pairs hold."""
        data = load_tensors(pairs, size, what="pairs")
        config = SegmentConfig(data_dir="", precision="fp32", tta_flip=False)
        found = predict_masks(
            self.model, data, self.settings["mean"], self.settings["std"], config, torch.device("cpu")
        )
        return found, true_masks(data)


def images_follow_masks(reference_model: ReferenceModel, run: Path, size: int, split: str) -> dict[str, Any]:
    """Agreement of the reference model with the given masks, with shuffled ones, and with those of real images of the
    split.

    Shuffled: image i is sampled from the mask of another picture and evaluated against mask i.
    """
    sampled = read_samples(run / named("mode_mask_to_image", split))
    found, given = reference_model.masks(sampled, size)
    origin = np.array([r.id.rpartition("_")[0] for r in sampled.records])
    order = np.random.default_rng(0).permutation(len(found))
    partner = np.roll(order, 1)[np.argsort(order)]  # one cycle through all samples: none is its own partner
    other = origin[partner] != origin
    right, shuffled = np.array(dice(found, given)), np.array(dice(found[partner], given))
    real_found, real_masks = reference_model.masks(read_samples(run / "real").select(split), size)

    def by_mask(values: np.ndarray) -> list[float]:
        """Means over the images of each mask, which are no independent cases."""
        return [float(values[other & (origin == name)].mean()) for name in np.unique(origin[other])]

    return {
        "images": len(found),
        "right": interval(by_mask(right)),
        "shuffled": interval(by_mask(shuffled)),
        "drop": interval(by_mask(right - shuffled)),
        "real": interval(dice(real_found, real_masks)),
    }


def masks_follow_images(reference_model: ReferenceModel, run: Path, size: int, split: str) -> dict[str, Any]:
    """Dice against the true masks of a split: one sample, the consensus, the one-call estimate, and the reference
    model."""
    real = read_samples(run / "real").select(split)
    data = load_tensors(real, size, what=f"{split} split")
    true = true_masks(data)
    folder = run / named("mode_image_to_mask", split)

    def read(pattern: str) -> np.ndarray:
        pictures = [cv2.imread(str(folder / pattern.format(r.id)), cv2.IMREAD_GRAYSCALE) for r in real.records]
        return np.stack([cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA) for p in pictures]) >= 128

    samples = len(list((folder / "samples").glob(f"{real.records[0].id}_*.png")))
    values = {
        "one sample": dice(read("samples/{}_000.png"), true),
        "consensus": dice(read("masks/{}.png"), true),
        "one call": dice(read("one_call/{}.png"), true),
        "segmentation network": dice(reference_model.masks(real, size)[0], true),
    }
    rows = {row.split(",")[0]: float(row.split(",")[5]) for row in (folder / "masks.csv").read_text().splitlines()[1:]}
    agreement = [rows[r.id] for r in real.records]
    doubt = spearmanr(agreement, values["consensus"])
    return {
        "images": len(true),
        "samples": samples,
        "dice": {name: interval(some) for name, some in values.items()},
        "agreement": interval(agreement),
        "rank_correlation_of_agreement_and_dice": {"rho": float(doubt.statistic), "p": float(doubt.pvalue)},
    }


def measure(run: Path, seconds: dict[str, float], lines: dict[str, str], split: str) -> dict[str, Any]:
    """All figures of the page."""
    scores = json.loads((run / "segmentation_real" / "seed_0" / "scores.json").read_text())
    size = int(scores["img_size"])
    reference_model = ReferenceModel(run / "segmentation_real" / "seed_0")
    summary = json.loads((run / "checkpoints" / "summary.json").read_text())
    redrawn = {
        mode: json.loads((run / named(f"mode_{mode}", split) / "class_balance.json").read_text())
        for mode in ("joint", "mask_first")
    }
    return {
        "split": split,
        "commands": lines,
        "seconds": seconds,
        "size": size,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "train": {k: summary[k] for k in ("steps", "seconds", "parameters", "config")},
        "reference_model": {"steps": scores["steps"], "model": scores["config"]["model"]},
        "images_follow_masks": images_follow_masks(reference_model, run, size, split),
        "masks_follow_images": masks_follow_images(reference_model, run, size, split),
        "redrawn": redrawn,
    }


def cell(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def page(found: dict[str, Any]) -> str:
    """The report, as Markdown."""
    train, follow, back = found["train"], found["images_follow_masks"], found["masks_follow_images"]
    config, split = train["config"], found.get("split", "test")
    verdict = "passes" if follow["drop"]["low"] > REQUIRED_DROP else "FAILS"
    doubt = back["rank_correlation_of_agreement_and_dice"]
    lines = [
        "# Every direction of one checkpoint, real BUSI",
        "",
        f"Written by `python benchmarks/directions.py --split {split} --table_only` from the run's directions JSON.",
        f"Machine: {found['machine']}.",
        f"Checkpoint: {train['parameters'] / 1e6:.1f} M parameters, {config['img_size']} px, {train['steps']} steps of "
        f"{config['batch_size']} in {config['precision']}, seed {config['seed']}.",
        f"Reference model: {found['reference_model']['model']}, {found['reference_model']['steps']} steps on the real "
        "train split, seed 0.",
        f"Dice at {found['size']} px; 95 % bootstrap intervals over pictures, of one network each.",
        "",
        "## Does the image follow the mask?",
        "",
        f"{follow['images']} images sampled for the masks of the {split} split, which neither network was trained on. "
        "Shuffled: each image",
        "is sampled from the mask of another picture. A model that ignores the mask would score alike in both rows.",
        "",
        "| images | Dice of what the reference model finds with the mask |",
        "|---|---|",
        f"| sampled for this mask | {cell(follow['right'])} |",
        f"| sampled for another mask (shuffled) | {cell(follow['shuffled'])} |",
        f"| drop | {cell(follow['drop'])}: {verdict} (at least {REQUIRED_DROP} required, by the lower end) |",
        f"| real {split} images | {cell(follow['real'])} |",
        "",
        "## Does the mask follow the image?",
        "",
        f"Masks of the {back['images']} {split} images, {back['samples']} samples each; no class is given.",
        "",
        "| mask | Dice with the true mask |",
        "|---|---|",
        *[f"| {name} | {cell(value)} |" for name, value in back["dice"].items()],
        "",
        f"Dice between samples of one image: {cell(back['agreement'])}.",
        f"Rank correlation of agreement and Dice of the consensus: {doubt['rho']:.2f} (p = {doubt['p']:.1g}).",
        "",
        "## The commands, and a sheet of each",
        "",
    ]
    for mode in MODES:
        command = found["commands"][mode]
        lines += [f"### {mode}", "", f"`python {command}` ({found['seconds'][mode]:.0f} s with start-up)", ""]
        if mode in found["redrawn"]:
            lines += [f"Masks sampled again: {json.dumps(found['redrawn'][mode]['masks_redrawn'])}.", ""]
        lines += [f"![{mode}]({named(f'directions_{mode}.png', split)})", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", default="runs/busi_128")
    parser.add_argument("--per_class", type=int, default=32, help="pairs of each class in joint and mask_first")
    parser.add_argument("--images_a_mask", type=int, default=2)
    parser.add_argument("--masks_an_image", type=int, default=4)
    parser.add_argument("--mask_steps", type=int, default=10, help="noise levels of image_to_mask")
    parser.add_argument("--table_only", action="store_true")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="whose masks and images are given")
    sizes = parser.parse_args()
    run, split = Path(sizes.run_dir), sizes.split
    results = ROOT / "docs" / "results"
    record = run / named("directions.json", split)
    if not sizes.table_only:
        lines = commands(sizes.run_dir, sizes)
        record.write_text(json.dumps(measure(run, run_all(lines, run, split), lines, split), indent=2))
    notes = results / named("directions_notes.md", split)  # written by hand
    text = page(json.loads(record.read_text())) + "\n" + (notes.read_text() if notes.is_file() else "")
    target = results / named("directions.md", split)
    target.write_text(text)
    for mode in MODES:
        sheet = run / named(f"mode_{mode}", split) / "contact_sheet.png"
        shutil.copyfile(sheet, results / named(f"directions_{mode}.png", split))
    print(target.read_text())


if __name__ == "__main__":
    main()
