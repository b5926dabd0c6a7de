"""Trained networks of phase 5 for Python programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medsegdiff.api.pictures import as_array
from medsegdiff.data.arrays import at_native_size, resize_anisotropic
from medsegdiff.data.dataset import to_channels
from medsegdiff.downstream.predict import Predictor, load_predictor
from medsegdiff.engine.settings import Device, Precision
from medsegdiff.errors import UserError


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network finds in one picture, at the size of the picture."""

    mask: np.ndarray  # (H, W) uint8 of pixel values
    probability: np.ndarray  # (K, H, W) float32, of each class of `classes`
    classes: tuple[str, ...]  # mask classes but the background

    @property
    def mask_pil(self) -> Image.Image:
        """The mask as a PIL image."""
        return Image.fromarray(self.mask)


@dataclass(frozen=True)
class Segmenter:
    """A trained segmentation network; `load_segmenter` makes one."""

    predictor: Predictor

    def predict(self, image: np.ndarray | Image.Image) -> Prediction:
        """The mask of an image, (H, W) or (H, W, 3) uint8 of any size. Raises `UserError` for another array."""
        found = _probabilities(self.predictor, image)
        probability = at_native_size(found, *_size(image))
        return Prediction(self.predictor.mask(probability), probability, self.predictor.spec.foreground)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier; `load_classifier` makes one."""

    predictor: Predictor

    def predict(self, image: np.ndarray | Image.Image) -> dict[str, float]:
        """Probability of each class of an image, (H, W) or (H, W, 3) uint8. Raises `UserError` for another array."""
        found = _probabilities(self.predictor, image)
        return {name: float(p) for name, p in zip(self.predictor.classes, found, strict=True)}


def load_segmenter(path: str | Path, *, device: Device = "auto", precision: Precision = "auto") -> Segmenter:
    """The segmentation network that a run of phase 5 wrote to `path` (its folder, or its weights file).

    Raises `UserError` where there is none, or a classifier.
    """
    return Segmenter(_load(path, "segment", device, precision))


def load_classifier(path: str | Path, *, device: Device = "auto", precision: Precision = "auto") -> Classifier:
    """The classifier that a run of phase 5 with `--task classify` wrote to `path`.

    Raises `UserError` where there is none, or a segmentation network.
    """
    return Classifier(_load(path, "classify", device, precision))


def _load(path: str | Path, task: str, device: Device, precision: Precision) -> Predictor:
    predictor = load_predictor(Path(path), device, precision)
    if predictor.task != task:
        names = {"segment": "load_segmenter", "classify": "load_classifier"}
        found = f"a network of task {predictor.task}"
        raise UserError(path, found, f"one of task {task}", f"Use {names[predictor.task]}.")
    return predictor


def _probabilities(predictor: Predictor, image: np.ndarray | Image.Image) -> np.ndarray:
    picture = resize_anisotropic(as_array(image, "image", predictor.spec.channels), predictor.size)
    return predictor.probabilities(torch.from_numpy(to_channels(picture).copy())[None])[0].numpy()


def _size(image: np.ndarray | Image.Image) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
