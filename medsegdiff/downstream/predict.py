"""Applying a trained network of phase 5 to new pictures."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from medsegdiff.data.arrays import ArraySpec, at_native_size
from medsegdiff.data.dataset import from_channels
from medsegdiff.data.pictures import contact_sheet, spread
from medsegdiff.downstream.classification.models import restored_classifier
from medsegdiff.downstream.classification.training import predict_classes
from medsegdiff.downstream.config import PredictConfig
from medsegdiff.downstream.segmentation.models import restored_model
from medsegdiff.downstream.segmentation.training import PREDICT_BATCH, predict
from medsegdiff.downstream.train_and_test import WEIGHTS_FILE
from medsegdiff.downstream.weights import load_weights
from medsegdiff.engine.device import choose_device, settle
from medsegdiff.engine.files import DATASET_FILE, make_folder, write_bytes, write_json, write_png
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import Device, Precision
from medsegdiff.engine.weights import tensors_digest
from medsegdiff.errors import UserError
from medsegdiff.synthesis.inputs import ConditioningInput, read_inputs

logger = logging.getLogger(__name__)

KIND = "predictions"  # in dataset.json, where samples have their classes
TABLE_FILE = "predictions.csv"
SHEET_PICTURES = 64
SIZES = ("width", "height")


@dataclass(frozen=True)
class Predictor:
    """A trained network with what predicting needs."""

    model: nn.Module  # in evaluation mode, on its device
    settings: dict[str, Any]  # of the weights file
    precision: str  # autocast type
    digest: str  # of the weights

    @property
    def task(self) -> str:
        """segment or classify."""
        return str(self.settings["config"].get("task", "segment"))

    @property
    def size(self) -> int:
        """Side of the square that pictures are resized to, pixels."""
        return int(self.settings["config"]["img_size"])

    @cached_property
    def spec(self) -> ArraySpec:
        """Channels of its pictures and classes of its masks."""
        if self.task == "classify":
            return ArraySpec(self.settings.get("channels", 1), None)
        return ArraySpec.from_json(self.settings.get("arrays"))

    @property
    def classes(self) -> list[str]:
        """Classes that a classifier tells apart; [] of a segmentation network."""
        return list(self.settings.get("classes", []))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of images (B, C, S, S) uint8: (B, K, S, S) for each mask class; of a classifier (B, K) for each class."""
        device = next(self.model.parameters()).device
        x = images.to(device).float() / 255
        how = self.settings["mean"], self.settings["std"], self.precision, self.settings["config"].get("tta_flip", True)
        if self.task == "classify":
            return predict_classes(self.model, x, *how).cpu()
        logits = predict(self.model, x, *how)
        return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1:]).cpu()

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """(H, W) pixel values of the most probable class of (K, H, W) probabilities; the background has the rest."""
        background = 1 - probability.sum(axis=0)
        index = np.where(probability.max(axis=0) > background, probability.argmax(axis=0) + 1, 0)
        return self.spec.values_of(index)


def load_predictor(path: Path, device: Device = "auto", precision: Precision = "auto") -> Predictor:
    """The network of a run of phase 5, from its folder or its weights file.

    Raises `UserError` where there is none, or one for each seed.
    """
    place = choose_device(device)
    weights, settings = load_weights(_weights_file(path))
    task = settings["config"].get("task", "segment")
    model, _ = (restored_classifier if task == "classify" else restored_model)(weights, settings)
    digest = tensors_digest(model.state_dict())
    return Predictor(model.to(place), settings, settle(precision, place), digest)


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / WEIGHTS_FILE).is_file():
        return path / WEIGHTS_FILE
    seeds = sorted(f.parent.name for f in path.glob(f"seed_*/{WEIGHTS_FILE}"))
    found = f"weights of each seed ({', '.join(seeds)})" if seeds else f"no {WEIGHTS_FILE}"
    hint = f"Give {path / seeds[0]}." if seeds else "Give the output of phase 5."
    raise UserError(path, found, "the weights of one run of phase 5", hint)


def predict_pictures(config: PredictConfig) -> list[dict[str, Any]]:
    """Masks (or classes) of all pictures of a folder; returns the rows of predictions.csv.

    Writes masks/ and probabilities/ at native size, predictions.csv and contact_sheet.png. The same call again finds
    them. Raises `UserError` for weights or pictures that cannot be used.
    """
    predictor = load_predictor(Path(config.model_path), config.device, config.precision)
    inputs = read_inputs(Path(config.images), "images", predictor.size, config.split, [], predictor.spec)
    fingerprint = {
        "phase": "predict",
        "weights": predictor.digest,
        "precision": predictor.precision,
        "inputs": [(image.id, image.hash) for image in inputs],
    }
    run = RunFolder(config.output_dir, DATA_SET, fingerprint)
    if run.is_finished():
        logger.info("%s holds these predictions, finished", config.output_dir)
        return _read(run.path / TABLE_FILE)
    with run.staged() as folder:
        rows = _write(folder, predictor, inputs, fingerprint)
    logger.info("%s", _summary(predictor, rows))
    logger.info("predictions: %s; pictures: %s", run.path / TABLE_FILE, run.path / "contact_sheet.png")
    return _read(run.path / TABLE_FILE)


def _write(
    folder: Path, predictor: Predictor, inputs: Sequence[ConditioningInput], fingerprint: dict[str, Any]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shown = {image.id for image in spread(inputs, SHEET_PICTURES)}
    sheet: list[tuple[np.ndarray, np.ndarray | None, str]] = []
    with progress_bar(total=len(inputs), desc="predicting", unit="picture") as bar:
        for start in range(0, len(inputs), PREDICT_BATCH):
            some = inputs[start : start + PREDICT_BATCH]
            stack = torch.from_numpy(np.stack([image.picture for image in some]))
            for image, found in zip(some, predictor.probabilities(stack).numpy(), strict=True):
                row, mask, title = _one(folder, predictor, image, found)
                rows.append(row)
                if image.id in shown:
                    picture = cv2.resize(from_channels(image.picture), (image.width, image.height))
                    sheet.append((picture, mask, title))
            bar.update(len(some))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / TABLE_FILE, text.getvalue().encode())
    images, masks, titles = (list(column) for column in zip(*sheet, strict=True))
    write_png(folder / "contact_sheet.png", contact_sheet(images, masks, titles, spec=predictor.spec))
    write_json(folder / DATASET_FILE, {"kind": KIND, "fingerprint": fingerprint})
    return rows


def _one(
    folder: Path, predictor: Predictor, image: ConditioningInput, found: np.ndarray
) -> tuple[dict[str, Any], np.ndarray | None, str]:
    """Write what is found of one picture; returns its row, its mask at native size, and a title."""
    row: dict[str, Any] = {"id": image.id, "image_file_name": image.file, "width": image.width, "height": image.height}
    if predictor.task == "classify":
        best = predictor.classes[int(found.argmax())]
        shares = {f"probability:{name}": round(float(p), 6) for name, p in zip(predictor.classes, found, strict=True)}
        return {**row, "predicted": best, **shares}, None, f"{best} {found.max():.2f}"
    spec = predictor.spec
    probability = at_native_size(found, image.width, image.height)
    mask = predictor.mask(probability)
    write_png(make_folder(folder / "masks") / f"{image.id}.png", mask)
    for name, share in zip(spec.foreground, probability, strict=True):
        more = "" if spec.is_binary else f"_{name}"
        values = (share * 255).round().astype(np.uint8)
        write_png(make_folder(folder / "probabilities") / f"{image.id}{more}.png", values)
    index = spec.index_map(mask)
    areas = {
        f"area:{name}": round(float((index == number).mean()), 6) for number, name in enumerate(spec.foreground, 1)
    }
    return {**row, **areas}, mask, image.id


def _summary(predictor: Predictor, rows: Sequence[dict[str, Any]]) -> str:
    if predictor.task == "classify":
        counts = {name: sum(row["predicted"] == name for row in rows) for name in predictor.classes}
        return "; ".join(f"{name}: {count}" for name, count in counts.items())
    names = predictor.spec.foreground
    empty = sum(all(row[f"area:{name}"] == 0 for name in names) for row in rows)
    return f"pictures: {len(rows)}; nothing found in {empty}"


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of predictions.csv, numbers as numbers."""

    def value(name: str, text: str) -> Any:
        return float(text) if name.startswith(("area:", "probability:")) else int(text) if name in SIZES else text

    with path.open(newline="", encoding="utf-8") as file:
        return [{name: value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]
