"""Our network beside those of diffusers, MONAI and denoising_diffusion_pytorch, each as its own documentation has it.

    python benchmarks/compare_libraries.py --real_data samples --run_dir runs/libraries

does all parts, each of which can be had alone by its name:

    speed   parameters, FLOPs, training images/s, peak memory, seconds a network call
    train   the same wall-clock for each, then `generate`, and `evaluate --held_out val` on what comes of it
    table   comparison.md and .json in --run_dir, from what the other two left there

What is finished is kept in --run_dir and not done again. Measure on a machine that does nothing else. No figure is
taken on the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from library_generator import LibraryTrainer, cut_warmup
from library_networks import LIBRARIES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medsegdiff.cli import parse
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.device import autocast, choose_device, settle_precision
from medsegdiff.engine.files import make_folder, read_json, write_bytes, write_json
from medsegdiff.engine.rng import generator
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.run import evaluate
from medsegdiff.generators.base import BEST_FILE
from medsegdiff.generators.joint_diffusion.checkpoint import save_checkpoint
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.noise import sample_sigma, sigma_table
from medsegdiff.generators.joint_diffusion.sampling_settings import default_guidance
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

OURS, CALLS = "medsegdiff", 20  # network calls of a sample, those of guidance counted
PARTS = ("speed", "train", "table")
TRAINED_FILE, FIGURES_FILE, SPEED_FILE = "trained.json", "figures.json", "speed.json"
REFERENCE_SIDE = 128  # side of the pictures, pixels, that --speed_batch is for
ROOT = Path(__file__).resolve().parent.parent


class Trainer(Protocol):
    """A network in training."""

    batch: int  # pairs an optimiser step
    total_steps: int
    flop_pairs: int  # pairs of a call over which operations are averaged

    @property
    def network(self) -> torch.nn.Module: ...
    def train_step(self, step: int) -> float: ...
    def call(self, count: int) -> None: ...
    def save(self, path: Path, step: int) -> None: ...


class OurTrainer:
    """`DiffusionTrainer` as it is, planned by time."""

    flop_pairs = 64  # fewer operations are taken where noise is high

    def __init__(self, config: TrainConfig, pairs: SampleSet) -> None:
        self.trainer, self.warmup = DiffusionTrainer(config, pairs), config.warmup_steps
        # A share of the steps, which on small pictures are cheap, as one of the time
        work = config.progressive_resizing * self.trainer.small_price
        share = work / (work + 1 - config.progressive_resizing)
        self.trainer.config = dataclasses.replace(self.trainer.config, progressive_resizing=share)
        self.trainer.small_price = 1.0  # steps are counted by their time already
        self.batch = config.batch_size * config.accumulate

    @property
    def network(self) -> torch.nn.Module:
        return self.trainer.denoiser

    @property
    def total_steps(self) -> int:
        return self.trainer.total_steps

    @total_steps.setter
    def total_steps(self, total: int) -> None:
        self.trainer.total_steps = total
        warmup = cut_warmup(self.warmup, total)
        self.trainer.config = dataclasses.replace(self.trainer.config, warmup_steps=warmup)

    def train_step(self, step: int) -> float:
        return float(self.trainer.train_step(step)["loss"])

    @torch.inference_mode()
    def call(self, count: int) -> None:
        config, device = self.trainer.config, self.trainer.device
        x = torch.zeros(count, len(self.trainer.codec.mean), config.img_size, config.img_size, device=device)
        sigma = sample_sigma(count, config.diffusion, generator(config.seed, 34)).to(device)  # as training samples them
        with autocast(device, config.precision):
            self.trainer.ema.model(x, sigma, {})

    def save(self, path: Path, step: int) -> None:
        """With the average that does best on val, where the settings keep several: the choice belongs to the recipe."""
        ema, validator = self.trainer.ema, self.trainer.validator
        if len(ema.lengths) > 1:
            ema.choose(lambda model: validator.val_losses(model)["val_loss"])
        save_checkpoint(path, ema.model.state_dict(), self.trainer.card(step))


def build(name: str, options: argparse.Namespace, pairs: SampleSet, size: int, batch: int | None = None) -> Trainer:
    """A fresh network in training. Raises ImportError where its library is not installed."""
    config = settle_precision(GenerateConfig("", "", precision=options.precision, device=options.device))
    if name != OURS:
        device, part = choose_device(options.device), batch or options.part
        return LibraryTrainer(name, pairs, size, config.precision, device, batch, part, options.seed)
    line = f"--img_size {size} --precision {config.precision} --device {options.device} --seed {options.seed}"
    line += " --compile false" + (f" --batch_size {batch} --progressive_resizing 0" if batch else "")
    settings = parse("train", TrainConfig, ["--config", options.config, "--data_dir", str(pairs.root), *line.split()])
    return OurTrainer(settings, pairs)


def train_for(arm: Trainer, seconds: float, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Train for so many seconds of steps: after each the number of steps is set from the time that steps take.

    So the schedule ends with the budget, and a run ends at the step that comes nearest to it.
    """
    started, step, loss = clock(), 0, math.nan
    arm.total_steps = 10**9
    while step < arm.total_steps:
        loss = arm.train_step(step)
        step += 1
        if not math.isfinite(loss):
            break
        arm.total_steps = max(step, round(seconds * step / max(clock() - started, 1e-9)))
    return {"steps": step, "seconds": clock() - started, "loss": loss, "pairs_seen": step * arm.batch}


def steps_of_ours(config: TrainConfig) -> int:
    """Most steps of our sampler in `CALLS` network calls, those of its default guidance counted."""
    guidance, diffusion = default_guidance(config.diffusion), config.diffusion
    return next(n for n in range(CALLS, 1, -1) if guidance.calls(sigma_table("joint", diffusion, n)) <= CALLS)


def run_arm(name: str, options: argparse.Namespace, real: SampleSet) -> None:
    """Train, sample, evaluate one network, as far as that is not done."""
    folder = make_folder(options.run_dir / name)
    checkpoint, steps = folder / BEST_FILE, CALLS
    if not (folder / TRAINED_FILE).is_file():
        arm = build(name, options, real, options.size)
        done = train_for(arm, options.minutes * 60)
        arm.save(checkpoint, done["steps"])
        write_json(folder / TRAINED_FILE, {"network": name, "minutes": options.minutes, "batch": arm.batch, **done})
    if name == OURS:
        steps = steps_of_ours(
            parse("train", TrainConfig, ["--config", options.config, "--data_dir", options.real_data])
        )
    found: dict[str, Any] = {"trained": read_json(folder / TRAINED_FILE)}
    try:
        generate(GenerateConfig(
            str(checkpoint), str(folder / "pairs"), num_samples_per_class=options.pairs, steps=steps,
            precision=options.precision, device=options.device, seed=options.seed, max_redraws=options.max_redraws,
        ))  # fmt: skip
        report = evaluate(EvaluateConfig(
            options.real_data, str(folder / "pairs"), str(folder / "report"), held_out=["val"],
            reference_models_dir=options.reference_models_dir, real_pictures=False, device=options.device,
        ))  # fmt: skip
        found["evaluated"] = figures_of(report)
    except UserError as error:  # masks that are no lesions, or pairs that say nothing
        found["refused"] = str(error)
    write_json(folder / FIGURES_FILE, found)


def figures_of(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation report that the table has."""
    metrics = report["metrics"]
    frechet = metrics["distances"]["spaces"]["radiomics"].get("all", {}).get("frechet", {})  # not of a few pairs
    masks = metrics["agreement"].get("masks", {}).get("all", {})
    privacy = {line["metric"]: line["outcome"] for line in report["verdicts"]}.get("privacy")
    return {"frechet": frechet.get("synthetic"), "agreement": masks.get("synthetic"), "privacy": privacy}


def measure(name: str, options: argparse.Namespace, real: SampleSet, size: int) -> dict[str, Any]:
    """Size, operations, speed and memory of one network in this process."""
    batch = max(1, round(options.speed_batch * (REFERENCE_SIDE / size) ** 2))
    before, device = memory(), choose_device(options.device)
    arm = build(name, options, real, size, batch)
    times: dict[str, list[float]] = {"step": [], "call": []}
    for turn in range(options.rounds + 1):
        for what, work in (("step", lambda turn=turn: arm.train_step(turn)), ("call", lambda: arm.call(batch))):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[what].append(time.perf_counter() - started)
    peak = memory() - before if device.type == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    # Attention the plain way, since not every fused kernel is counted; Fourier transforms are not
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        arm.call(arm.flop_pairs)
    step, call = (statistics.median(values[1:]) for values in times.values())  # the first round warms up
    return {
        "parameters": sum(p.numel() for p in arm.network.parameters()), "batch": batch, "gib": peak,
        "gflop": counter.get_total_flops() / arm.flop_pairs / 1e9, "images_per_second": batch / step,
        "seconds_a_call": call / batch,
    }  # fmt: skip


def memory() -> float:
    """Largest resident memory of this process so far, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def speed(options: argparse.Namespace) -> None:
    """`measure` of every network at every size, each in a process of its own; kept after each."""
    file = options.run_dir / SPEED_FILE
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    for size in options.sizes:
        for name in options.arms:
            key = f"{name} {size}"
            if key not in found:
                line = [sys.executable, __file__, *sys.argv[1:], "--measure", name, str(size)]
                done = subprocess.run(line, capture_output=True, text=True)
                lines = done.stdout.strip().splitlines()
                found[key] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.stderr[-500:]}
                write_json(file, found)


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (header, ["---"] * len(header), *rows)]


def shown(value: float | dict[str, float] | None) -> str:
    """A figure with three digits, with its interval where it has one."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value:.3g}"


def page(run: Path) -> str:
    """The Markdown page of what a run left; ratios above 1 are in favour of ours."""
    speeds: dict[str, Any] = read_json(run / SPEED_FILE) if (run / SPEED_FILE).is_file() else {}
    rows: list[list[Any]] = []
    for key, row in speeds.items():
        name, size = key.split()
        ours = speeds.get(f"{OURS} {size}", {})
        if "failed" in row:
            rows.append([name, size, row["failed"].splitlines()[-1], *[""] * 5])
            continue
        ratios = [f"{shown(row['gflop'] / ours['gflop'])}x" if "gflop" in ours else "-"]
        ratios.append(f"{shown(ours['images_per_second'] / row['images_per_second'])}x" if "gflop" in ours else "-")
        rows.append([name, size, shown(row["parameters"] / 1e6), shown(row["gflop"]), ratios[0],
                     shown(row["images_per_second"]), ratios[1], shown(row["gib"])])  # fmt: skip
    lines = ["# Our network beside those of other libraries", "", *table(
        ["network", "px", "M parameters", "GFLOP a call", "theirs / ours", "training images/s", "ours / theirs",
         "peak memory, GiB"], rows)]  # fmt: skip
    rows = []
    for file in sorted(run.glob(f"*/{FIGURES_FILE}")):
        found = read_json(file)
        trained, figures = found["trained"], found.get("evaluated", {})
        rows.append([trained["network"], trained["batch"], trained["steps"], trained["pairs_seen"],
                     f"{trained['seconds'] / 60:.1f}", found.get("refused", shown(figures.get("frechet"))),
                     shown(figures.get("agreement")), figures.get("privacy") or "-"])  # fmt: skip
    lines += ["", *table(["network", "batch", "steps", "pairs seen", "minutes", "Fréchet radiomics distance",
                          "agreement, Dice", "privacy"], rows)]  # fmt: skip
    recipes = [
        [r.title, r.source, f"{r.batch} at {r.size} px", r.lr, r.ema or "-", r.note] for r, _ in LIBRARIES.values()
    ]
    return (
        "\n".join([*lines, "", *table(["network", "documentation", "batch", "rate", "EMA", "remarks"], recipes)]) + "\n"
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all of them")
    made.add_argument("--real_data", required=True, help="sample folder of real pairs")
    made.add_argument("--run_dir", type=Path, required=True, help="folder for everything that the run makes")
    made.add_argument(
        "--reference_models_dir", help="where reference models are kept; default: the user's cache folder"
    )
    made.add_argument("--config", default=str(ROOT / "configs" / "busi_128.yaml"), help="settings file of our network")
    names = [OURS, *LIBRARIES]
    made.add_argument("--arms", nargs="+", choices=names, default=names, help="networks")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of torch")
    made.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="speed: sides of pictures, pixels")
    made.add_argument("--speed_batch", type=int, default=4, help="speed: pairs a step at 128 px")
    made.add_argument("--rounds", type=int, default=5, help="speed: timed steps, of which the median counts")
    made.add_argument("--size", type=int, default=128, help="train: side of pictures, pixels")
    made.add_argument("--minutes", type=float, default=20.0, help="train: of training steps, for each network")
    made.add_argument("--part", type=int, default=4, help="train: pairs that a library's network computes at once")
    made.add_argument("--pairs", type=int, default=100, help="train: pairs of each class to sample")
    made.add_argument("--max_redraws", type=int, default=4, help="train: further samples where masks are no lesions")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--measure", nargs=2, metavar=("NETWORK", "SIZE"), help=argparse.SUPPRESS)  # a child of `speed`
    return made


def main() -> None:
    made = parser()
    options = made.parse_args()
    if wrong := set(options.parts) - set(PARTS):
        made.error(f"no such part: {', '.join(sorted(wrong))}; known: {', '.join(PARTS)}")
    parts = options.parts or list(PARTS)
    make_folder(options.run_dir)
    torch.set_num_threads(options.threads)
    try:
        real = read_samples(Path(options.real_data))
        if options.measure:
            name, size = options.measure
            print(json.dumps(measure(name, options, real, int(size))))
            return
        if "speed" in parts:
            speed(options)
        if "train" in parts:
            for name in options.arms:
                if name == OURS or LIBRARIES[name][0].classes:  # others make no labelled pairs
                    run_arm(name, options, real)
        if "table" in parts:
            write_bytes(options.run_dir / "comparison.md", page(options.run_dir).encode())
    except (UserError, ImportError) as error:
        packages = ", ".join(sorted({recipe.package for recipe, _ in LIBRARIES.values()}))
        hint = f" (pip install 'medsegdiff[bench]' has {packages})" if isinstance(error, ImportError) else ""
        made.exit(2, f"error: {error}{hint}\n")


if __name__ == "__main__":
    main()
