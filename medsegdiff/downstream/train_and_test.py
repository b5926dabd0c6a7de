"""One training run: train with one seed, keep the best weights on val, score them once on test."""

from __future__ import annotations

import logging
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
from medsegdiff.engine.files import SCORES_FILE, file_digest, read_json, read_record
from medsegdiff.engine.loop import LoopConfig, run_loop
from medsegdiff.engine.run_folder import SEGMENTATION, RunFolder
from medsegdiff.engine.settings import fingerprint_of

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
    folder = run_folder(config, data.pairs, task.picture)
    output = folder.path
    with folder.held(wait):
        if not is_finished(config, folder):
            done = _train(config, task, data, folder)
            rows = score_weights(output, task, data.test, config, output)
            folder.finish(_results(config, task, data, done, rows))
        folder.drop_state()  # only now is there nothing left to resume; a run killed before it got here left it
    return read_json(output / SCORES_FILE), read_rows(output / PER_IMAGE_FILE, task.row)


def score_weights(run: Path, task: Task, data: SampleTensors, config: SegmentConfig, folder: Path) -> Rows:
    """Score the weights of a run on `data`; writes per_image.csv and pictures to `folder`, and returns the rows."""
    model, settings = task.load(run / WEIGHTS_FILE)
    model = model.to(choose_device(config.device))
    rows = task.score(model, settings, data, config, folder / task.picture)
    write_rows(folder / PER_IMAGE_FILE, rows)
    return rows


def run_fingerprint(config: SegmentConfig, pairs: SampleSet) -> dict[str, Any]:
    """What decides the weights: settings, pairs, and the content of a file with weights, wherever it lies."""
    fingerprint = {**fingerprint_of(config, "segment", NOT_IN_FINGERPRINT), "data": pairs.content}
    if config.encoder_weights is not None and Path(config.encoder_weights).is_file():
        fingerprint["encoder_weights"] = f"sha256:{file_digest(Path(config.encoder_weights))}"
    return fingerprint


def run_folder(config: SegmentConfig, pairs: SampleSet, picture: str = "") -> RunFolder:
    """The output folder of a run, which writes a `picture` among other files."""
    files = (WEIGHTS_FILE, PER_IMAGE_FILE, *filter(None, [picture]))
    return RunFolder(config.output_dir, SEGMENTATION, run_fingerprint(config, pairs), files)


def not_compared(config: SegmentConfig, sign: Path) -> tuple[str, ...]:
    """Settings by which the run that ends with `sign` need not be known: those of a file that is gone.

    Where the encoder came from a file that is gone, a finished run is known by its path.
    """
    weights = config.encoder_weights
    gone = weights is not None and is_file_name(weights) and not Path(weights).is_file()
    if not gone or not sign.is_file():
        return ()
    settings = read_record(sign).get("config")
    same = isinstance(settings, dict) and settings.get("encoder_weights") == weights
    return ("encoder_weights",) if same else ()


def is_finished(config: SegmentConfig, folder: RunFolder) -> bool:
    """Whether `folder` holds this run, finished. Raises `UserError` where it holds another one."""
    finished = folder.is_finished(not_compared(config, folder.sign))
    if finished:
        logger.info("%s holds this run, finished; its scores stand", folder.path)
    return finished


def _train(config: SegmentConfig, task: Task, data: Data, folder: RunFolder) -> dict[str, Any]:
    """Train to the end and write the best weights; returns what scores.json says of it."""
    steps = total_steps(config, len(data.train))
    trainer = task.trainer(config, data.pairs.classes, data.train, data.val, steps)
    loop = LoopConfig(
        folder=folder,
        total_steps=steps,
        evals=config.evals,
        save_every=config.save_every,
        images_per_step=config.batch_size,
        bar=("loss", f"val_{trainer.score_name}"),
        evals_from=trainer.small_steps,
    )
    done = run_loop(trainer, loop, f"training {config.model}, seed {config.seed}")
    settings = {"config": folder.fingerprint, **trainer.model_settings()}
    save_weights(folder.path / WEIGHTS_FILE, trainer.best_weights, settings)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    best = {f"val_{trainer.score_name}": trainer.best_score, "best_step": trainer.best_step}
    return {**done, **best, "parameters": parameters}


def _results(config: SegmentConfig, task: Task, data: Data, done: dict[str, Any], rows: Rows) -> dict[str, Any]:
    info = data.pairs.info
    return {
        "config": fingerprint_of(config, "segment"),
        "dataset": {"made_by": info.get("fingerprint", {}), "class_counts": info.get("class_counts", {})},
        "img_size": config.img_size,
        "pairs": {"train": len(data.train), "val": len(data.val), "test": len(rows)},
        **done,
        "test_ids": [row.id for row in rows],
        "test_digest": content_digest(data.test.records),
        "test": summarise([rows], task.measures, task.subgroups(rows), config.bootstrap, seed=0),
    }
