"""Masks of conditioning images: several samples each, and what they say together about the lesion and the doubt about
it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.data.pictures import contact_sheet, spread
from medsegdiff.data.records import read_grey
from medsegdiff.engine.files import DATASET_FILE, make_folder, read_json, write_bytes, write_json, write_png
from medsegdiff.generators.base import Generator, GeneratorCard
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
    for image, some in zip(images, batched(sampled, samples), strict=True):
        masks = np.stack([arrays["mask"] > 0 for arrays in some])
        rows.append(_write(folder, image, masks, some[0]["expected_mask"]))
    write_json(record_file(task, folder), {"rows": rows})


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in bits of a yes-or-no answer with this probability, 0 (sure) to 1 (even)."""
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.where((probability <= 0) | (probability >= 1), 0.0, -(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def agreement(masks: np.ndarray) -> float:
    """Mean Dice over all couples of n >= 2 (H, W) boolean masks; 1 where all are the same, empty ones too."""
    flat = masks.reshape(len(masks), -1).astype(np.float64)
    both, areas = flat @ flat.T, flat.sum(axis=1)
    total = areas[:, None] + areas[None, :]
    dice = np.where(total > 0, 2 * both / np.where(total > 0, total, 1), 1.0)
    return float(dice[np.triu_indices(len(masks), k=1)].mean())


def _write(folder: Path, image: ConditioningInput, sampled: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Write the pictures of one image at its native size; returns its row of the table."""
    size = (image.width, image.height)

    def native(share: np.ndarray) -> np.ndarray:
        return np.clip(cv2.resize(share.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1)

    samples = np.stack([native(mask) > 0.5 for mask in sampled])
    mean = samples.mean(axis=0)
    consensus = mean > 0.5
    pictures = {
        "masks": consensus * 255.0,
        "mean": mean * 255,
        "uncertainty": entropy(mean) * 255,
        "one_call": native(expected) * 255,
    }
    for name, picture in pictures.items():
        write_png(folder / name / f"{image.id}.png", picture.round().astype(np.uint8))
    for number, mask in enumerate(samples):
        write_png(folder / "samples" / f"{image.id}_{number:03d}.png", (mask * 255).astype(np.uint8))
    areas = samples.mean(axis=(1, 2))
    values = {
        "agreement": agreement(samples) if len(samples) > 1 else None,
        "area": float(areas.mean()),
        "area_std": float(areas.std()),
        "area_consensus": float(consensus.mean()),
        "area_one_call": float(expected.mean()),
        "uncertainty": float(entropy(mean).mean()),
    }
    return {
        "id": image.id, "image_file_name": image.file, "width": image.width, "height": image.height,
        "samples": len(sampled), **{name: None if value is None else round(value, 5) for name, value in values.items()},
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
    write_png(folder / "contact_sheet.png", _sheet(folder, inputs_of(tasks), rows[0]["samples"]))
    write_json(folder / DATASET_FILE, {"kind": KIND, "fingerprint": fingerprint, "checkpoint": card.provenance})
    return rows


def _sheet(folder: Path, inputs: list[ConditioningInput], samples: int) -> np.ndarray:
    """A row for each of some images, spread over all: image, some samples, mean, uncertainty, consensus, one call."""
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    titles: list[str] = []
    shown = min(SHEET_SAMPLES, samples)
    for image in spread(inputs, SHEET_IMAGES):
        picture = cv2.resize(image.picture, (image.width, image.height), interpolation=cv2.INTER_LINEAR)

        def read(name: str, image: ConditioningInput = image) -> np.ndarray:
            return read_grey(folder / name)

        images += [picture] * (1 + shown)
        masks += [None, *[read(f"samples/{image.id}_{n:03d}.png") for n in range(shown)]]
        titles += [image.id, *[f"sample {n}" for n in range(shown)]]
        images += [read(f"mean/{image.id}.png"), read(f"uncertainty/{image.id}.png"), picture]
        masks += [None, None, read(f"masks/{image.id}.png")]
        titles += ["mean", "uncertainty", "consensus"]
        images.append(read(f"one_call/{image.id}.png"))
        masks.append(None)
        titles.append("one call")
    return contact_sheet(images, masks, titles, columns=shown + 5)
