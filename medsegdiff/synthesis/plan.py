"""What there is to sample, as a plan from the settings and the conditioning pictures alone, and which of it is left to
do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from medsegdiff.engine.progress import progress_bar
from medsegdiff.generators.base import TASKS, Request, Task
from medsegdiff.synthesis.inputs import ConditioningInput

T = TypeVar("T")

HEALTHY = "normal"  # class of a picture whose lesion was removed
CHUNKS = "chunks"  # folder of the records of finished chunks
ON_CPU, ELSEWHERE = 8, 50  # samples of a chunk. Batches are padded: large ones are dear where few are asked for


@dataclass(frozen=True)
class Item:
    """One sample, and the picture that it is made for."""

    request: Request
    conditioning_input: ConditioningInput | None = None
    mask: ConditioningInput | None = None  # of the lesion that is put into that picture, where one is given

    @property
    def label(self) -> str:
        """Class; "" where none is asked for, and where a lesion is removed `HEALTHY` unless the generator knows it."""
        return str(self.request.conditions.get("label", HEALTHY if self.request.task == "remove" else ""))


@dataclass(frozen=True)
class Chunk:
    """One task: items that are sampled together. Its record is written last, as the sign that it is finished."""

    name: str  # of its record, without ending
    items: tuple[Item, ...]

    @property
    def requests(self) -> list[Request]:
        """What the generator is asked for."""
        return [item.request for item in self.items]


def chunk_size_on(device: torch.device) -> int:
    """How many samples are computed together where nothing is set."""
    return ON_CPU if device.type == "cpu" else ELSEWHERE


def plan_pairs(
    task: Task, classes: list[str], known: list[str], per_class: int, chunk_size: int, seed: int
) -> list[Chunk]:
    """`per_class` new pairs of each of `classes`; `known` are the classes in the order of the generator."""
    chunks = []
    for label in classes:
        items = [pair_item(task, label, known, number, seed) for number in range(per_class)]
        chunks += [Chunk(f"{label}_{n:05d}", some) for n, some in enumerate(batched(items, chunk_size))]
    return chunks


def pair_item(task: Task, label: str, known: list[str], number: int, seed: int) -> Item:
    """New pair `number` of a class; `known` are the classes in the order of the generator."""
    key = (seed, TASKS.index(task), known.index(label), number)
    return Item(Request(f"syn_{label}_{number:06d}", task, key, {"label": label}, {}))


def plan_images(
    inputs: list[ConditioningInput], classes: list[str], known: list[str], samples: int, chunk_size: int, seed: int
) -> list[Chunk]:
    """`samples` images of each conditioning mask, in its class, or where the folder says none in each of `classes`."""
    items = []
    task: Task = "mask_to_image"
    for mask in inputs:
        for label in [mask.label] if mask.label is not None else classes:
            stem = f"syn_{mask.id}" if mask.label is not None or len(classes) == 1 else f"syn_{mask.id}_{label}"
            key = (seed, TASKS.index(task), known.index(label), mask.number)
            for sample in range(samples):
                conditions, given = {"label": label}, {"mask": mask.picture}
                items.append(Item(Request(f"{stem}_{sample:03d}", task, (*key, sample), conditions, given), mask))
    return [Chunk(f"images_{n:05d}", some) for n, some in enumerate(batched(items, chunk_size))]


def plan_inpainting(
    inputs: list[ConditioningInput],
    masks: list[ConditioningInput],
    region: list[float] | None,
    classes: list[str],
    known: list[str],
    samples: int,
    chunk_size: int,
    seed: int,
) -> list[Chunk]:
    """`samples` pairs of each picture in each of `classes`: in its own of the `masks`, in the region, or where chance
    puts the lesion."""
    items, by_id = [], {mask.id: mask for mask in masks}
    task: Task = "inpaint"
    for image in inputs:
        given, mask = {"image": image.picture}, None
        if masks:
            mask = by_id[image.id] if len(masks) > 1 else masks[0]
            given["mask"] = mask.picture
        elif region is not None:
            given["region"] = _box(region, image.picture.shape[-1])
        for label in classes:
            key = (seed, TASKS.index(task), known.index(label), image.number)
            for sample in range(samples):
                request = Request(f"syn_{image.id}_{label}_{sample:03d}", task, (*key, sample), {"label": label}, given)
                items.append(Item(request, image, mask))
    return [Chunk(f"inpainted_{n:05d}", some) for n, some in enumerate(batched(items, chunk_size))]


def plan_removal(
    inputs: list[ConditioningInput],
    masks: list[ConditioningInput],
    label: str | None,
    known: list[str],
    samples: int,
    chunk_size: int,
    seed: int,
) -> list[Chunk]:
    """`samples` pictures of each image without the lesion of its mask, in the class of healthy ones where there is
    one."""
    items, by_id = [], {mask.id: mask for mask in masks}
    task: Task = "remove"
    for image in inputs:
        mask = by_id[image.id]
        given, conditions = {"image": image.picture, "mask": mask.picture}, {} if label is None else {"label": label}
        key = (seed, TASKS.index(task), 0 if label is None else known.index(label), image.number)
        for sample in range(samples):
            request = Request(
                f"syn_{image.id}_{label or HEALTHY}_{sample:03d}", task, (*key, sample), conditions, given
            )
            items.append(Item(request, image, mask))
    return [Chunk(f"removed_{n:05d}", some) for n, some in enumerate(batched(items, chunk_size))]


def _box(region: list[float], side: int) -> np.ndarray:
    """(1, S, S) uint8 {0, 255} of left, top, width, height as shares of the picture."""
    left, top, width, height = (round(share * side) for share in region)
    found = np.zeros((1, side, side), np.uint8)
    found[:, top : max(top + height, top + 1), left : max(left + width, left + 1)] = 255
    return found


def plan_masks(inputs: list[ConditioningInput], samples: int, chunk_size: int, seed: int) -> list[Chunk]:
    """`samples` masks of each conditioning image; all of an image stand in one chunk."""
    task: Task = "image_to_mask"
    key = (seed, TASKS.index(task))
    together = batched(inputs, max(1, chunk_size // samples))
    return [
        Chunk(
            f"masks_{n:05d}",
            tuple(
                Item(Request(image.id, task, (*key, image.number, sample), {}, {"image": image.picture}), image)
                for image in images
                for sample in range(samples)
            ),
        )
        for n, images in enumerate(together)
    ]


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`size` items at a time (itertools.batched, which Python has from 3.12 on)."""
    rest = iter(items)
    while some := tuple(itertools.islice(rest, size)):
        yield some


def record_file(task: Chunk, folder: Path) -> Path:
    """Where the record of a finished chunk lies."""
    return folder / CHUNKS / f"{task.name}.json"


def pending(tasks: list[Chunk], folder: Path) -> list[Chunk]:
    """The chunks whose record is not written yet."""
    return [t for t in tasks if not record_file(t, folder).is_file()]


def run_pending(tasks: list[Chunk], folder: Path, work: Callable[[Chunk], None], unit: str) -> None:
    """Do what is left to do, with a progress bar over the items of all chunks."""
    (folder / CHUNKS).mkdir(exist_ok=True)
    todo = pending(tasks, folder)
    total, left = (sum(len(t.items) for t in some) for some in (tasks, todo))
    with progress_bar(total=total, initial=total - left, desc="sampling", unit=unit) as bar:
        for task in todo:
            work(task)
            bar.update(len(task.items))
