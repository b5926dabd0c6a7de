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
from medsegdiff.engine.files import DATASET_FILE
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import TASKS, Generator, GeneratorCard, load_generator
from medsegdiff.synthesis import masks, samples
from medsegdiff.synthesis.config import OF_GENERATORS, GenerateConfig
from medsegdiff.synthesis.inputs import ConditioningInput, read_inputs
from medsegdiff.synthesis.plan import (
    Chunk,
    batched,
    chunk_size_on,
    pair_item,
    plan_images,
    plan_inpainting,
    plan_masks,
    plan_pairs,
    run_pending,
)
from medsegdiff.synthesis.prompts import Wish, read_prompt
from medsegdiff.synthesis.requests import (
    Ranges,
    asked_of,
    check_ranges,
    modality_of,
    parse_ranges,
    read_requests,
    with_attributes,
)

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
    fingerprint = _fingerprint(config, generator, classes, inputs) | _asked_digest(tasks)
    if config.mode == "image_to_mask":
        return _masks(config, generator, tasks, fingerprint)
    return _samples(config, generator, classes, tasks, fingerprint)


def plan(config: GenerateConfig, card: GeneratorCard) -> tuple[list[str], list[Chunk], list[ConditioningInput] | None]:
    """Classes, chunks, and the pictures that are given where any are."""
    assert config.mode is not None and config.chunk_size is not None  # noqa: PT018
    if config.mode == "image_to_mask":
        inputs = read_inputs(Path(str(config.images)), "images", card.img_size, config.split, card.classes, card.arrays)
        return [], plan_masks(inputs, config.num_samples_per_input or 1, config.chunk_size, config.seed), inputs
    classes = config.classes or card.classes
    unknown = [c for c in classes if c not in card.classes]
    known = f"classes of the checkpoint, with blanks between them: {' '.join(card.classes)}"
    require(not unknown, "--classes", " ".join(map(repr, unknown)), known)
    size, seed = config.chunk_size, config.seed
    if config.requests is not None:
        return _plan_requests(config, card)
    if config.modality is not None:
        modality_of(card, config.modality)
    wish = Wish(None, {}) if config.prompt is None else read_prompt(config.prompt, card)
    if wish.label is not None:
        fits = config.classes in (None, [wish.label])
        require(fits, "--classes", " ".join(classes), f"{wish.label}, as --prompt says", "Leave it out.")
        classes = [wish.label]
    numbers = parse_ranges(config.attributes or [])
    check_ranges(card, numbers)
    ranges = {**wish.ranges, **numbers}
    if config.mode in ("joint", "mask_first", "text_to_image"):
        counts = config.num_samples_per_class, size, seed
        return classes, _asked(plan_pairs(config.mode, classes, card.classes, *counts), ranges, config, card), None
    if config.mode == "inpaint":
        return _plan_inpainting(config, card, classes, ranges)
    inputs = _masks_to_use(config, card)
    sampled = {g.label for g in inputs}
    classes = classes if None in sampled else [c for c in card.classes if c in sampled]
    chunks = plan_images(inputs, classes, card.classes, config.num_samples_per_input or 1, size, seed)
    return classes, _asked(chunks, ranges, config, card), inputs


def _plan_inpainting(
    config: GenerateConfig, card: GeneratorCard, classes: list[str], ranges: Ranges
) -> tuple[list[str], list[Chunk], list[ConditioningInput]]:
    """Pairs of pictures that lesions are put into; of a sample folder those of the train split unless set."""
    assert config.chunk_size is not None
    empty = [c for c in classes if c not in card.lesion_classes]
    if config.classes is None:
        classes = card.lesion_classes
    else:
        require(not empty, "--classes", ", ".join(empty), f"classes with lesions: {', '.join(card.lesion_classes)}")
    folder, split = Path(str(config.images)), config.split
    if split is None and (folder / DATASET_FILE).is_file():
        split = "train"
    if split in ("val", "test"):
        logger.warning("lesions in pictures of %s: to look at and to measure; combine will refuse them", split)
    inputs = read_inputs(folder, "images", card.img_size, split, card.classes, card.arrays)
    masks = []
    if config.masks is not None:
        masks = read_inputs(Path(config.masks), "masks", card.img_size, None, card.classes, card.arrays)
        missing = sorted({image.id for image in inputs} - {mask.id for mask in masks})
        found = f"no mask of the name {missing[0]}" if missing else ""
        expected = "one mask, or one of the name of each image"
        require(len(masks) == 1 or not missing, f"--masks {config.masks}", found, expected)
    size, seed, samples = config.chunk_size, config.seed, config.num_samples_per_input or 1
    chunks = plan_inpainting(inputs, masks, config.region, classes, card.classes, samples, size, seed)
    return classes, _asked(chunks, ranges, config, card), [*inputs, *masks]


def _asked(chunks: list[Chunk], ranges: Ranges, config: GenerateConfig, card: GeneratorCard) -> list[Chunk]:
    """Chunks of which every item is asked for with a value of each range."""
    said = {"text": config.prompt or "", "modality": config.modality or ""}
    return [Chunk(c.name, tuple(with_attributes(item, ranges, card, **said) for item in c.items)) for c in chunks]


def _plan_requests(config: GenerateConfig, card: GeneratorCard) -> tuple[list[str], list[Chunk], None]:
    """A pair for each row of the table; rows without a class have the classes in turn."""
    assert config.mode is not None and config.chunk_size is not None and config.requests is not None  # noqa: PT018
    items = []
    for number, row in enumerate(read_requests(Path(config.requests), card)):
        where = f"{config.requests} row {number + 2} column prompt"
        if row.modality:
            modality_of(card, row.modality, f"{config.requests} row {number + 2} column modality")
        wish = read_prompt(row.prompt, card, where) if row.prompt else Wish(None, {})
        fits = None in (row.label, wish.label) or row.label == wish.label
        require(fits, where, f"a wish for {wish.label}", f"{row.label}, as its column label says")
        label = row.label or wish.label or card.classes[number % len(card.classes)]
        item = pair_item(config.mode, label, card.classes, number, config.seed)
        said = {"text": row.prompt, "modality": row.modality or config.modality or ""}
        items.append(with_attributes(item, {**wish.ranges, **row.ranges}, card, **said))
    chunks = [Chunk(f"requests_{n:05d}", some) for n, some in enumerate(batched(items, config.chunk_size))]
    return [c for c in card.classes if any(item.label == c for item in items)], chunks, None


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
        samples = {"image_to_mask": 8, "mask_to_image": 1, "inpaint": 1}.get(mode)
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
    if not any(values or text for _, values, text in asked):
        return {}
    return {"attributes": hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}


def _digest(inputs: list[ConditioningInput]) -> str:
    """What was given, whatever folder it lies in."""
    rows = sorted(f"{g.id} {g.label} {g.group} {g.hash} {g.pixel_aspect}\n" for g in inputs)
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


def _masks_to_use(config: GenerateConfig, card: GeneratorCard) -> list[ConditioningInput]:
    """The conditioning masks; of a sample folder those of the train split unless set, since images of held-out masks
    leak."""
    folder = Path(str(config.masks))
    split = config.split
    if split is None and (folder / DATASET_FILE).is_file():
        split = "train"
    if split in ("val", "test"):
        logger.warning("images for masks of %s: to look at and to measure; combine will refuse them", split)
    inputs = read_inputs(folder, "masks", card.img_size, split, card.classes, card.arrays)
    if config.classes is not None:
        inputs = [g for g in inputs if g.label is None or g.label in config.classes]
        require(bool(inputs), "--classes", f"no mask of {', '.join(config.classes)} in {folder}", "masks of that class")
    for g in inputs:
        where = folder / g.file
        if g.label is None and not config.classes:
            known = ", ".join(card.classes)
            hint = f"Put masks into folders {known}, or name one with --classes."
            raise UserError(where, "a mask whose class nobody gave", f"one of {known}", hint)
        labels = config.classes or [] if g.label is None else [g.label]
        for label in labels:
            require(label in card.classes, str(where), f"class {label}", f"one of {', '.join(card.classes)}")
            lesion = bool((g.picture > 127).any())
            if label in card.lesion_classes:
                require(lesion, str(where), "a mask that is empty at this size", "a lesion", "Leave it out.")
            else:
                require(not lesion, str(where), f"a lesion in class {label}", "an empty mask", "Choose --classes.")
    return inputs
