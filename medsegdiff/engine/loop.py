"""One linear step loop for both trainers: progress, evaluation, saving, resuming, early stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from medsegdiff.engine.distributed import SingleProcess
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.run_folder import RunFolder
from medsegdiff.engine.state import damaged_state, latest_state, save_state
from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

Scalars = Mapping[str, Tensor | float]  # 0-dimensional tensors stay where they were computed until they are read
NAMED = 16  # pairs of a batch that a message names
PACE = 8  # readings that a pace is taken of
SLOWER = 10.0
WRITE_EVERY = 10  # steps between two points of a curve in TensorBoard


class Trainer(Protocol):
    """What the loop needs of a trainer. Steps count from 0; all chance depends on (seed, step) only."""

    def train_step(self, step: int) -> Scalars:
        """One optimiser step; returns scalars, among them "loss", for which it does not wait."""

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

    folder: RunFolder  # a state must have been made with its fingerprint, to be resumed
    total_steps: int
    evals: int  # evaluations in the whole run; the last falls on the last step
    save_every: int  # steps between saved states
    images_per_step: int
    bar: Sequence[str] = ("loss",)  # scalars that the progress bar shows
    evals_from: int = 0  # steps before the part of the run over which evaluations are spread
    read_every: int = 1  # steps between two readings of what steps returned; a GPU has to finish them for it
    sample_ids: Callable[[int], Sequence[str]] = lambda step: ()  # ids of the pairs that a step saw, for messages
    processes: SingleProcess = field(default_factory=SingleProcess)  # that train together; the main one alone writes


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent in them and in evaluations, over all resumed parts
    done: bool = False  # stopped early


def lr_factor(step: int, warmup: int, total: int, floor: float = 0.01, cheap: int = 0, price: float = 1.0) -> float:
    """Linear warm-up over `warmup` steps, then cosine decay from 1 to `floor` at `total`.

    The decay runs over the work that is done: each of the first `cheap` steps counts as `price` of one.
    """
    if step < warmup:
        return (step + 1) / warmup

    def work(steps: int) -> float:
        return min(steps, cheap) * price + max(0, steps - cheap)

    progress = (work(step) - work(warmup)) / max(price, work(total) - work(warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def eval_steps(total: int, evals: int, start: int = 0) -> set[int]:
    """Numbers of done steps after which to evaluate: evenly spread from `start` on, the last one at the end."""
    return {max(1, start + round((total - start) * k / evals)) for k in range(1, evals + 1)}


def run_loop(trainer: Trainer, config: LoopConfig, description: str) -> dict[str, Any]:
    """Train to the end, going on from the last saved state; returns {"steps", "seconds", "stopped_early"}.

    Raises `UserError` where the loss is no longer finite (the last saved state stays), where the run in its folder
    was begun with other settings, or where its state is damaged.
    """
    processes = config.processes
    folder = config.folder
    processes.run_on_main(folder.begin)
    progress = _resume(trainer, folder.path)
    _check_shared(config, progress.step)
    if progress.step:
        logger.info("going on from step %d of %d", progress.step, config.total_steps)
    marks = eval_steps(config.total_steps, config.evals, config.evals_from)
    with contextlib.closing(_Curves(config, progress.step, description)) as curves:
        while progress.step < config.total_steps and not progress.done:
            started = time.perf_counter()
            curves.add(progress.step, trainer.train_step(progress.step), started)
            progress.step += 1
            done = progress.step
            evaluates = done in marks
            saves = evaluates or done % config.save_every == 0
            if saves or done % config.read_every == 0 or done == config.total_steps:
                curves.read()  # before anything that a loss which is not finite may not come into
            if evaluates:
                curves.write(trainer.evaluate(done), done)
                progress.done = trainer.finished()
            progress.seconds += time.perf_counter() - started
            if saves and processes.is_main:
                curves.flush()  # what a kill takes from its queue would not be made again after this state
                state = {"trainer": trainer.state_dict(), "progress": dataclasses.asdict(progress)}
                save_state(folder.path, done, folder.fingerprint, state)
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "stopped_early": progress.step < config.total_steps,
    }


def _check_shared(config: LoopConfig, step: int) -> None:
    """Raise `UserError`, in all processes alike, where they do not see one folder: some would begin anew."""
    smallest = config.processes.smallest
    steps = smallest(step), -smallest(-step)
    seen = smallest(int(config.folder.begun() is not None))  # the main process has written it by now
    if not seen or steps[0] != steps[1]:
        raise UserError(
            config.folder.path,
            f"a folder that some processes do not see (they go on from steps {steps[0]} to {steps[1]})",
            "one folder for all of them",
            "Give an --output_dir on storage that all machines share.",
        )


def _resume(trainer: Trainer, output_dir: Path) -> Progress:
    """Put the last saved state back where there is one, and say how far it had come."""
    found = latest_state(output_dir)
    if found is None:
        return Progress()
    folder, state = found
    try:
        trainer.load_state_dict(state["trainer"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged_state(folder, error) from error


class Pace:
    """Notices steps that have become much slower than they were, and says once what to do."""

    def __init__(self) -> None:
        self.first: list[float] = []  # seconds a step, of the first readings
        self.last: deque[float] = deque(maxlen=PACE)
        self.said = False

    def add(self, seconds: float) -> None:
        """Note what a step took; warn where the last ones all took `SLOWER` times as long as the first ones."""
        if len(self.first) < PACE:
            self.first.append(seconds)
            return
        self.last.append(seconds)
        usual = statistics.median(self.first)
        if not self.said and len(self.last) == PACE and min(self.last) > SLOWER * usual:
            self.said = True
            text = "steps take %.3g s, at first %.3g s: does another program use these cores? Stop it, or go on with %s"
            logger.warning(text, statistics.median(self.last), usual, "--threads N, N the cores that are left")


class _Curves:
    """Progress bar and TensorBoard, fed with what steps returned, which it reads many at a time: one wait for all."""

    def __init__(self, config: LoopConfig, step: int, description: str) -> None:
        self.config = config
        self.unread: list[tuple[int, Scalars]] = []
        self.pace = Pace()
        self.since = 0.0  # when the first unread step began
        shown = config.processes.is_main
        folder = str(config.folder.path / "tensorboard")
        self.writer = SummaryWriter(folder, purge_step=step + 1) if shown else None
        self.bar = progress_bar(
            total=config.total_steps, initial=step, desc=description, unit="step", disable=not shown
        )

    def add(self, step: int, scalars: Scalars, started: float) -> None:
        """Keep what a step returned that began at `started`, without a wait for it."""
        if not self.unread:
            self.since = started
        self.unread.append((step, scalars))

    def read(self) -> None:
        """Read, check and show what was kept; `UserError` for the first step with numbers that are not finite."""
        config, rows = self.config, self.unread
        steps, numbers = [step for step, _ in rows], _numbers([row for _, row in rows], config.processes)
        for step, scalars in zip(steps, numbers, strict=True):
            _check(scalars, step, config)
        spent = max(time.perf_counter() - self.since, 1e-9)
        self.pace.add(spent / max(len(rows), 1))
        speed = config.images_per_step * len(rows) / spent
        shown = {name: f"{numbers[-1][name]:.4f}" if name in numbers[-1] else "-" for name in config.bar}
        self.bar.set_postfix(shown | {"img/s": f"{speed:.1f}"}, refresh=False)
        self.bar.update(len(rows))
        for step, scalars in zip(steps, numbers, strict=True):
            if (step + 1) % WRITE_EVERY == 0 or step + 1 == config.total_steps:
                points = scalars | {"images_per_second": speed}
                self.write({f"train/{name}": value for name, value in points.items()}, step + 1)
        self.unread = []

    def write(self, scalars: Mapping[str, float], done: int) -> None:
        """Points of the curves after `done` steps."""
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, done)

    def flush(self) -> None:
        """Have all points on the disk."""
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def _numbers(rows: Sequence[Scalars], processes: SingleProcess) -> list[dict[str, float]]:
    """What steps returned, as numbers, averaged over the processes: all tensors come from the device at once."""
    tensors = [value.detach().double() for row in rows for value in row.values() if isinstance(value, Tensor)]
    found = iter(processes.mean(torch.stack(tensors)).tolist() if tensors else [])
    return [{k: next(found) if isinstance(v, Tensor) else float(v) for k, v in row.items()} for row in rows]


def _check(scalars: dict[str, float], step: int, config: LoopConfig) -> None:
    if not all(math.isfinite(v) for v in scalars.values()):
        sample_ids = config.sample_ids(step)
        pairs = ", ".join(sample_ids[:NAMED]) + (
            f" and {len(sample_ids) - NAMED} more" if len(sample_ids) > NAMED else ""
        )
        raise UserError(
            f"training step {step}",
            f"loss {scalars}" + (f" of the pairs {pairs}" if sample_ids else ""),
            "finite numbers",
            "Lower --lr or use --precision fp32, in a new --output_dir; unchanged, the command goes on from the last "
            "saved state.",
        )
