"""All five phases on a phantom data set: the shortest way to see everything work, and how the phases hang together."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff.cli import COMMANDS, load
from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import require_positive
from medsegdiff.flags import from_keywords
from medsegdiff.generators.base import BEST_FILE

log = logging.getLogger(__name__)

EXPECT = "The generator has learnt for a minute or two, so no gain is to be expected; docs/results has real pictures."
WARNING = "phantom data: simulated, not patients; these figures say nothing about real pictures"
SHEET_FILE = "contact_sheet.png"  # what `generate` draws beside its pairs
SCRIPTS = {
    "phantom": "medsegdiff phantom",
    "prepare": "python prepare_busi_dataset.py",
    "train": "python train_medsegdiff.py",
    "generate": "python generate_synthetic.py",
    "combine": "python create_combined_dataset.py",
    "segment": "python train_segmentation.py",
    "evaluate": "medsegdiff evaluate",
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
    settings: dict[str, Any]  # its flags
    config: str | None = None  # YAML file beneath them, or the name of one of medsegdiff's

    @property
    def line(self) -> str:
        """As it could be typed."""
        words = ["--config", self.config] if self.config else []
        words += [word for key, value in self.settings.items() for word in (f"--{key}", str(value))]
        return f"{SCRIPTS[self.command]} {shlex.join(words)}"

    def run(self) -> Any:
        """Call the library function of the command. Raises `UserError` as it does."""
        command = COMMANDS[self.command]
        return load(command.function)(from_keywords(self.command, load(command.config), self.settings, self.config))


def phases(config: QuickstartConfig) -> list[Phase]:
    """What the quickstart runs, in order; each could be typed by hand just as well."""
    out, seed = Path(config.output_dir), {"seed": config.seed}
    names = "phantom", "real", "checkpoints", "synthetic", "combined", "segmentation_real", "segmentation_combined"
    raw, real, checkpoints, synthetic, combined, alone, both = (str(out / name) for name in names)
    segment = {"img_size": 64, "steps": config.steps, "batch_size": 16, "evals": 6, "patience": 6, **seed}
    count = {"num_samples_per_class": config.num_samples_per_class}
    short = {"reference_model_steps": config.steps, "embedding_steps": max(config.steps // 3, 1), "bootstrap": 100}
    pairs = {"real_data": real, "synthetic_data": synthetic}
    return [
        Phase("a phantom in the layout of BUSI", "phantom", {"output_dir": raw, **seed}),
        Phase("phase 1: prepare", "prepare", {"input_dir": raw, "output_dir": real, **seed}),
        Phase("phase 2: train", "train", {"data_dir": real, "output_dir": checkpoints, **seed}, config.train_config),
        Phase(
            "phase 3: generate",
            "generate",
            {"checkpoint_path": f"{checkpoints}/{BEST_FILE}", **count, "output_dir": synthetic, **seed},
        ),
        Phase("phase 4: combine", "combine", {**pairs, "output_dir": combined, **seed}),
        Phase("phase 5: segment, real pairs only", "segment", {"data_dir": real, "output_dir": alone, **segment}),
        Phase(
            "phase 5: segment, real and synthetic pairs",
            "segment",
            {"data_dir": combined, "output_dir": both, "baseline": alone, **segment},
        ),
        Phase(
            "evaluate the synthetic pairs",
            "evaluate",
            {**pairs, "output_dir": str(out / "evaluation"), **short, **seed},
        ),
    ]


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run all phases, log each as the command line it is, and end with a table; returns the results of phase 5.

    The same call goes on where an interrupted one stopped. Raises `UserError` as the phases do.
    """
    todo = phases(config)
    log.info("%s", WARNING)
    results: list[Any] = []
    seconds: list[float] = []
    for number, phase in enumerate(todo, start=1):
        log.info("\n== %d/%d %s", number, len(todo), phase.title)
        log.info("$ %s", phase.line)
        started = time.perf_counter()
        results.append(phase.run())
        seconds.append(time.perf_counter() - started)
        log.info("(%.0f s)", seconds[-1])
    real, combined, evaluation = results[-3:]
    out = Path(config.output_dir).absolute()
    log.info("\n%s", report(todo, seconds, real, combined, evaluation))
    log.info("\npicture of generated pairs: %s", out / "synthetic" / SHEET_FILE)
    log.info("report on them: %s", out / "evaluation" / "report.html")
    return dict(combined)


def report(
    todo: list[Phase], seconds: list[float], real: dict[str, Any], combined: dict[str, Any], evaluation: dict[str, Any]
) -> str:
    """Seconds of every phase, Dice of the two segmentation runs side by side, verdicts, and what it means, in words."""
    lines = [f"{phase.title:<45}{spent:>6.0f} s" for phase, spent in zip(todo, seconds, strict=True)]
    lines += [f"{'together':<45}{sum(seconds):>6.0f} s", "", WARNING]
    lines += [f"Dice on test phantoms at {combined['img_size']} x {combined['img_size']} pixels, mean [95 % interval]"]
    lines += [f"{'':<12}{'n':>4}  {'real only':<22}{'real + synthetic':<22}difference"]
    for subgroup, compared in combined["comparison"]["subgroups"].items():
        before, after = (run["test"][subgroup]["dice"] for run in (real, combined))
        cells = f"{_interval(before):<22}{_interval(after):<22}{_interval(compared['dice']['difference'], '+')}"
        lines.append(f"{subgroup:<12}{before['n']:>4}  {cells}")
    lines += ["", in_words(combined["comparison"]["subgroups"]["all"]["dice"]["difference"]), ""]
    lines += [f"{line['metric']}: {line['outcome']}" for line in evaluation["verdicts"]]
    return "\n".join(lines)


def in_words(difference: dict[str, float]) -> str:
    """What a difference of Dice and its interval show."""
    if difference["low"] > 0:
        found = "Synthetic pairs raised Dice here: the whole interval of the difference is above 0."
    elif difference["high"] < 0:
        found = "Synthetic pairs lowered Dice here: the whole interval of the difference is below 0."
    else:
        found = "Nothing is shown: the interval of the difference holds 0."
    return f"{found} {EXPECT}"


def _interval(cell: dict[str, float], sign: str = "") -> str:
    return f"{cell['value']:{sign}.3f} [{cell['low']:{sign}.3f}, {cell['high']:{sign}.3f}]"
