"""Pictures of noise, none like another, and an embedding that tells them apart without training."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from evaluation_sets import sampled, three_sets
from torch import Tensor, nn

from medsegdiff.evaluation.privacy.embedding import PARTS, REPEATS, SIDE, CrossEmbedding
from medsegdiff.evaluation.sets import Pairs, Sets

HOW = {"resamples": 100, "seed": 0}


def textures(count: int, seed: int, prefix: str) -> Pairs:
    """`count` pictures of smooth noise, none like another."""
    random = np.random.default_rng(seed)
    smooth = np.stack([cv2.GaussianBlur(random.normal(size=(SIDE, SIDE)), (0, 0), 3) for _ in range(count)])
    grey = 120 + 40 * smooth / smooth.std(axis=(1, 2), keepdims=True)
    return dataclasses.replace(sampled(count, seed, prefix), images=grey.clip(0, 255).astype(np.uint8))


class Pixels(nn.Module):
    """An embedding that needs no training: the evened picture itself, at a quarter of the size."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) vectors of length 1."""
        coarse = nn.functional.avg_pool2d(x, 4).flatten(1)
        return nn.functional.normalize(coarse - coarse.mean(dim=1, keepdim=True), dim=1)


PIXELS = CrossEmbedding([Pixels() for _ in range(PARTS * REPEATS)])


def texture_sets(synthetic: Pairs | None = None, train: int = 60, held_out: int = 30) -> Sets:
    """Pictures of noise, none like another."""
    own = textures(40, 3, "synthetic") if synthetic is None else synthetic
    return dataclasses.replace(three_sets(own), train=textures(train, 1, "t"), held_out=textures(held_out, 2, "h"))
