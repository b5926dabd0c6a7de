"""The tasks that the downstream benchmark trains and scores, each reported in one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.downstream.classification import results as class_results
from medsegdiff.downstream.classification import training as class_training
from medsegdiff.downstream.classification.models import DEFAULT_MODEL as DEFAULT_CLASSIFIER
from medsegdiff.downstream.classification.models import load_classifier
from medsegdiff.downstream.classification.scores import MEASURES as CLASS_MEASURES
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.models import DEFAULT_ENCODER, DEFAULT_ENCODERS, DEFAULT_MODEL, load_model
from medsegdiff.downstream.segmentation.results import label_map_subgroups, measures, row_type, subgroups
from medsegdiff.downstream.segmentation.testing import score_pairs
from medsegdiff.downstream.segmentation.training import SegmentationTrainer, build_network
from medsegdiff.downstream.supervised import SupervisedTrainer
from medsegdiff.statistics.runs import Measure

Rows = Sequence[Any]  # frozen dataclasses with at least id, group and label


@dataclass(frozen=True)
class Task:
    """Segmentation or classification, as `benchmark` sees it."""

    check: Callable[[SegmentConfig, list[str]], object]  # raises `UserError` for a network that cannot be had
    # Of settings, classes, train, val, steps
    trainer: Callable[[SegmentConfig, list[str], SampleTensors, SampleTensors, int], SupervisedTrainer]
    load: Callable[[Path], tuple[nn.Module, dict[str, Any]]]  # network and settings of a weights file
    score: Callable[[nn.Module, dict[str, Any], SampleTensors, SegmentConfig, Path], Rows]  # draws a picture too
    picture: str  # file name of that picture
    row: type[Any]  # one line of per_image.csv
    measures: Mapping[str, Measure]
    subgroups: Callable[[Rows], dict[str, np.ndarray]]  # row numbers of all, of each class, ...


def task_of(name: str, spec: ArraySpec) -> Task:
    """The task of that name, "segment" or "classify", on samples of these arrays."""
    if name == "classify":
        return Task(
            check=lambda config, classes: class_training.build_network(config, classes, spec.channels),
            trainer=class_training.ClassificationTrainer,
            load=load_classifier,
            score=class_results.score_pairs,
            picture="roc.png",
            row=class_results.ClassScore,
            measures=CLASS_MEASURES,
            subgroups=class_results.subgroups,
        )
    return Task(
        check=lambda config, classes: build_network(config, spec),
        trainer=SegmentationTrainer,
        load=load_model,
        score=score_pairs,
        picture="overlays.png",
        row=row_type(spec),
        measures=measures(spec),
        subgroups=subgroups if spec.is_binary else label_map_subgroups,
    )


def settle_names(config: SegmentConfig) -> SegmentConfig:
    """`config` with the names of network and encoder that apply where none were given."""
    if config.task == "classify":
        return dataclasses.replace(config, model=config.model or DEFAULT_CLASSIFIER)
    model = config.model or DEFAULT_MODEL
    return dataclasses.replace(
        config, model=model, encoder=config.encoder or DEFAULT_ENCODERS.get(model, DEFAULT_ENCODER)
    )
