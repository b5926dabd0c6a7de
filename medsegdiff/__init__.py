"""medsegdiff: labelled synthetic medical images that can be trusted.

import medsegdiff
pairs = medsegdiff.load_generator("busi-128").sample(4, label="malignant", seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medsegdiff.engine.packages import load
from medsegdiff.errors import UserError

if TYPE_CHECKING:
    from medsegdiff.api.dataset import SampleDataset, load_dataset
    from medsegdiff.api.generator import LoadedGenerator, load_generator
    from medsegdiff.api.hub import push_to_hub, save_pretrained
    from medsegdiff.api.phases import (
        EvaluationResult,
        MasksResult,
        SamplesResult,
        SegmentationResult,
        TrainingResult,
        combine,
        evaluate,
        generate,
        predict,
        prepare,
        train,
        train_segmentation,
    )
    from medsegdiff.api.samples import Sample, Samples
    from medsegdiff.api.segmenter import Classifier, Prediction, Segmenter, load_classifier, load_segmenter

__version__ = "0.2.0"

# Where each name is, imported when it is first asked for: torch takes seconds
_PLACES = {
    "dataset": ("SampleDataset", "load_dataset"),
    "generator": ("LoadedGenerator", "load_generator"),
    "hub": ("push_to_hub", "save_pretrained"),
    "phases": (
        *("EvaluationResult", "MasksResult", "SamplesResult", "SegmentationResult", "TrainingResult"),
        *("combine", "evaluate", "generate", "predict", "prepare", "train", "train_segmentation"),
    ),
    "samples": ("Sample", "Samples"),
    "segmenter": ("Classifier", "Prediction", "Segmenter", "load_classifier", "load_segmenter"),
}
_MODULES = {name: f"medsegdiff.api.{module}" for module, names in _PLACES.items() for name in names}

__all__ = [
    "Classifier",
    "EvaluationResult",
    "LoadedGenerator",
    "MasksResult",
    "Prediction",
    "Sample",
    "SampleDataset",
    "Samples",
    "SamplesResult",
    "SegmentationResult",
    "Segmenter",
    "TrainingResult",
    "UserError",
    "combine",
    "evaluate",
    "generate",
    "load_classifier",
    "load_dataset",
    "load_generator",
    "load_segmenter",
    "predict",
    "prepare",
    "push_to_hub",
    "save_pretrained",
    "train",
    "train_segmentation",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'medsegdiff' has no attribute {name!r}")
    return load(f"{_MODULES[name]}:{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
