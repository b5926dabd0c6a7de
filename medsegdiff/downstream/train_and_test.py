"""One training run: train with one seed, keep the best weights on val, score them once on test."""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.data.records import SampleSet, content_digest
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.rows import PER_IMAGE_FILE, read_rows, write_rows
from medsegdiff.downstream.segmentation.models import is_file_name
from medsegdiff.downstream.summary import summarise
from medsegdiff.downstream.tasks import Rows, Task
from medsegdiff.downstream.weights import save_weights
from medsegdiff.engine.device import choose_device
from medsegdiff.engine.files import (
    FINGERPRINT_FILE,
    SCORES_FILE,
    clear_leftovers,
    differing_keys,
    make_folder,
    read_json,
    read_record,
    refuse_other_phase,
    write_json,
)
from medsegdiff.engine.locks import locked
from medsegdiff.engine.loop import LoopConfig, run_loop
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.engine.state import STATE_FOLDER
from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "best_model.safetensors"
STEPS = 600  # optimiser steps of the recipe
# What does not decide the weights: where things lie, and what is done with the scores afterwards.
NOT_IN_FINGERPRINT = ("data_dir", "output_dir", "baseline", "bootstrap", "device", "save_every", "test_data", "seeds")


@dataclass(frozen=True)
class Data:
    """The splits of a sample folder, each read when it is first asked for: test only once training is over."""

    pairs: SampleSet
    img_size: int

    @cached_property
    def train(self) -> SampleTensors:
        """Pairs to learn."""
        return load_tensors(self.pairs.select("train"), self.img_size, what="train split")

    @cached_property
    def val(self) -> SampleTensors:
        """Pairs that pick the weights."""
        return load_tensors(self.pairs.select("val"), self.img_size, what="val split")

    @cached_property
    def test(self) -> SampleTensors:
        """Pairs to score on."""
        return load_tensors(self.pairs.select("test"), self.img_size, what="test split")


def total_steps(config: SegmentConfig, pairs: int) -> int:
    """Optimiser steps of a run on so many train `pairs`, which matter where it is counted by epochs alone."""
    if config.epochs is not None:
        return -(-config.epochs * pairs // config.batch_size)
    return config.steps or STEPS


def train_and_test(config: SegmentConfig, task: Task, data: Data, wait: bool = False) -> tuple[dict[str, Any], Rows]:
    """Train and score into `config.output_dir`; returns scores.json's content and the rows of its test images.

    The same call goes on where an interrupted one stopped, and returns what a finished one wrote. Another process that
    is at it makes it a `UserError`; or, with `wait`, is waited for.
    """
    output = Path(config.output_dir)
    fingerprint = run_fingerprint(config, data.pairs)
    with locked(make_folder(output), wait=wait):
        clear_leftovers(output, WEIGHTS_FILE, task.picture, PER_IMAGE_FILE, SCORES_FILE)
        if not is_finished(config, fingerprint):
            done = _train(config, task, data, fingerprint)
            rows = score_weights(output, task, data.test, config, output)
            write_json(output / SCORES_FILE, _results(config, task, data, fingerprint, done, rows))
        # Only now is there nothing left to resume; a run killed before it got here left them
        shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return read_json(output / SCORES_FILE), read_rows(output / PER_IMAGE_FILE, task.row)


def score_weights(run: Path, task: Task, data: SampleTensors, config: SegmentConfig, folder: Path) -> Rows:
    """Score the weights of a run on `data`; writes per_image.csv and pictures to `folder`, and returns the rows."""
    model, settings = task.load(run / WEIGHTS_FILE)
    model = model.to(choose_device(config.device))
    rows = task.score(model, settings, data, config, folder / task.picture)
    write_rows(folder / PER_IMAGE_FILE, rows)
    return rows


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_fingerprint(config: SegmentConfig, pairs: SampleSet) -> dict[str, Any]:
    """What decides the weights: settings, pairs, and the content of a file with weights, wherever it lies."""
    fingerprint = {**fingerprint_of(config, "segment", NOT_IN_FINGERPRINT), "data": content_digest(pairs.records)}
    if config.encoder_weights is not None and Path(config.encoder_weights).is_file():
        fingerprint["encoder_weights"] = f"sha256:{sha256(Path(config.encoder_weights))}"
    return fingerprint


def other_settings(
    folder: Path, config: SegmentConfig, fingerprint: dict[str, Any], apart: tuple[str, ...] = ()
) -> list[str]:
    """The settings but those in `apart`, each as `key: old -> new`, by which the run in `folder` is not `fingerprint`.

    It may be finished, or begun only; no setting differs where there is none. Where the encoder came from a file that
    is gone, a finished run is known by its path. Raises `UserError` for a scores.json or a state that is not of a run.
    """
    state = folder / STATE_FOLDER
    begun = (state / FINGERPRINT_FILE, *state.glob(f"step_*[0-9]/{FINGERPRINT_FILE}"))
    record = next((path for path in (folder / SCORES_FILE, *begun) if path.is_file()), None)
    if record is None:
        return []
    found = read_record(record)
    finished = record.name == SCORES_FILE
    known = found.get("fingerprint") if finished and isinstance(found, dict) else found
    reported = found.get("config") if finished and isinstance(found, dict) else fingerprint
    if not isinstance(known, dict) or not isinstance(reported, dict):
        raise UserError(record, "no settings", "those of a training run", "Delete that folder, and train anew.")
    weights = config.encoder_weights
    gone = weights is not None and is_file_name(weights) and not Path(weights).is_file()
    if gone and reported.get("encoder_weights") == weights:
        apart = (*apart, "encoder_weights")
    old, new = ({k: v for k, v in values.items() if k not in apart} for values in (known, fingerprint))
    return differing_keys(old, new)


def is_finished(config: SegmentConfig, fingerprint: dict[str, Any]) -> bool:
    """Whether `config.output_dir` holds this run, finished. Raises `UserError` where it holds another one."""
    output = Path(config.output_dir)
    refuse_other_phase(output, SCORES_FILE, "a folder for weights and scores")
    if not (output / SCORES_FILE).is_file():
        return False
    changed = other_settings(output, config, fingerprint)
    if changed:
        raise UserError(
            output,
            f"a finished run with other settings ({'; '.join(changed)})",
            "the same settings, or a folder without a run",
            "Choose another --output_dir, or delete that one.",
        )
    logger.info("%s holds this run, finished; its scores stand", output)
    return True


def _train(config: SegmentConfig, task: Task, data: Data, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Train to the end and write the best weights; returns what scores.json says of it."""
    steps = total_steps(config, len(data.train))
    trainer = task.trainer(config, data.pairs.classes, data.train, data.val, steps)
    loop = LoopConfig(
        output_dir=Path(config.output_dir),
        total_steps=steps,
        evals=config.evals,
        save_every=config.save_every,
        images_per_step=config.batch_size,
        fingerprint=fingerprint,
        bar=("loss", f"val_{trainer.score_name}"),
        evals_from=trainer.small_steps,
    )
    done = run_loop(trainer, loop, f"training {config.model}, seed {config.seed}")
    settings = {"config": fingerprint, **trainer.model_settings()}
    save_weights(Path(config.output_dir) / WEIGHTS_FILE, trainer.best_weights, settings)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    best = {f"val_{trainer.score_name}": trainer.best_score, "best_step": trainer.best_step}
    return {**done, **best, "parameters": parameters}


def _results(
    config: SegmentConfig, task: Task, data: Data, fingerprint: dict[str, Any], done: dict[str, Any], rows: Rows
) -> dict[str, Any]:
    info = data.pairs.info
    return {
        "config": fingerprint_of(config, "segment"),
        "fingerprint": fingerprint,
        "dataset": {"made_by": info.get("fingerprint", {}), "class_counts": info.get("class_counts", {})},
        "img_size": config.img_size,
        "pairs": {"train": len(data.train), "val": len(data.val), "test": len(rows)},
        **done,
        "test_ids": [row.id for row in rows],
        "test_digest": content_digest(data.test.records),
        "test": summarise([rows], task.measures, task.subgroups(rows), config.bootstrap, seed=0),
    }
