"""Sampling chunks of pairs, with degenerate masks sampled again, and gathering them into samples."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.data.arrays import BINARY
from medsegdiff.data.attributes import measure_pair
from medsegdiff.data.dataset import from_channels
from medsegdiff.data.pictures import contact_sheet, spread
from medsegdiff.data.records import SampleRecord, SampleSet, class_counts, write_sample, write_samples
from medsegdiff.engine.files import read_json, write_json, write_png
from medsegdiff.errors import UserError
from medsegdiff.generators.base import Arrays, Generator, GeneratorCard
from medsegdiff.synthesis.plan import Chunk, record_file
from medsegdiff.synthesis.quality_filters import label_map_fault, mask_fault
from medsegdiff.synthesis.requests import asked_of, aspect_of, write_obtained

logger = logging.getLogger(__name__)

CHANGING = ("inpaint", "remove")  # tasks that change a given picture
SHEET_PER_CLASS = 32
SHEET_MASKS, SHEET_SAMPLES, SHEET_COLUMNS = 12, 7, 8  # conditioning masks, images beside each, pictures a row


def run_chunk(generator: Generator, task: Chunk, folder: Path, max_redraws: int) -> None:
    """Sample a chunk, write its pairs and then, as the sign that it is finished, its record."""
    sampled, faults = sample_chunk(generator, task, max_redraws)
    records = []
    for item, arrays in zip(task.items, sampled, strict=True):
        aspect = aspect_of(generator.card, item)  # of the picture, and of a pixel: pictures are square
        records.append(
            write_sample(
                folder, arrays["image"], arrays.get("mask"), id=item.request.id, label=item.label, split="train",
                group=item.request.id if item.conditioning_input is None else item.conditioning_input.group,
                source=f"synthetic:{generator.card.digest}", pixel_aspect=aspect,
                generator=generator.card.digest,
                derived_from="" if item.conditioning_input is None else item.conditioning_input.id,
                attributes=measure_pair(arrays["image"], arrays.get("mask"), generator.card.arrays, aspect),
                text=str(item.request.conditions.get("text", "")),
                modality=str(item.request.conditions.get("modality", "")),
            )
        )  # fmt: skip
    value = {"records": [dataclasses.asdict(r) for r in records], "faults": {k: dict(v) for k, v in faults.items()}}
    write_json(record_file(task, folder), value)


def _fault(card: GeneratorCard, label: str, mask: np.ndarray) -> str | None:
    """Why a sampled (S, S) mask of pixel values is refused, or None."""
    index = card.arrays.index_map(mask)
    if card.arrays.is_binary:
        return mask_fault(index, label in card.lesion_classes)
    shares = {name: float((index == k).mean()) for k, name in enumerate(card.arrays.foreground, start=1)}
    return label_map_fault(shares, card.always_shown.get(label, {}))


def sample_chunk(generator: Generator, task: Chunk, max_redraws: int) -> tuple[list[Arrays], dict[str, Counter[str]]]:
    """Arrays of each item of a chunk, and by class how many masks were refused, by reason.

    An item keeps the first of its attempts 0, 1, ... whose mask passes, so what it becomes does not depend on the chunk
    that it stands in. Conditioning masks are not checked. Raises `UserError` where `max_redraws` further ones do not
    do.
    """
    found: dict[int, Arrays] = {}
    faults: dict[str, Counter[str]] = {item.label: Counter() for item in task.items}
    for attempt in range(max_redraws + 1):
        gaps = [number for number in range(len(task.items)) if number not in found]
        if not gaps:
            break
        sampled = generator.sample([task.items[gap].request for gap in gaps], attempt)
        for gap, arrays in zip(gaps, sampled, strict=True):
            item = task.items[gap]
            given = "mask" in item.request.given or "mask" not in arrays
            fault = None if given else _fault(generator.card, item.label, arrays["mask"])
            if fault is None:
                found[gap] = arrays
            else:
                faults[item.label][fault] += 1
    if len(found) < len(task.items):
        counts = ", ".join(f"{label}: {n} {fault}" for label, c in faults.items() for fault, n in c.items())
        raise UserError(
            f"chunk {task.name}",
            f"{len(task.items) - len(found)} of {len(task.items)} masks degenerate after {max_redraws} redraws "
            f"({counts})",
            "lesion masks" if generator.card.arrays.is_binary else "label maps with every class that is always there",
            "Raise --max_redraws, train longer, or lower --guidance.",
        )
    return [found[number] for number in range(len(task.items))], faults


def gather(
    card: GeneratorCard, tasks: list[Chunk], folder: Path, classes: list[str], fingerprint: dict[str, Any]
) -> SampleSet:
    """Turn the records of all chunks into metadata; also writes class_balance.json and contact_sheet.png."""
    chunks = [read_json(record_file(t, folder)) for t in tasks]
    records = [SampleRecord(**row) for chunk in chunks for row in chunk["records"]]
    redrawn: dict[str, Counter[str]] = {c: Counter() for c in classes}
    for chunk in chunks:
        for label, counts in chunk["faults"].items():
            redrawn[label].update(counts)
    items = [item for task in tasks for item in task.items]
    given: dict[str, list[str]] = {"conditioning_masks": [], "inpainted_images": []}
    for item in items:
        name = "inpainted_images" if item.request.task in CHANGING else "conditioning_masks"
        given[name] += [] if item.conditioning_input is None else [item.conditioning_input.hash]
        given["conditioning_masks"] += [] if item.mask is None else [item.mask.hash]
    info: dict[str, Any] = {name: sorted(set(hashes)) for name, hashes in given.items() if hashes}
    pairs = write_samples(
        folder,
        records,
        classes=classes,
        fingerprint=fingerprint,
        arrays=card.arrays,
        checkpoint=card.provenance,
        masks_redrawn={label: dict(counts) for label, counts in redrawn.items()},
        **info,
    )
    balance = {"generated": class_counts(records)["train"], "masks_redrawn": redrawn}
    write_json(folder / "class_balance.json", balance)
    if any(asked_of(item) for item in items):
        for line in write_obtained(folder, items, records):
            logger.info("%s", line)
    write_png(folder / "contact_sheet.png", _input_sheet(tasks, pairs) if info else _sheet(pairs))
    return pairs


def _sheet(pairs: SampleSet) -> np.ndarray:
    """The first pairs of each class."""
    chosen = [r for label in pairs.classes for r in pairs.select(label=label).records[:SHEET_PER_CLASS]]
    images, masks = zip(*[_in_proportion(pairs, r) for r in chosen], strict=True)
    return contact_sheet(images, masks, [r.label for r in chosen], spec=pairs.arrays)


def _in_proportion(pairs: SampleSet, record: SampleRecord) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask, if any, of a pair in their true proportions: resized to a square, a wide lesion looks tall."""
    size = (max(1, round(record.width * record.pixel_aspect)), record.height)
    image = cv2.resize(pairs.read_image(record), size, interpolation=cv2.INTER_LINEAR)
    if not record.mask_file_name:
        return image, None
    how = cv2.INTER_LINEAR if _white(pairs) else cv2.INTER_NEAREST  # numbers of classes do not mix
    return image, cv2.resize(pairs.read_mask(record), size, interpolation=how)


def _white(pairs: SampleSet) -> bool:
    """Whether masks are white lesions on black, and no label maps."""
    return pairs.arrays.mask_values == BINARY


def _input_sheet(tasks: list[Chunk], pairs: SampleSet) -> np.ndarray:
    """Some conditioning inputs, spread over all: each mask or image, then what was sampled for it."""
    names: dict[str, list[str]] = {}
    sources: dict[str, np.ndarray] = {}  # of inpainting
    for task in tasks:
        for item in task.items:
            assert item.conditioning_input is not None
            if item.request.task in CHANGING:
                image = from_channels(item.conditioning_input.picture)
                sources[f"{item.conditioning_input.id} {item.label}"] = image
            names.setdefault(f"{item.conditioning_input.id} {item.label}", []).append(item.request.id)
    rows = spread(list(names.items()), SHEET_MASKS)
    by_id = {r.id: r for r in pairs.records}
    width = min(SHEET_SAMPLES, max(len(sampled) for _, sampled in rows))
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    titles: list[str] = []
    for title, sampled in rows:
        records = [by_id[name] for name in sampled[:width]]
        shown = [_in_proportion(pairs, r) for r in records]
        # The mask alone: that of a lesion, whose edge shows on black, or the outlines of all classes on grey
        assert shown[0][1] is not None  # conditioning masks, and images that lesions are put into
        first = np.maximum(shown[0][1], 48) if _white(pairs) else np.full(shown[0][1].shape, 96, np.uint8)
        beside = None if _white(pairs) else shown[0][1]
        if title in sources:
            height, width_shown = shown[0][0].shape[:2]
            first, beside = cv2.resize(sources[title], (width_shown, height), interpolation=cv2.INTER_LINEAR), None
        images += [first, *[image for image, _ in shown]]
        masks += [beside, *[mask for _, mask in shown]]
        titles += [title, *[f"sample {n}" for n in range(len(records))]]
    masks_a_row = max(1, SHEET_COLUMNS // (width + 1))
    return contact_sheet(images, masks, titles, columns=masks_a_row * (width + 1), spec=pairs.arrays)
