"""From the settings of `generate` to what is sampled: classes, chunks of items, and the pictures that are given."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from medsegdiff.engine.files import DATASET_FILE
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import GeneratorCard, Value, parse_weights
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.inputs import ConditioningInput, read_inputs
from medsegdiff.synthesis.plan import (
    HEALTHY,
    Chunk,
    Item,
    batched,
    pair_item,
    plan_images,
    plan_inpainting,
    plan_masks,
    plan_pairs,
    plan_removal,
)
from medsegdiff.synthesis.prompts import Wish, read_prompt
from medsegdiff.synthesis.requests import (
    Ranges,
    check_ranges,
    modality_of,
    parse_ranges,
    read_requests,
    with_attributes,
)

logger = logging.getLogger(__name__)


def plan(config: GenerateConfig, card: GeneratorCard) -> tuple[list[str], list[Chunk], list[ConditioningInput] | None]:
    """Classes, chunks, and the pictures that are given where any are."""
    assert config.mode is not None and config.chunk_size is not None  # noqa: PT018
    if config.mode == "image_to_mask":
        inputs = read_inputs(Path(str(config.images)), "images", card.img_size, config.split, card.classes, card.arrays)
        chunks = plan_masks(inputs, config.num_samples_per_input or 1, config.chunk_size, config.seed)
        wish, ranges = _wish(config, card)
        return [], _asked(chunks, ranges, config, card, wish.label), inputs
    if config.mode == "remove":
        return _plan_removal(config, card)
    classes = config.classes or card.classes
    unknown = [c for c in classes if c not in card.classes]
    known = f"classes of the checkpoint, with blanks between them: {' '.join(card.classes)}"
    require(not unknown, "--classes", " ".join(map(repr, unknown)), known)
    size, seed = config.chunk_size, config.seed
    if config.requests is not None:
        return _plan_requests(config, card)
    wish, ranges = _wish(config, card)
    if wish.label is not None:
        fits = config.classes in (None, [wish.label])
        require(fits, "--classes", " ".join(classes), f"{wish.label}, as --prompt says", "Leave it out.")
        classes = [wish.label]
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


def _wish(config: GenerateConfig, card: GeneratorCard) -> tuple[Wish, Ranges]:
    """What the prompt asks for, and ranges of attributes by it and by numbers, which go before words."""
    if config.modality is not None:
        modality_of(card, config.modality)
    wish = Wish(None, {}) if config.prompt is None else read_prompt(config.prompt, card)
    numbers = parse_ranges(config.attributes or [])
    check_ranges(card, numbers)
    return wish, {**wish.ranges, **numbers}


def _avoided(config: GenerateConfig, card: GeneratorCard) -> Mapping[str, Value]:
    """Conditions that the negative prompt names. Raises `UserError` where nothing steers away from them."""
    if config.negative_prompt is None:
        return {}
    wish = read_prompt(config.negative_prompt, card, "--negative_prompt")
    middles = {name: (low + high) / 2 for name, (low, high) in wish.ranges.items()}
    found: dict[str, Value] = {"label": wish.label} if wish.label is not None else {}
    found |= {"attributes": middles} if middles else {}
    texts = [c["name"] for c in card.conditions if c["kind"] == "text"]
    found |= {"text": config.negative_prompt} if texts else {}
    weights = {"label": config.guidance or 1.0, **parse_weights(config.condition_guidance)}
    for name in [texts[0] if name == "text" else name for name in found]:
        flag = "--guidance" if name == "label" else f"--condition_guidance {name}=2"
        idle = f"words about {name}, from which nothing steers away"
        require(weights.get(name, 1.0) != 1, "--negative_prompt", idle, flag, f"Add {flag}.")
    return found


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
    inputs, masks = _pictures_to_change(config, card), []
    if config.masks is not None:
        masks = read_inputs(Path(config.masks), "masks", card.img_size, None, card.classes, card.arrays)
        missing = sorted({image.id for image in inputs} - {mask.id for mask in masks})
        found = f"no mask of the name {missing[0]}" if missing else ""
        expected = "one mask, or one of the name of each image"
        require(len(masks) == 1 or not missing, f"--masks {config.masks}", found, expected)
    size, seed, samples = config.chunk_size, config.seed, config.num_samples_per_input or 1
    chunks = plan_inpainting(inputs, masks, config.region, classes, card.classes, samples, size, seed)
    return classes, _asked(chunks, ranges, config, card), [*inputs, *masks]


def _plan_removal(
    config: GenerateConfig, card: GeneratorCard
) -> tuple[list[str], list[Chunk], list[ConditioningInput]]:
    """Pictures that the lesion of their mask is taken out of; masks are those of the same folder unless set."""
    assert config.chunk_size is not None
    folder = Path(config.masks or str(config.images))
    masks = read_inputs(folder, "masks", card.img_size, None, card.classes, card.arrays)
    by_id = {mask.id: mask for mask in masks}
    inputs = _pictures_to_change(config, card)
    missing = [image.id for image in inputs if image.id not in by_id]
    found = f"no mask of the name {missing[0]}" if missing else ""
    require(not missing, f"--masks {folder}", found, "a mask of each image, which says where its lesion is")
    inputs = [image for image in inputs if (by_id[image.id].picture > 127).any()]
    require(bool(inputs), str(folder), "empty masks alone", "lesions to take out")
    healthy = [name for name in card.classes if name not in card.lesion_classes]
    size, seed, samples = config.chunk_size, config.seed, config.num_samples_per_input or 1
    label = healthy[0] if healthy else None
    chunks = plan_removal(inputs, masks, label, card.classes, samples, size, seed)
    used = [*inputs, *(by_id[image.id] for image in inputs)]
    return [label or HEALTHY], _asked(chunks, {}, config, card), used


def _pictures_to_change(config: GenerateConfig, card: GeneratorCard) -> list[ConditioningInput]:
    """The images that are given; of a sample folder those of the train split unless set, since others would leak."""
    folder, split = Path(str(config.images)), config.split
    if split is None and (folder / DATASET_FILE).is_file():
        split = "train"
    if split in ("val", "test"):
        logger.warning("changed pictures of %s: to look at and to measure; combine will refuse them", split)
    return read_inputs(folder, "images", card.img_size, split, card.classes, card.arrays)


def _asked(
    chunks: list[Chunk], ranges: Ranges, config: GenerateConfig, card: GeneratorCard, label: str | None = None
) -> list[Chunk]:
    """Chunks of which every item is asked for with a value of each range, and with the class where one is given."""
    said = {"text": config.prompt or "", "modality": config.modality or ""}
    avoided = _avoided(config, card)

    def asked(item: Item) -> Item:
        conditions = {**item.request.conditions, **({} if label is None else {"label": label})}
        request = dataclasses.replace(item.request, conditions=conditions, avoided=avoided)
        return with_attributes(dataclasses.replace(item, request=request), ranges, card, **said)

    return [Chunk(c.name, tuple(map(asked, c.items))) for c in chunks]


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
        if row.noise is not None:  # in the place of the class a number that none has: classes share it
            key = (*item.request.seed[:2], len(card.classes), row.noise)
            item = dataclasses.replace(item, request=dataclasses.replace(item.request, seed=key))
        said = {"text": row.prompt, "modality": row.modality or config.modality or ""}
        items.append(with_attributes(item, {**wish.ranges, **row.ranges}, card, **said))
    chunks = [Chunk(f"requests_{n:05d}", some) for n, some in enumerate(batched(items, config.chunk_size))]
    return [c for c in card.classes if any(item.label == c for item in items)], chunks, None


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
