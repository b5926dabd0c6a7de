"""What the segmenter and the classifier say of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from medsegdiff.downstream.classification.training import predict_probabilities
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.training import mean_dice, predict_masks
from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.sets import Pairs


def found_masks(model: nn.Module, settings: dict[str, Any], pairs: Pairs, config: EvaluateConfig) -> np.ndarray:
    """(N, S, S) masks that the segmenter draws on the images, as `predict_masks` gives them."""
    recipe, device = _recipe(pairs, config), choose_device(config.device)
    return predict_masks(model, pairs.tensors(sorted(set(pairs.labels))), *_grey(settings), recipe, device)


def mask_agreement(found: np.ndarray, pairs: Pairs) -> np.ndarray:
    """(N,) Dice of found masks (N, S, S) with those of the pairs, the mean over classes; 1 where both are empty."""
    return mean_dice(found, pairs.index, pairs.spec)


def class_probabilities(model: nn.Module, settings: dict[str, Any], pairs: Pairs, config: EvaluateConfig) -> np.ndarray:
    """(N, K) probabilities of the classes `settings["classes"]`, by the classifier."""
    recipe, device = _recipe(pairs, config), choose_device(config.device)
    return predict_probabilities(model, pairs.tensors(settings["classes"]), *_grey(settings), recipe, device)


def _recipe(pairs: Pairs, config: EvaluateConfig) -> SegmentConfig:
    """Without mirror images: they take as long again, and all sides are evaluated alike."""
    size = pairs.images.shape[1]
    return SegmentConfig(data_dir="", img_size=size, tta_flip=False, precision=config.precision, device=config.device)


def _grey(settings: dict[str, Any]) -> tuple[float, float]:
    return float(settings["mean"]), float(settings["std"])
