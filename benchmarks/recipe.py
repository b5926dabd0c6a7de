"""What pays in the generative model? One change at a time against the settings file, at equal compute, on val.

    python benchmarks/recipe.py --real_data samples --run_dir runs/recipe --reference_models_dir runs/reference_models

Every arm is the settings file with some flags changed. Arms whose step costs more or less get fewer or more steps: the
time of a step is measured for all of them in turns, in one run, before anything is trained. What is reported of an arm:
the loss on val (always with the same weights), and how pairs sampled as `generate` does by default (without
--mask_guidance where images alone were not learnt) compare with val pictures in `medsegdiff evaluate`. The test split
is not looked at. Finished runs are kept in --run_dir; the same command goes on. Writes docs/results/recipe.md and
.json, for the questions in QUESTIONS, and ablation.md for those in ABLATION.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

from evaluated import medsegdiff, sampled_and_evaluated
from recipe_table import write_tables

from medsegdiff.cli import parse
from medsegdiff.data.records import read_samples
from medsegdiff.engine.device import settle_precision
from medsegdiff.engine.files import SUMMARY_FILE, read_json, write_json
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "busi_128.yaml"
Flags = dict[str, object]

BASE = "base"
AVERAGE = "val_loss_of_average/"  # how the trainer names the loss on val of an average, before its length
FOUR: Flags = {"model.patch_size": 4, "model.channel_mult": [1, 2, 3]}
V2: Flags = FOUR | {"backbone": "medsegdiff_v2", "model.num_heads": 3}  # so many divide all widths of the ablation
# question -> arm -> flags that differ from the settings file
QUESTIONS: dict[str, dict[str, Flags]] = {
    "noise process": {
        "ddpm_linear": {"diffusion.process": "ddpm"},
        "ddpm_cosine": {"diffusion.process": "ddpm", "diffusion.beta_schedule": "cosine"},
        "higher noise": {"diffusion.image_p_mean": 0.5, "diffusion.mask_p_mean": 0.5},
        "lower noise": {"diffusion.image_p_mean": -0.5, "diffusion.mask_p_mean": -0.5},
    },
    "mask": {
        "half the weight": {"diffusion.mask_weight": 0.5},
        "double weight": {"diffusion.mask_weight": 2},
        "binary": {"diffusion.sdf_truncation": 0},
        "distance up to 4": {"diffusion.sdf_truncation": 4},
    },
    "augmentation passed to the network": {"a fifth": {"augment_prob": 0.2}, "two fifths": {"augment_prob": 0.4}},
    "conditional samples": {
        "none": {
            "diffusion.share_independent": 0, "diffusion.share_mask_clean": 0,
            "diffusion.share_image_clean": 0, "diffusion.share_marginal": 0,
        },
        "three quarters": {
            "diffusion.share_independent": 0.35, "diffusion.share_mask_clean": 0.2,
            "diffusion.share_image_clean": 0.12, "diffusion.share_marginal": 0.08,
        },
    },
    "use of the time": {
        "full size for all noise": {"model.low_res_factor": 1},
        "half size from 3 on": {"model.low_res_sigma": 3},
        "full size from the start": {"progressive_resizing": 0},
        "half of the steps small": {"progressive_resizing": 0.5},
        "patches of 4": FOUR | {"model.model_channels": 64},
        "48 channels": {"model.model_channels": 48},
        "double rate": {"lr": 4e-3},
        "half rate": {"lr": 1e-3},
        "32 pairs": {"batch_size": 32},
        "8 pairs": {"batch_size": 8},
    },
}  # fmt: skip
# Patches of 4 and equal parameters, 6.5 M within 2 %: what is left out is given back as width, in multiples of 16
# channels, as others make a step dearer than their number says
ABLATION_BASE = "use of the time: patches of 4"
WIDE: Flags = {"model.channel_mult": [1, 2, 4]}
ABLATION: dict[str, Flags] = {
    "medsegdiff_v2": V2 | {"model.model_channels": 48},
    "no anchor": V2 | {"model.model_channels": 48, "model.use_anchor": False},
    "plain attention for SS-Former": V2 | WIDE | {"model.model_channels": 48, "model.use_spectrum": False},
    "no transformer": V2 | WIDE | {
        "model.model_channels": 64, "model.num_heads": 4, "model.use_transformer": False,
    },
    "no band-pass filter": V2 | {
        "model.model_channels": 48, "model.mask_share": 0.6667, "model.use_band_pass": False,
    },
}  # fmt: skip


def arms() -> dict[str, Flags]:
    """Every arm by its name, which for questions says the question too."""
    named = {f"{question}: {arm}": flags for question, group in QUESTIONS.items() for arm, flags in group.items()}
    return {BASE: {}} | named | ABLATION


def flags_of(flags: Flags) -> list[str]:
    """As words of a command line."""
    return [
        word
        for key, value in flags.items()
        for word in (f"--{key}", *(str(v).lower() for v in (value if isinstance(value, list) else [value])))
    ]


def settings(data: str, output: Path, flags: Flags) -> TrainConfig:
    lines = ["--config", str(CONFIG), "--data_dir", data, "--output_dir", str(output), *flags_of(flags)]
    return settle_precision(parse("train", TrainConfig, lines))  # as `train` computes, and so what a step takes


def step_times(options: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """Seconds a pair of each arm's training steps, small pictures and large: medians of rounds, the arms in turns.

    Every round is a step of its own, since what a pair costs depends on the noise levels that a step samples.
    """
    pairs = read_samples(Path(options.real_data))
    trainers = {
        n: DiffusionTrainer(settings(options.real_data, options.run_dir / "speed", arms()[n]), pairs) for n in names
    }
    total = 10 * options.rounds + 10
    times: dict[str, dict[str, list[float]]] = {name: {"first": [], "last": []} for name in names}
    for turn in range(options.rounds + 1):
        for name, trainer in trainers.items():
            trainer.total_steps = total
            for part, step in (("first", turn), ("last", total - 1 - turn)):
                started = time.perf_counter()
                trainer.train_step(step)
                if turn:  # the first one warms up
                    times[name][part].append((time.perf_counter() - started) / trainer.config.batch_size)
    found = {}
    for name, parts in times.items():
        small = trainers[name].small_steps / total
        first, last = (statistics.median(parts[part]) for part in ("first", "last"))
        found[name] = small * first + (1 - small) * last
    return found


def shape_of(flags: Flags) -> str:
    """What of the flags changes the cost of a step; noise levels do, as pairs of high noise are cheaper."""
    costly = ("backbone", "batch_size", "progressive_resizing")
    free = ("diffusion.mask_weight", "diffusion.sdf_truncation")
    found = {k: v for k, v in flags.items() if k.startswith(("model.", "diffusion.")) or k in costly}
    return json.dumps({k: v for k, v in found.items() if k not in free})


def costs(options: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """Cost of a pair of each arm beside the base's, measured once for a settings file and kept in the run folder."""
    file = options.run_dir / f"costs_{hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:8]}.json"
    known: dict[str, float] = read_json(file) if file.is_file() else {}
    shapes = {shape_of(arms()[name]): name for name in names}
    if missing := {shape: name for shape, name in shapes.items() if shape not in known}:
        found = step_times(options, list(dict.fromkeys([BASE, *missing.values()])))
        known |= {shape: found[name] / found[BASE] for shape, name in missing.items()}
        write_json(file, known)
    return {name: known[shape_of(arms()[name])] for name in names}


def run_arm(options: argparse.Namespace, name: str, seed: int, cost: float) -> dict[str, Any]:
    """Train, sample and evaluate one arm with one seed, as far as that is not done; its figures."""
    folder = options.run_dir / name.replace(" ", "_").replace(":", "") / f"seed_{seed}"
    epochs = max(1, round(options.epochs / cost))
    train = [
        "train", "--config", str(CONFIG), "--data_dir", options.real_data, "--output_dir", str(folder / "model"),
        "--seed", str(seed), "--num_epochs", str(epochs), "--evals", "1", *flags_of(arms()[name]),
    ]  # fmt: skip
    medsegdiff(*train)
    summary = read_json(folder / "model" / SUMMARY_FILE)
    best = summary["best"]
    found = {"arm": name, "seed": seed, "epochs": epochs, "cost": cost, "parameters": summary["parameters"]}
    found |= {
        "val_loss": best["val_loss"],
        "seconds": summary["seconds"],
        "images_per_second": summary["images_per_second"],
    }
    for part in ("image", "mask"):
        found[f"val_{part}"] = statistics.mean(v for k, v in best.items() if k.startswith(f"val_{part}/"))
    found["averages"] = {k.removeprefix(AVERAGE): v for k, v in best.items() if k.startswith(AVERAGE)}
    if options.pairs:
        sampled = ["--num_samples_per_class", str(options.pairs), "--seed", str(seed)]
        checkpoint = folder / "model" / "last_model.safetensors"
        found |= sampled_and_evaluated(folder, checkpoint, options.real_data, options.reference_models_dir, sampled)
    write_json(folder / "figures.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real_data", required=True)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--reference_models_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=30, help="passes over train of the base; others by their cost")
    parser.add_argument(
        "--pairs", type=int, default=100, help="pairs of each class to sample and evaluate; 0: losses alone"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", help="names of arms; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing steps")
    parser.add_argument("--table_only", action="store_true", help="write the tables of finished runs")
    options = parser.parse_args()
    names = options.arms or list(arms())
    if unknown := [name for name in names if name not in arms()]:
        parser.error(f"no such arm: {', '.join(unknown)}; known: {', '.join(arms())}")
    options.run_dir.mkdir(parents=True, exist_ok=True)
    if not options.table_only:
        cost = costs(options, names)
        for seed in options.seeds:
            for name in names:
                run_arm(options, name, seed, cost[name])
    found = [read_json(file) for file in sorted(options.run_dir.glob("*/seed_*/figures.json"))]
    write_tables(ROOT / "docs" / "results", found, QUESTIONS, list(ABLATION), (BASE, ABLATION_BASE))


if __name__ == "__main__":
    main()
