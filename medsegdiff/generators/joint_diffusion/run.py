"""The run that a training's output folder holds: by what it is known, whether it goes on, and with which batches."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

from medsegdiff.conditioning.encoded_text import digest_of
from medsegdiff.data.records import SampleSet
from medsegdiff.engine.distributed import Distributed
from medsegdiff.engine.files import file_digest, read_record
from medsegdiff.engine.run_folder import TRAINING, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import BEST_FILE, find_checkpoint
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, load_checkpoint
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
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
    places = ("data_dir", "output_dir", "device", "save_every", "init_from", "text_encoder")
    fingerprint = fingerprint_of(config, "train", (*places, "compile", "checkpoint_gradients", "find_batch_size"))
    found = fingerprint | {"data": data_digest(pairs), "augmented_at": FINER, "small_augmented_at": FINER}
    # Only where they are set: other runs are known by what they were known by before
    if config.text_encoder is not None:
        found |= {"text_encoder": digest_of(config.text_encoder)}
    return found if config.init_from is None else found | {"init_from": file_digest(initial_file(config.init_from))}


def initial_file(name: str) -> Path:
    """The checkpoint of `init_from`. Raises `UserError` where there is none."""
    return find_checkpoint(Path(name))


def start_from(path: Path, denoiser: Denoiser, card: ModelCard, pairs: SampleSet) -> list[dict[str, str]]:
    """Put the weights of a checkpoint into a fresh network; returns the hashes of the pictures that they learnt.

    The network may take conditions that the checkpoint does not know: what embeds them says nothing at first.
    Raises `UserError` where it is of another network, and where it learnt val or test pictures of `pairs`.
    """
    initial, before, _ = load_checkpoint(path)
    fresh = {c.name for c in card.conditions} - {c.name for c in before.conditions} - {"label"}

    def known(card: ModelCard) -> list[str]:
        return [c.name for c in card.conditions if c.name not in fresh]

    named = [(c.backbone, c.model, c.classes, str(c.arrays), known(c)) for c in (before, card)]
    kinds = ("backbone", "settings of the network", "classes", "arrays", "conditions")
    differing = [kind for kind, old, new in zip(kinds, *named, strict=True) if old != new]
    hint = "Give the settings and data set that it was trained with, or train from scratch."
    require(
        not differing, "--init_from", f"a checkpoint with other {', '.join(differing)}", "one of this network", hint
    )
    learnt = {value for hashes in before.train_hashes for value in hashes.values()}
    held_out = [r.id for r in pairs.records if r.split != "train" and learnt & {r.image_hash, r.perceptual_hash}]
    if held_out:
        found = f"a checkpoint that learnt {len(held_out)} val or test pictures, such as {held_out[0]}"
        raise UserError("--init_from", found, "one that learnt none of them", "Use the split that it was trained on.")
    try:
        weights = initial.state_dict()
        if fresh:  # settings are the same, so what the checkpoint lacks is what embeds these
            weights = denoiser.state_dict() | weights
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        found = f"weights of other sizes ({str(error).splitlines()[1].strip()})"
        raise UserError("--init_from", found, "those of this network", hint) from error
    return before.train_hashes


def data_digest(pairs: SampleSet) -> str:
    """A short digest of what train and val hold, so that a run is not resumed on other data."""
    rows = [r for r in pairs.records if r.split != "test"]
    text = " ".join(pairs.classes) + pairs.arrays.mask_key
    text += "".join(f"{r.id}{r.split}{r.label}{r.image_hash}{r.mask_hash}{r.pixel_aspect}" for r in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
