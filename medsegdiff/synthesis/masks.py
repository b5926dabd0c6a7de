"""Masks of conditioning images: several samples each, and what they say together about the lesion and the doubt about
it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from medsegdiff.data.arrays import ArraySpec, at_native_size
from medsegdiff.data.dataset import from_channels
from medsegdiff.data.decoding import read_grey
from medsegdiff.data.pictures import contact_sheet, spread
from medsegdiff.engine.files import DATASET_FILE, make_folder, read_json, write_bytes, write_json, write_png
from medsegdiff.generators.base import Arrays, Generator, GeneratorCard
from medsegdiff.synthesis.inputs import ConditioningInput
from medsegdiff.synthesis.plan import Chunk, batched, record_file

KIND = "masks of images"  # in dataset.json, where samples have their classes
TABLE_FILE = "masks.csv"
FOLDERS = ("masks", "samples", "mean", "uncertainty", "one_call")
SHEET_IMAGES, SHEET_SAMPLES = 12, 3


def run_chunk(generator: Generator, task: Chunk, folder: Path) -> None:
    """Sample the masks of a chunk's images, write all pictures and then, as the sign that it is finished, its
    record."""
    for name in FOLDERS:
        make_folder(folder / name)
    images = inputs_of([task])
    samples = len(task.items) // len(images)
    sampled = generator.sample(task.requests, 0)
    rows = []
    spec = generator.card.arrays
    for image, some in zip(images, batched(sampled, samples), strict=True):
        rows.append(_write(folder, image, estimate(some, image.width, image.height, spec), spec))
    write_json(record_file(task, folder), {"rows": rows})


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in bits of a yes-or-no answer with this probability, 0 (sure) to 1 (even)."""
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.where((probability <= 0) | (probability >= 1), 0.0, -(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def class_entropy(probability: np.ndarray) -> np.ndarray:
    """(H, W) entropy, 0 (sure) to 1 (even), of (K, H, W) probabilities of classes; the background has the rest."""
    if len(probability) == 1:
        return entropy(probability[0])
    p = np.concatenate([np.clip(1 - probability.sum(axis=0, keepdims=True), 0, 1), probability]).astype(np.float64)
    return np.asarray(-(p * np.log2(np.maximum(p, 1e-12))).sum(axis=0) / np.log2(len(p)))


def agreement(masks: np.ndarray) -> float:
    """Mean Dice over all couples of n >= 2 (H, W) boolean masks; 1 where all are the same, empty ones too."""
    flat = masks.reshape(len(masks), -1).astype(np.float64)
    both, areas = flat @ flat.T, flat.sum(axis=1)
    total = areas[:, None] + areas[None, :]
    dice = np.where(total > 0, 2 * both / np.where(total > 0, total, 1), 1.0)
    return float(dice[np.triu_indices(len(masks), k=1)].mean())


def _index(shares: np.ndarray) -> np.ndarray:
    """(H, W) numbers of the classes that have more than half of a pixel, of (K, H, W) shares; else 0, background."""
    return np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0)


@dataclass(frozen=True, eq=False)
class MaskEstimate:
    """What several sampled masks of one image say together, at the size of the image."""

    mask: np.ndarray  # (H, W) uint8 of pixel values: what more than half of the samples show
    samples: np.ndarray  # (n, H, W) uint8 of pixel values
    probability: np.ndarray  # (K, H, W) float32, share of the samples that show each class
    doubt: np.ndarray  # (H, W) float32 entropy of `probability`, from 0 (sure) to 1 (even)
    expected: np.ndarray  # (K, H, W) float32 probability by one network call
    agreement: float | None  # mean Dice between two samples; None of one sample
    classes: tuple[str, ...]  # mask classes but the background

    @property
    def mask_pil(self) -> Image.Image:
        """The mask as a PIL image."""
        return Image.fromarray(self.mask)


def estimate(sampled: Sequence[Arrays], width: int, height: int, spec: ArraySpec) -> MaskEstimate:
    """What the sampled masks of one image say together, at its native size."""

    def native(shares: np.ndarray) -> np.ndarray:
        return np.clip(at_native_size(shares.astype(np.float32), width, height), 0, 1)

    index = np.stack([spec.index_map(arrays["mask"]) for arrays in sampled])
    masks = np.stack([index == k for k in range(1, len(spec.foreground) + 1)], axis=1)
    samples = np.stack([native(mask) > 0.5 for mask in masks])
    mean = samples.mean(axis=0)
    agreed = [agreement(layer) for layer in samples.transpose(1, 0, 2, 3)] if len(samples) > 1 else []
    return MaskEstimate(
        spec.values_of(_index(mean)),
        np.stack([spec.values_of(_index(mask)) for mask in samples]),
        mean.astype(np.float32),
        class_entropy(mean).astype(np.float32),
        native(sampled[0]["expected_mask"]),
        float(np.mean(agreed)) if agreed else None,
        spec.foreground,
    )


def _write(folder: Path, image: ConditioningInput, found: MaskEstimate, spec: ArraySpec) -> dict[str, Any]:
    """Write the pictures of one image at its native size; returns its row of the table.

    Means and one-call estimates of label maps are one picture a class.
    """

    def write(name: str, values: np.ndarray, more: str = "") -> None:
        write_png(folder / name / f"{image.id}{more}.png", values.round().astype(np.uint8))

    write("masks", found.mask)
    write("uncertainty", found.doubt * 255)
    for name, shares in (("mean", found.probability), ("one_call", found.expected)):
        for label, share in zip(spec.foreground, shares, strict=True):
            write(name, share * 255, "" if spec.is_binary else f"_{label}")
    for number, mask in enumerate(found.samples):
        write("samples", mask, f"_{number:03d}")
    areas = (spec.index_map(found.samples) > 0).mean(axis=(1, 2))
    values = {
        "agreement": found.agreement,
        "area": float(areas.mean()),
        "area_std": float(areas.std()),
        "area_consensus": float((spec.index_map(found.mask) > 0).mean()),
        "area_one_call": float(found.expected.sum(axis=0).mean()),
        "uncertainty": float(found.doubt.mean()),
    }
    return {
        "id": image.id, "image_file_name": image.file, "width": image.width, "height": image.height,
        "samples": len(found.samples),
        **{name: None if value is None else round(value, 5) for name, value in values.items()},
    }  # fmt: skip


def inputs_of(tasks: list[Chunk]) -> list[ConditioningInput]:
    """The conditioning images of these chunks, each once."""
    every = [item.conditioning_input for task in tasks for item in task.items]
    return list({image.id: image for image in every if image is not None}.values())


def read_rows(tasks: list[Chunk], folder: Path) -> list[dict[str, Any]]:
    """The rows of all finished chunks, one an image."""
    return [row for t in tasks for row in read_json(record_file(t, folder))["rows"]]


def gather(card: GeneratorCard, tasks: list[Chunk], folder: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]]:
    """Write masks.csv, contact_sheet.png and, last of all, dataset.json; returns the rows of the table."""
    rows = read_rows(tasks, folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / TABLE_FILE, text.getvalue().encode())
    write_png(folder / "contact_sheet.png", _sheet(folder, inputs_of(tasks), rows[0]["samples"], card.arrays))
    write_json(folder / DATASET_FILE, {"kind": KIND, "fingerprint": fingerprint, "checkpoint": card.provenance})
    return rows


def _sheet(folder: Path, inputs: list[ConditioningInput], samples: int, spec: ArraySpec) -> np.ndarray:
    """A row for each of some images, spread over all: image, some samples, mean, uncertainty, consensus, one call.

    Mean and one call have a picture each in a row where masks are binary only.
    """
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    titles: list[str] = []
    shown = min(SHEET_SAMPLES, samples)

    def read(name: str) -> np.ndarray:
        return read_grey(folder / name)

    for image in spread(inputs, SHEET_IMAGES):
        size = (image.width, image.height)
        picture = cv2.resize(from_channels(image.picture), size, interpolation=cv2.INTER_LINEAR)
        images += [picture] * (1 + shown)
        masks += [None, *[read(f"samples/{image.id}_{n:03d}.png") for n in range(shown)]]
        titles += [image.id, *[f"sample {n}" for n in range(shown)]]
        names = ["mean", "uncertainty", "consensus", "one_call"] if spec.is_binary else ["uncertainty", "consensus"]
        images += [picture if n == "consensus" else read(f"{n}/{image.id}.png") for n in names]
        masks += [read(f"masks/{image.id}.png") if n == "consensus" else None for n in names]
        titles += [n.replace("_", " ") for n in names]
    return contact_sheet(images, masks, titles, columns=1 + shown + len(names), spec=spec)
