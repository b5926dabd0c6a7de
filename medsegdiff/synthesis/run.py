"""Phase 3: sample from a checkpoint in chunks of fixed size; what an interrupted run finished is kept.

What is sampled is the mode: new pairs, images for conditioning masks, or masks for conditioning images. A sample
depends on the settings, the seed, its class and its number (or the picture that it is given), not on how many are
sampled, in what chunks, or on how often the run was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.pictures import balance_table
from medsegdiff.data.records import SampleSet, class_counts, read_samples
from medsegdiff.engine.device import choose_device, settle_precision
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import require
from medsegdiff.generators.base import TASKS, Generator, load_generator
from medsegdiff.synthesis import masks, samples
from medsegdiff.synthesis.config import OF_GENERATORS, GenerateConfig
from medsegdiff.synthesis.inputs import ConditioningInput
from medsegdiff.synthesis.plan import (
    Chunk,
    chunk_size_on,
    run_pending,
)
from medsegdiff.synthesis.requests import (
    asked_of,
)
from medsegdiff.synthesis.wishes import plan

logger = logging.getLogger(__name__)

# What does not decide what is sampled: where things lie (what was given counts by its content), and when to give up.
NOT_IN_FINGERPRINT = (
    *(
        "checkpoint_path",
        "output_dir",
        "masks",
        "images",
        "split",
        "attributes",
        "prompt",
        "negative_prompt",
        "requests",
        "region",
        "modality",
    ),
    *("device", "max_redraws"),
)
# Settings that a mode makes no use of.
UNUSED = {
    "joint": ("num_samples_per_input",),
    "mask_first": ("num_samples_per_input",),
    "text_to_image": ("num_samples_per_input",),
    "mask_to_image": ("num_samples_per_class",),
    "image_to_mask": ("num_samples_per_class", "classes"),
    "inpaint": ("num_samples_per_class",),
    "remove": ("num_samples_per_class", "classes"),
}


def generate(config: GenerateConfig) -> SampleSet | list[dict[str, Any]]:
    """Sample what the settings ask for into a new folder.

    A sample folder, with class_balance.json and contact_sheet.png; or, in mode image_to_mask, masks of each image with
    their mean, consensus, doubt and the one-call estimate, of which the rows of masks.csv are returned. Raises
    `UserError` for settings that do not fit the checkpoint, for masks or images that cannot be used, and where a lesion
    class keeps giving degenerate masks.
    """
    chosen, config = config.mode, settle(config)
    assert config.mode is not None and config.chunk_size is not None  # noqa: PT018
    generator = load_generator(
        Path(config.checkpoint_path), config.generator_settings, device=choose_device(config.device),
        precision=config.precision, batch_size=config.chunk_size,
    )  # fmt: skip
    serves = [task for task in TASKS if task in generator.tasks]
    if chosen is None and config.mode == "joint" and serves == ["text_to_image"]:
        config = dataclasses.replace(config, mode="text_to_image")
    kind = f"{config.mode}, which a generator of kind {generator.card.kind!r} does not serve"
    require(config.mode in serves, "--mode", kind, f"one of {', '.join(serves)}")
    classes, tasks, inputs = plan(config, generator.card)
    asked = _asked_digest(tasks) if config.requests is None else _requests_digest(tasks)
    fingerprint = _fingerprint(config, generator, classes, inputs) | asked
    if config.mode == "image_to_mask":
        return _masks(config, generator, tasks, fingerprint)
    return _samples(config, generator, classes, tasks, fingerprint)


def _samples(
    config: GenerateConfig, generator: Generator, classes: list[str], tasks: list[Chunk], fingerprint: dict[str, Any]
) -> SampleSet:
    output = Path(config.output_dir)
    run = RunFolder(output, DATA_SET, fingerprint)
    if run.is_finished():
        logger.info("%s holds these pairs, finished", output)
        return read_samples(output)
    with run.staged(keep_partial=True) as folder:
        run_pending(tasks, folder, lambda task: samples.run_chunk(generator, task, folder, config.max_redraws), "pair")
        result = samples.gather(generator.card, tasks, folder, classes, fingerprint)
    logger.info("%s", balance_table(class_counts(result.records)))
    for label, counts in result.info["masks_redrawn"].items():
        if counts:
            logger.info("%s: masks sampled again: %s", label, ", ".join(f"{n} {fault}" for fault, n in counts.items()))
    logger.info("pictures: %s", output / "contact_sheet.png")
    return dataclasses.replace(result, root=output)


def _masks(
    config: GenerateConfig, generator: Generator, tasks: list[Chunk], fingerprint: dict[str, Any]
) -> list[dict[str, Any]]:
    output = Path(config.output_dir)
    run = RunFolder(output, DATA_SET, fingerprint)
    if run.is_finished():
        logger.info("%s holds these masks, finished", output)
        return masks.read_rows(tasks, output)
    with run.staged(keep_partial=True) as folder:
        run_pending(tasks, folder, lambda task: masks.run_chunk(generator, task, folder), "mask")
        rows = masks.gather(generator.card, tasks, folder, fingerprint)
    logger.info("images: %d; samples of each: %d", len(rows), rows[0]["samples"])
    if rows[0]["samples"] > 1:
        logger.info("Dice between samples of one image: %.3f", float(np.mean([row["agreement"] for row in rows])))
    logger.info("masks: %s; pictures: %s", output / "masks", output / "contact_sheet.png")
    return rows


def settle(config: GenerateConfig) -> GenerateConfig:
    """`config` with what depends on the rest settled: mode, number of samples, chunk size, precision."""
    mode, samples, chunk = config.settled_mode, config.num_samples_per_input, config.chunk_size
    if samples is None:
        samples = {"image_to_mask": 8, "mask_to_image": 1, "inpaint": 1, "remove": 1}.get(mode)
    if chunk is None:
        chunk = chunk_size_on(choose_device(config.device))
    return settle_precision(dataclasses.replace(config, mode=mode, num_samples_per_input=samples, chunk_size=chunk))


def _fingerprint(
    config: GenerateConfig, generator: Generator, classes: list[str], inputs: list[ConditioningInput] | None
) -> dict[str, Any]:
    """What decides the content of the folder."""
    task = config.mode
    assert task is not None
    left_out = (*NOT_IN_FINGERPRINT, *OF_GENERATORS, *UNUSED.get(task, ()))
    found = fingerprint_of(config, "generate", left_out) | generator.settings(task)
    found |= {"checkpoint_sha256": generator.card.digest}
    if config.region is not None:
        found["region"] = config.region
    if config.modality is not None:
        found["modality"] = config.modality
    return found | ({"classes": classes} if classes else {}) | ({} if inputs is None else {"inputs": _digest(inputs)})


def _asked_digest(tasks: list[Chunk]) -> dict[str, str]:
    """Of the attributes that are asked for, where any are: other folders are known by what they were known by."""
    items = [item for task in tasks for item in task.items]
    asked = [(item.request.id, sorted(asked_of(item).items()), item.request.conditions.get("text")) for item in items]
    avoided = {name: value for item in items for name, value in item.request.avoided.items()}
    if not avoided and not any(values or text for _, values, text in asked):
        return {}
    said = repr(asked) + (repr(sorted(avoided.items())) if avoided else "")
    return {"attributes": _short(said)}


def _requests_digest(tasks: list[Chunk]) -> dict[str, str]:
    """Of all that a table of requests asks for."""
    rows = [(r.id, r.seed, sorted(r.conditions.items())) for task in tasks for r in task.requests]
    return {"requests": _short(repr(rows))}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(inputs: list[ConditioningInput]) -> str:
    """What was given, whatever folder it lies in."""
    rows = sorted(f"{g.id} {g.label} {g.group} {g.hash} {g.pixel_aspect}\n" for g in inputs)
    return _short("".join(rows))
