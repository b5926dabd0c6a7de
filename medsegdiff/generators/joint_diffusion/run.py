"""The run that a training's output folder holds: by what it is known, whether it goes on, and with which batches."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from typing import Any

from medsegdiff.data.records import SampleSet
from medsegdiff.engine.distributed import Distributed
from medsegdiff.engine.files import read_record
from medsegdiff.engine.run_folder import TRAINING, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import require
from medsegdiff.generators.base import BEST_FILE
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.legacy import migrated

logger = logging.getLogger(__name__)

KIND = dataclasses.replace(TRAINING, today=migrated)
LAST_FILE = "last_model.safetensors"
FINER = 2  # pictures are augmented at so many times the size that the network sees


def enter(
    config: TrainConfig, pairs: SampleSet, stack: contextlib.ExitStack
) -> tuple[TrainConfig, bool, dict[str, Any] | None]:
    """Lock the output folder and look what it holds, for as long as `stack` is open.

    Returns `config`, with the batch size of the run that was begun there if it is to be found, whether that is so, and
    the summary of a finished run.
    """
    folder = run_folder(config, pairs)
    stack.enter_context(folder.held())
    begun, found = folder.begun(), False
    if config.find_batch_size and begun:
        size, parts = begun.get("batch_size", 0), begun.get("accumulate", 0)
        if size * parts == config.batch_size * config.accumulate:
            config, found = dataclasses.replace(config, batch_size=size, accumulate=parts), True
            folder = run_folder(config, pairs)
    if not folder.is_finished():  # or refused, before the minutes that reading, building and trials may take
        return config, found, None
    logger.info("%s holds this run, finished", folder.path)
    return config, found, read_record(folder.sign)


def check_shares(config: TrainConfig, processes: Distributed, hint: str) -> None:
    """Raise `UserError` where a batch cannot be cut into equal shares: pairs would be left out."""
    shared = config.batch_size % processes.count == 0
    require(shared, "--batch_size", config.batch_size, f"a multiple of the {processes.count} processes", hint)


def run_folder(config: TrainConfig, pairs: SampleSet) -> RunFolder:
    """The output folder of a training."""
    files = (BEST_FILE, LAST_FILE, "history.jsonl", "samples/*.png")
    return RunFolder(config.output_dir, KIND, run_fingerprint(config, pairs), files)


def run_fingerprint(config: TrainConfig, pairs: SampleSet) -> dict[str, Any]:
    """What a run is known by: settings and data that decide the weights (but for the last bits of their numbers)."""
    places = ("data_dir", "output_dir", "device", "save_every")
    fingerprint = fingerprint_of(config, "train", (*places, "compile", "checkpoint_gradients", "find_batch_size"))
    return fingerprint | {"data": data_digest(pairs), "augmented_at": FINER, "small_augmented_at": FINER}


def data_digest(pairs: SampleSet) -> str:
    """A short digest of what train and val hold, so that a run is not resumed on other data."""
    rows = [r for r in pairs.records if r.split != "test"]
    text = " ".join(pairs.classes) + pairs.arrays.mask_key
    text += "".join(f"{r.id}{r.split}{r.label}{r.image_hash}{r.mask_hash}{r.pixel_aspect}" for r in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
