"""Phase 3: draw class-balanced synthetic pairs in chunks of fixed size; what an interrupted run finished is kept.

A chunk is the unit of chance: its pairs depend on (seed, class, chunk) and the settings, redraws included, not on how
many pairs are asked for or on how often the run was stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsegdiff.checkpoint import ModelCard, load_checkpoint
from medsegdiff.config import GenerateConfig, identity_of, require, require_positive
from medsegdiff.data.pictures import balance_table, contact_sheet
from medsegdiff.data.records import SYNTHETIC, PairRecord, PairSet, class_counts, read_pairs, write_pair, write_pairs
from medsegdiff.data.transforms import generator
from medsegdiff.diffusion.denoiser import Denoiser
from medsegdiff.diffusion.noise import sigma_table
from medsegdiff.errors import UserError
from medsegdiff.files import is_finished, read_json, staged_folder, write_json, write_png
from medsegdiff.generation.draw import draw_pairs
from medsegdiff.generation.gates import mask_fault
from medsegdiff.training.loop import autocast, choose_device

logger = logging.getLogger(__name__)

SAMPLE, ASPECT = 21, 22  # purpose numbers of the random streams
CHUNKS = "chunks"
SHEET_PER_CLASS = 32


@dataclass(frozen=True)
class Chunk:
    """One task: `count` pairs of a class, drawn together."""

    label: str
    number: int
    count: int  # pairs to keep; the batch is always `chunk_size` pairs, the rest is thrown away

    @property
    def name(self) -> str:
        """File name of its record, without ending."""
        return f"{self.label}_{self.number:05d}"


@dataclass(frozen=True)
class Source:
    """What a chunk is drawn from."""

    config: GenerateConfig
    denoiser: Denoiser
    card: ModelCard
    digest: str  # of the checkpoint file


def generate(config: GenerateConfig) -> PairSet:
    """Draw `num_samples_per_class` pairs of each class into a new PAIRS folder.

    Also writes class_balance.json and contact_sheet.png there. Raises `UserError` for settings that do not fit the
    checkpoint, and where a lesion class keeps giving degenerate masks after `max_redraws` rounds.
    """
    _check_settings(config)
    denoiser, card, digest = load_checkpoint(Path(config.checkpoint_path))
    classes = config.classes or card.classes
    unknown = [c for c in classes if c not in card.classes]
    require(not unknown, "--classes", ", ".join(unknown), f"classes of the checkpoint: {', '.join(card.classes)}")
    device = choose_device(config.device)
    source = Source(config, denoiser.to(device), card, digest)
    identity = identity_of(config, "generate", ("checkpoint_path", "output_dir", "device", "max_redraws"))
    identity |= {"classes": classes, "checkpoint_sha256": digest}
    if is_finished(Path(config.output_dir), identity):
        logger.info("%s holds these pairs, finished", config.output_dir)
        return read_pairs(Path(config.output_dir))
    tasks = plan(classes, config.num_samples_per_class, config.chunk_size)
    with staged_folder(Path(config.output_dir), identity, keep_partial=True) as folder:
        (folder / CHUNKS).mkdir(exist_ok=True)
        todo = pending(tasks, folder)
        total, left = (sum(t.count for t in some) for some in (tasks, todo))
        bar = tqdm(total=total, initial=total - left, desc="drawing", unit="pair")
        for task in todo:
            run_chunk(source, task, folder)
            bar.update(task.count)
        bar.close()
        result = _finish(source, tasks, folder, classes, identity)
    return dataclasses.replace(result, root=Path(config.output_dir))


def plan(classes: list[str], per_class: int, chunk_size: int) -> list[Chunk]:
    """All chunks, from the settings alone."""
    return [
        Chunk(label, number, min(chunk_size, per_class - number * chunk_size))
        for label in classes
        for number in range(math.ceil(per_class / chunk_size))
    ]


def pending(tasks: list[Chunk], folder: Path) -> list[Chunk]:
    """The chunks whose record is not written yet."""
    return [t for t in tasks if not (folder / CHUNKS / f"{t.name}.json").is_file()]


def run_chunk(source: Source, task: Chunk, folder: Path) -> None:
    """Draw a chunk, write its pairs and then, as the sign that it is finished, its record."""
    images, masks, faults = _draw_chunk(source, task)
    config, card = source.config, source.card
    random = generator(config.seed, card.classes.index(task.label), task.number, ASPECT)
    aspects = card.aspects[task.label]
    choice = torch.randint(len(aspects), (config.chunk_size,), generator=random).tolist()
    records = []
    for slot in range(task.count):
        name = f"syn_{task.label}_{task.number * config.chunk_size + slot:06d}"
        records.append(
            write_pair(
                folder, images[slot], masks[slot], id=name, label=task.label, split="train", group=name,
                source=f"{SYNTHETIC}{source.digest}", pixel_aspect=aspects[choice[slot]],
            )
        )  # fmt: skip
    value = {"records": [dataclasses.asdict(r) for r in records], "faults": dict(faults)}
    write_json(folder / CHUNKS / f"{task.name}.json", value)


def _draw_chunk(source: Source, task: Chunk) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """(count, S, S) images and masks of a chunk, and how many masks were refused, by reason.

    A redraw round draws a whole fresh batch and fills the gaps of earlier ones in order.
    """
    has_lesion = task.label in source.card.lesion_classes
    size = source.card.img_size
    images = np.zeros((task.count, size, size), np.uint8)
    masks = np.zeros_like(images)
    gaps, faults = list(range(task.count)), Counter[str]()
    for attempt in range(source.config.max_redraws + 1):
        drawn_images, drawn_masks = _draw_batch(source, task, attempt)
        for slot in gaps if attempt == 0 else range(len(drawn_masks)):
            if not gaps:
                break
            fault = mask_fault(drawn_masks[slot], has_lesion)
            if fault is not None:
                faults[fault] += 1
                continue
            target = slot if attempt == 0 else gaps[0]
            images[target], masks[target] = drawn_images[slot], drawn_masks[slot]
            gaps = [g for g in gaps if g != target]
        if not gaps:
            return images, masks, faults
    raise UserError(
        f"class {task.label}",
        f"{len(gaps)} of {task.count} masks degenerate after {source.config.max_redraws} redraws ({dict(faults)})",
        "lesion masks",
        "Train longer, or lower --guidance.",
    )


def _draw_batch(source: Source, task: Chunk, attempt: int) -> tuple[np.ndarray, np.ndarray]:
    config, card = source.config, source.card
    label = card.classes.index(task.label)
    shape = (config.chunk_size, len(card.codec.mean), card.img_size, card.img_size)

    def noise(step: int) -> Tensor:
        return torch.randn(shape, generator=generator(config.seed, label, task.number, attempt, step, SAMPLE))

    with autocast(source.denoiser.modality.device, config.precision):
        images, masks = draw_pairs(
            source.denoiser,
            card.codec,
            torch.full((config.chunk_size,), label),
            sigma_table("joint", card.diffusion, config.steps),
            noise,
            sampler=config.sampler,
            guidance=config.guidance,
            interval=(config.guidance_low, config.guidance_high),
        )
    return images[:, 0].numpy(), masks[:, 0].numpy()


def _finish(source: Source, tasks: list[Chunk], folder: Path, classes: list[str], identity: dict[str, Any]) -> PairSet:
    """Gather the chunks into metadata, and tell the balance in words, as JSON and as a picture."""
    chunks = [read_json(folder / CHUNKS / f"{t.name}.json") for t in tasks]
    records = [PairRecord(**row) for chunk in chunks for row in chunk["records"]]
    redrawn: dict[str, Counter[str]] = {c: Counter() for c in classes}
    for task, chunk in zip(tasks, chunks, strict=True):
        redrawn[task.label].update(chunk["faults"])
    card = source.card
    pairs = write_pairs(
        folder,
        records,
        classes=classes,
        identity=identity,
        checkpoint={"sha256": source.digest, "step": card.step, "train_hashes": card.train_hashes},
        masks_redrawn={label: dict(counts) for label, counts in redrawn.items()},
    )
    counts = class_counts(records)
    write_json(folder / "class_balance.json", {"generated": counts["train"], "masks_redrawn": redrawn})
    chosen = [r for label in classes for r in pairs.select(label=label).records[:SHEET_PER_CLASS]]
    sheet = contact_sheet(
        [pairs.read_image(r) for r in chosen], [pairs.read_mask(r) for r in chosen], [r.label for r in chosen]
    )
    write_png(folder / "contact_sheet.png", sheet)
    logger.info("%s", balance_table(counts))
    for label in classes:
        if redrawn[label]:
            logger.info("%s: masks drawn again: %s", label, dict(redrawn[label]))
    logger.info("pictures: %s", Path(source.config.output_dir) / "contact_sheet.png")
    return pairs


def _check_settings(config: GenerateConfig) -> None:
    require_positive(num_samples_per_class=config.num_samples_per_class, chunk_size=config.chunk_size)
    require(config.steps >= 2, "--steps", config.steps, "2 or more")
    require(config.seed >= 0, "--seed", config.seed, "0 or more")
    chosen = config.classes or []
    require(len(set(chosen)) == len(chosen), "--classes", " ".join(chosen), "each class once")
    require(config.max_redraws >= 0, "--max_redraws", config.max_redraws, "0 or more")
    require(config.guidance >= 0, "--guidance", config.guidance, "0 or more")
    require(
        config.guidance_low < config.guidance_high,
        "--guidance_low",
        config.guidance_low,
        f"less than --guidance_high {config.guidance_high}",
    )
