"""All five phases on a phantom data set: the shortest way to see everything work, and how the phases hang together."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff.cli import run
from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import require_positive

log = logging.getLogger(__name__)

WARNING = "phantom data: simulated, not patients; these figures say nothing about real pictures"
SHEET_FILE = "contact_sheet.png"  # what `generate` draws beside its pairs
SCRIPTS = {
    "phantom": "medsegdiff phantom",
    "prepare": "python prepare_busi_dataset.py",
    "train": "python train_medsegdiff.py",
    "generate": "python generate_synthetic.py",
    "combine": "python create_combined_dataset.py",
    "segment": "python train_segmentation.py",
}


@dataclass(frozen=True)
class QuickstartConfig:
    """The whole pipeline in a few minutes, at 64 pixels."""

    output_dir: str = "runs/quickstart"  # folder for the outputs of all phases; a second run goes on in it
    train_config: str = "quickstart"  # settings of the generative training: a YAML file, or one of medsegdiff's
    num_samples_per_class: int = 48  # synthetic pairs of each class
    steps: int = 150  # optimiser steps of each of the two segmentation trainings
    seed: int = 0  # of every phase

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(num_samples_per_class=self.num_samples_per_class, steps=self.steps)


@dataclass(frozen=True)
class Phase:
    """One command of the quickstart."""

    title: str
    command: str  # a subcommand of medsegdiff
    flags: str


def phases(config: QuickstartConfig) -> list[Phase]:
    """What the quickstart runs, in order; each could be typed by hand just as well."""
    out, seed = config.output_dir, f"--seed {config.seed}"
    real, synthetic, combined = (shlex.quote(f"{out}/{name}") for name in ("real", "synthetic", "combined"))
    raw, checkpoints = shlex.quote(f"{out}/phantom"), shlex.quote(f"{out}/checkpoints")
    scores = [shlex.quote(f"{out}/segmentation_{name}") for name in ("real", "combined")]
    segment = f"--img_size 64 --steps {config.steps} --batch_size 16 --evals 6 --patience 6 {seed}"
    settings = f"--config {shlex.quote(config.train_config)}"
    count = f"--num_samples_per_class {config.num_samples_per_class}"
    return [
        Phase("a phantom in the layout of BUSI", "phantom", f"--output_dir {raw} {seed}"),
        Phase("phase 1: prepare", "prepare", f"--input_dir {raw} --output_dir {real} {seed}"),
        Phase("phase 2: train", "train", f"{settings} --data_dir {real} --output_dir {checkpoints} {seed}"),
        Phase(
            "phase 3: generate",
            "generate",
            f"--checkpoint_path {checkpoints}/best_model.pth {count} --output_dir {synthetic} {seed}",
        ),
        Phase(
            "phase 4: combine",
            "combine",
            f"--real_data {real} --synthetic_data {synthetic} --output_dir {combined} {seed}",
        ),
        Phase("phase 5: segment, real pairs only", "segment", f"--data_dir {real} --output_dir {scores[0]} {segment}"),
        Phase(
            "phase 5: segment, real and synthetic pairs",
            "segment",
            f"--data_dir {combined} --output_dir {scores[1]} --baseline {scores[0]} {segment}",
        ),
    ]


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run all phases, log each as the command line it is, and end with a table; returns the last phase's results.

    The same call goes on where an interrupted one stopped. Raises `UserError` as the phases do.
    """
    todo = phases(config)
    log.info("%s", WARNING)
    results: list[Any] = []
    seconds: list[float] = []
    for number, phase in enumerate(todo, start=1):
        log.info("\n== %d/%d %s", number, len(todo), phase.title)
        log.info("$ %s %s", SCRIPTS[phase.command], phase.flags)
        started = time.perf_counter()
        results.append(run(phase.command, shlex.split(phase.flags)))
        seconds.append(time.perf_counter() - started)
        log.info("(%.0f s)", seconds[-1])
    sheet = Path(config.output_dir).absolute() / "synthetic" / SHEET_FILE
    log.info("\n%s", report(todo, seconds, results[-2], results[-1]))
    log.info("\npicture of generated pairs: %s", sheet)
    return dict(results[-1])


def report(todo: list[Phase], seconds: list[float], real: dict[str, Any], combined: dict[str, Any]) -> str:
    """Seconds of every phase, and Dice of the two segmentation runs side by side."""
    lines = [f"{phase.title:<45}{spent:>6.0f} s" for phase, spent in zip(todo, seconds, strict=True)]
    lines += [f"{'together':<45}{sum(seconds):>6.0f} s", "", WARNING]
    lines += [f"Dice on test phantoms at {combined['img_size']} x {combined['img_size']} pixels, mean [95 % interval]"]
    lines += [f"{'':<12}{'n':>4}  {'real only':<22}{'real + synthetic':<22}difference"]
    for subgroup, compared in combined["comparison"]["subgroups"].items():
        before, after = (run["test"][subgroup]["dice"] for run in (real, combined))
        cells = f"{_interval(before):<22}{_interval(after):<22}{_interval(compared['dice']['difference'], '+')}"
        lines.append(f"{subgroup:<12}{before['n']:>4}  {cells}")
    return "\n".join(lines)


def _interval(cell: dict[str, float], sign: str = "") -> str:
    return f"{cell['value']:{sign}.3f} [{cell['low']:{sign}.3f}, {cell['high']:{sign}.3f}]"
