"""One linear step loop for both trainers: progress, evaluation, saving, resuming, early stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medsegdiff.errors import UserError
from medsegdiff.training.state import begin_run, damaged_state, latest_state, save_state

logger = logging.getLogger(__name__)


class Trainer(Protocol):
    """What the loop needs of a trainer. Steps count from 0; all chance depends on (seed, step) only."""

    def train_step(self, step: int) -> dict[str, float]:
        """One optimiser step; returns scalars, among them "loss"."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Look at val after `step` steps are done; may write pictures and the best weights."""

    def finished(self) -> bool:
        """True to stop early; asked after every evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs: tensors, numbers, strings, lists and dictionaries of these."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to look and to save."""

    output_dir: Path
    total_steps: int
    evals: int  # evaluations in the whole run; the last falls on the last step
    save_every: int  # steps between saved states
    images_per_step: int
    identity: dict[str, Any]  # what a state must have been made with, to be resumed
    bar: Sequence[str] = ("loss",)  # scalars that the progress bar shows
    evals_from: int = 0  # steps before the part of the run over which evaluations are spread


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent in them and in evaluations, over all resumed parts
    done: bool = False  # stopped early


def lr_factor(step: int, warmup: int, total: int, floor: float = 0.01) -> float:
    """Linear warm-up over `warmup` steps, then cosine decay from 1 to `floor` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def eval_steps(total: int, evals: int, start: int = 0) -> set[int]:
    """Numbers of done steps after which to evaluate: evenly spread from `start` on, the last one at the end."""
    return {max(1, start + round((total - start) * k / evals)) for k in range(1, evals + 1)}


def run_loop(trainer: Trainer, config: LoopConfig, description: str) -> dict[str, Any]:
    """Train to the end, going on from the last saved state; returns {"steps", "seconds", "stopped_early"}.

    Raises `UserError` where the loss is no longer finite (the last saved state stays), where the run in `output_dir`
    was begun with other settings, or where its state is damaged.
    """
    begin_run(config.output_dir, config.identity)
    progress = _resume(trainer, config.output_dir)
    if progress.step:
        logger.info("going on from step %d of %d", progress.step, config.total_steps)
    marks = eval_steps(config.total_steps, config.evals, config.evals_from)
    with contextlib.ExitStack() as stack:
        writer = SummaryWriter(str(config.output_dir / "tensorboard"), purge_step=progress.step + 1)
        stack.callback(writer.close)
        bar = stack.enter_context(tqdm(total=config.total_steps, initial=progress.step, desc=description, unit="step"))
        while progress.step < config.total_steps and not progress.done:
            started = time.perf_counter()
            scalars = _checked(trainer.train_step(progress.step), progress.step)
            progress.step += 1
            seconds = time.perf_counter() - started
            done = progress.step
            evaluates = done in marks
            _report(writer, bar, scalars, done, config, seconds)
            if evaluates:
                for name, value in trainer.evaluate(done).items():
                    writer.add_scalar(name, value, done)
                progress.done = trainer.finished()
            progress.seconds += time.perf_counter() - started
            if evaluates or done % config.save_every == 0:
                writer.flush()  # what a kill takes from its queue would not be drawn again after this state
                state = {"trainer": trainer.state_dict(), "progress": dataclasses.asdict(progress)}
                save_state(config.output_dir, done, config.identity, state)
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "stopped_early": progress.step < config.total_steps,
    }


def _resume(trainer: Trainer, output_dir: Path) -> Progress:
    """Put the last saved state back where there is one, and tell how far it had come."""
    found = latest_state(output_dir)
    if found is None:
        return Progress()
    folder, state = found
    try:
        trainer.load_state_dict(state["trainer"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged_state(folder, error) from error


def _checked(scalars: dict[str, float], step: int) -> dict[str, float]:
    if not all(math.isfinite(v) for v in scalars.values()):
        raise UserError(
            f"training step {step}",
            f"loss {scalars}",
            "finite numbers",
            "Lower --lr or use --precision fp32; the same command goes on from the last saved state.",
        )
    return scalars


def _report(
    writer: SummaryWriter, bar: Any, scalars: dict[str, float], done: int, config: LoopConfig, seconds: float
) -> None:
    speed = config.images_per_step / seconds
    shown = {name: f"{scalars[name]:.4f}" if name in scalars else "-" for name in config.bar}
    bar.set_postfix(shown | {"img/s": f"{speed:.1f}"}, refresh=False)
    bar.update(1)
    if done % 10 == 0 or done == config.total_steps:
        for name, value in (scalars | {"images_per_second": speed}).items():
            writer.add_scalar(f"train/{name}", value, done)
