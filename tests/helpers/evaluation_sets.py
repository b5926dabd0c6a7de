"""Drawn pictures, and a context with reference models that need no training, for the tests of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModel, ReferenceModels
from medsegdiff.evaluation.sets import Pairs, Sets
from medsegdiff.statistics.interval import Interval

SIZE = 64
CLASSES = ("benign", "malignant")


def sampled(count: int, seed: int, prefix: str, classes: tuple[str, ...] = CLASSES) -> Pairs:
    """`count` pictures with a dark disc each, larger in the second class; groups of their own."""
    random = np.random.default_rng(seed)
    labels = np.array([classes[i % len(classes)] for i in range(count)])
    rows, columns = np.mgrid[:SIZE, :SIZE]
    masks = np.zeros((count, SIZE, SIZE), dtype=bool)
    for i, label in enumerate(labels):
        radius = random.uniform(7, 10) + 5 * classes.index(label)
        top, left = random.uniform(22, 42, size=2)
        masks[i] = (rows - top) ** 2 + (columns - left) ** 2 < radius**2
    images = np.where(masks, 60, 140) + random.normal(0, 20, masks.shape)
    names = [f"{prefix}_{i:03d}" for i in range(count)]
    records = tuple(record(name, str(label)) for name, label in zip(names, labels, strict=True))
    pixels = np.ones((count, 2))
    return Pairs(images.clip(0, 255).astype(np.uint8), masks, labels, np.array(names), pixels, records)


def record(name: str, label: str) -> SampleRecord:
    """A record with little in it."""
    files = (f"images/{name}.png", f"masks/{name}.png")
    return SampleRecord(
        name, *files, label, "train", -1, name, "sampled", 1.0, SIZE, SIZE, "0" * 64, "0" * 64, "0" * 64
    )


class DarkIsLesion(nn.Module):
    """A segmenter that needs no training: dark when smoothed is lesion."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of standardised images of the same shape."""
        return -torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)


class LargeIsMalignant(nn.Module):
    """A classifier that needs no training: pictures with more dark in them are malignant."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2) of standardised images (B, 1, S, S)."""
        smooth = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        share = (smooth < 0).float().mean(dim=(1, 2, 3))
        return torch.stack([0.11 - share, share - 0.11], dim=1) * 100


def reference_model(name: str, model: nn.Module, quality: float = 0.9, **settings: Any) -> ReferenceModel:
    """A reference model of that quality, with a minimum of 0.5."""
    reported = {"mean": 100 / 255, "std": 0.2, **settings}
    return ReferenceModel(name, model.eval(), reported, "Dice", Interval(quality, quality, quality), 0.5)


def context(sets: Sets, *, quality: float = 0.9, info: dict[str, Any] | None = None, **changes: Any) -> Context:
    """A context with reference models of that quality; `info` of the synthetic set, `changes` are fields of the
    configuration."""
    reference_models = ReferenceModels(
        reference_model("segmenter", DarkIsLesion(), quality),
        reference_model("classifier", LargeIsMalignant(), quality, classes=list(sets.classes)),
        None,
        {"embedding": "no embedding: not needed here"},
    )
    config = EvaluateConfig(**({"real_data": "", "synthetic_data": "", "bootstrap": 50, "precision": "fp32"} | changes))
    real, synthetic = (SampleSet(Path(), (), {"classes": list(sets.classes)} | more) for more in ({}, info or {}))
    return Context(sets, real, synthetic, reference_models, config)


def three_sets(synthetic: Pairs | None = None, classes: tuple[str, ...] = CLASSES) -> Sets:
    """Drawn train, held-out and, where none is given, synthetic pairs of one kind."""
    own = sampled(40, 3, "synthetic", classes) if synthetic is None else synthetic
    return Sets(sampled(60, 1, "train", classes), sampled(40, 2, "held", classes), own, classes, SIZE)
