"""Generators for Python programs: samples as arrays, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medsegdiff.api.pictures import as_array
from medsegdiff.api.samples import Sample, Samples
from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.engine.device import choose_device, settle
from medsegdiff.engine.settings import Device, Precision
from medsegdiff.errors import UserError, require
from medsegdiff.generators import base
from medsegdiff.generators.base import TASKS, Generator, Task
from medsegdiff.synthesis.inputs import input_of
from medsegdiff.synthesis.masks import MaskEstimate, estimate
from medsegdiff.synthesis.plan import Chunk, Item, batched, chunk_size_on, pair_item, plan_images, plan_masks
from medsegdiff.synthesis.prompts import Wish, read_prompt
from medsegdiff.synthesis.requests import Ranges, check_ranges, condition_of, modality_of, with_attributes
from medsegdiff.synthesis.samples import sample_chunk

MAX_REDRAWS = 20
Asked = float | tuple[float, float]  # a number, or the least and largest one


class LoadedGenerator:
    """A generator whose weights are loaded; `load_generator` makes one.

    Samples depend on seed, class and number alone, as those of `generate`: not on how many are asked for.
    """

    def __init__(self, generator: Generator, batch_size: int) -> None:
        self.generator, self.batch_size = generator, batch_size

    @property
    def classes(self) -> list[str]:
        """Classes that it samples."""
        return list(self.generator.card.classes)

    @property
    def img_size(self) -> int:
        """Side of its pictures, pixels."""
        return self.generator.card.img_size

    @property
    def tasks(self) -> list[str]:
        """What it can be asked for: joint, mask_to_image, image_to_mask, ..."""
        return [task for task in TASKS if task in self.generator.tasks]

    @property
    def attributes(self) -> dict[str, tuple[float, float]]:
        """Attributes that it can be asked for, with their range in the train split; {} of one that takes none."""
        taken = condition_of(self.generator.card, Attributes)
        if taken is None:
            return {}
        return {name: (knots[0], knots[-1]) for name, knots in zip(taken.names, taken.knots, strict=True)}

    def __repr__(self) -> str:
        card = self.generator.card
        return f"LoadedGenerator({card.kind}, {card.img_size} px, {', '.join(card.classes)}; {', '.join(self.tasks)})"

    def sample(
        self,
        n: int,
        label: str | None = None,
        *,
        attributes: Mapping[str, Asked] | None = None,
        prompt: str = "",
        seed: int = 0,
        modality: str = "",
        task: Task | None = None,
        max_redraws: int = MAX_REDRAWS,
    ) -> Samples:
        """`n` pairs of class `label`; of all classes in turn where it is None.

        `attributes`: numbers that all have, or (least, largest), of a checkpoint that takes them (`attributes`).
        `prompt`: the same in words, or a caption. `modality`: of a checkpoint that learnt several. `task`: joint where
        it is not given, or text_to_image of a checkpoint that learnt images alone. A pair whose mask is no lesion mask
        is sampled again, up to `max_redraws` times. Raises `UserError` for an unknown class, task, attribute, modality
        or word, for a value that was never learnt, and where a class keeps giving such masks.
        """
        return Samples(
            self.stream(
                n,
                label,
                attributes=attributes,
                prompt=prompt,
                modality=modality,
                seed=seed,
                task=task,
                max_redraws=max_redraws,
            )
        )

    def stream(
        self,
        n: int | None = None,
        label: str | None = None,
        *,
        attributes: Mapping[str, Asked] | None = None,
        prompt: str = "",
        seed: int = 0,
        modality: str = "",
        task: Task | None = None,
        max_redraws: int = MAX_REDRAWS,
    ) -> Iterator[Sample]:
        """The same pairs one after the other, as they are made; without end where `n` is None."""
        require(n is None or n >= 0, "n", n, "0 or more")
        require(seed >= 0, "seed", seed, "0 or more")
        tasks = [t for t in TASKS if t in ("joint", "mask_first", "text_to_image") and t in self.generator.tasks]
        chosen = task or tasks[0]
        require(chosen in tasks, "task", chosen, f"one of {', '.join(tasks)}")
        asked = {name: (v, v) if isinstance(v, int | float) else (v[0], v[1]) for name, v in (attributes or {}).items()}
        check_ranges(self.generator.card, asked)
        if modality:
            modality_of(self.generator.card, modality, "modality")
        wish = read_prompt(prompt, self.generator.card, "prompt") if prompt else Wish(None, {})
        fits = None in (label, wish.label) or label == wish.label
        require(fits, "label", label, f"{wish.label}, as the prompt says", "Leave one of them out.")
        items = self._items(
            self._labels(label or wish.label), seed, chosen, {**wish.ranges, **asked}, text=prompt, modality=modality
        )
        return self._sampled(items if n is None else itertools.islice(items, n), max_redraws)

    def mask_to_image(
        self, mask: np.ndarray | Image.Image, label: str | None = None, *, n: int = 1, seed: int = 0
    ) -> Samples:
        """`n` images of a mask, (H, W) bool or uint8 of pixel values, of any size; that of the samples is it, resized.

        `label` may be left out where there is one class. Raises `UserError` for a mask of another shape or with other
        values, an empty one of a class that has lesions, and an unknown class.
        """
        self._check("mask_to_image", n, seed)
        card = self.generator.card
        labels = self._labels(label)
        require(len(labels) == 1, "label", None, f"one of {', '.join(labels)}", "Name the class of the mask.")
        values = self._mask_values(mask)
        has_lesion = bool(card.arrays.index_map(values).any())
        if labels[0] in card.lesion_classes:
            require(has_lesion, "mask", "an empty mask", f"a lesion, as class {labels[0]} has", "Give another mask.")
        given = input_of(values, "masks", "mask", card.img_size, card.arrays)
        chunks = plan_images([given], labels, card.classes, n, self.batch_size, seed)
        return Samples(self._sampled((item for chunk in chunks for item in chunk.items), 0))

    def image_to_mask(self, image: np.ndarray | Image.Image, *, n: int = 8, seed: int = 0) -> MaskEstimate:
        """The mask of an image, (H, W) or (H, W, 3) uint8 of any size, from `n` samples.

        Raises `UserError` for an array of another kind.
        """
        self._check("image_to_mask", n, seed)
        card = self.generator.card
        picture = as_array(image, "image", card.arrays.channels)
        given = input_of(picture, "images", "image", card.img_size, card.arrays)
        (chunk,) = plan_masks([given], n, n, seed)
        sampled = self.generator.sample(chunk.requests, 0)
        return estimate(sampled, given.width, given.height, card.arrays)

    def _labels(self, label: str | None) -> list[str]:
        known = self.classes
        require(label is None or label in known, "label", repr(label), f"one of {', '.join(known)}")
        return known if label is None else [label]

    def _check(self, task: Task, n: int, seed: int) -> None:
        card = self.generator.card
        found = f"{task}, which a generator of kind {card.kind!r} does not serve"
        require(task in self.generator.tasks, "task", found, f"one of {', '.join(self.tasks)}")
        require(n > 0, "n", n, "a number above 0")
        require(seed >= 0, "seed", seed, "0 or more")

    def _items(self, labels: Sequence[str], seed: int, task: Task, asked: Ranges, **said: str) -> Iterator[Item]:
        """Pairs of the classes in turn, without end, numbered within each class as `generate` numbers them."""
        known = self.generator.card.classes
        for number in itertools.count():
            for label in labels:
                item = pair_item(task, label, known, number, seed)
                yield with_attributes(item, asked, self.generator.card, **said)

    def _sampled(self, items: Iterator[Item], max_redraws: int) -> Iterator[Sample]:
        for number, some in enumerate(batched(items, self.batch_size)):
            arrays, _ = sample_chunk(self.generator, Chunk(str(number), some), max_redraws)
            for item, found in zip(some, arrays, strict=True):
                spec = self.generator.card.arrays
                yield Sample(item.request.id, item.label, found["image"], found.get("mask"), spec)

    def _mask_values(self, mask: np.ndarray | Image.Image) -> np.ndarray:
        """A (H, W) mask of pixel values from a boolean one, or one that has them."""
        spec = self.generator.card.arrays
        values = np.asarray(mask)
        if values.dtype == bool and values.ndim == 2:
            require(spec.is_binary, "mask", "a mask of True and False", f"pixel values ({spec})", "Give a label map.")
            return spec.values_of(values.astype(np.uint8))
        values = as_array(mask, "mask", 1)
        known = spec.mask_values or {}
        unknown = sorted(set(np.unique(values).tolist()) - set(known.values()))
        if unknown:
            expected = ", ".join(f"{value} ({name})" for name, value in known.items())
            some = ", ".join(map(str, unknown[:8]))
            raise UserError("mask", f"pixel values {some}", f"only {expected}, or True and False", "Threshold it.")
        return values


def load_generator(
    name: str | Path,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    **settings: Any,
) -> LoadedGenerator:
    """The generator of a checkpoint, ready to sample.

    `name`: weights that come with medsegdiff ("busi-128"), a file, a folder with one, or a repository of Hugging Face
    ("owner/name"). `batch_size`: samples computed together (8 on a CPU, 50 on a GPU). `settings` are those of sampling
    (`sampler`, `steps`, `guidance`, ...). Raises `UserError` where there is no such checkpoint, or it cannot be used.
    """
    from medsegdiff.api.hub import find_weights  # here: circles are not wanted, nor its packages for plain files

    place = choose_device(device)
    size = batch_size or chunk_size_on(place)
    generator = base.load_generator(
        find_weights(name), settings, device=place, precision=settle(precision, place), batch_size=size
    )
    return LoadedGenerator(generator, size)
