"""The cheap figures of sample quality that training looks at, beside what real pictures reach; and the sample sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsegdiff.data.dataset import SampleTensors, from_channels
from medsegdiff.data.hashing import to_grey
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.engine.files import make_folder, write_png
from medsegdiff.engine.rng import generator
from medsegdiff.features.pair_features import feature_distance, feature_matrix
from medsegdiff.features.perceptual.efficientnet import packaged_weights, perceptual_features
from medsegdiff.statistics.components import Components
from medsegdiff.statistics.frechet import frechet_distance

BASELINE = 13  # purpose number of the random stream
COMPONENTS = 64  # principal components of perceptual features, as `evaluate` has them
SHOWN = 32


class SampleQuality:
    """Distances of samples to val, and of as many train pictures to val: equal class shares on both sides."""

    def __init__(self, train: SampleTensors, val: SampleTensors, count: int, seed: int, device: torch.device) -> None:
        self.val, self.device = val, device
        train_features, val_features = (_features(s.images, s.masks, _aspects(s)) for s in (train, val))
        self.measured = ~np.isnan(train_features).all(axis=0)  # what no train picture has cannot be compared
        train_features, val_features = train_features[:, self.measured], val_features[:, self.measured]
        self.scale = np.nanstd(train_features, axis=0)
        rows, own = (_balanced_rows(s.labels, count, seed) for s in (val, train))
        self.val_features = val_features[rows]
        self.baseline = feature_distance(train_features[own], self.val_features, self.scale)
        self.weights = packaged_weights()
        if self.weights is not None:  # those of all train pictures say which components count
            pooled = self._perceptual(train.images)
            self.components = Components.of(pooled, COMPONENTS)
            self.val_perceptual = self._components(val.images[torch.from_numpy(rows)])
            self.perceptual_baseline = frechet_distance(self.components.apply(pooled[own]), self.val_perceptual)

    def scores(self, images: Tensor, masks: Tensor) -> dict[str, float]:
        """Figures of sampled images (N, C, S, S) and masks (N, K, S, S) uint8, the lower the better."""
        features = _features(images, masks, [float(np.median(_aspects(self.val)))] * len(images))[:, self.measured]
        found = {
            "quality/feature_distance": feature_distance(features, self.val_features, self.scale),
            "quality/feature_distance_baseline": self.baseline,
        }
        if self.val.spec.foreground:
            found["quality/empty_masks"] = float((masks == 0).flatten(1).all(dim=1).float().mean())
        if self.weights is not None:
            distance = frechet_distance(self._components(images), self.val_perceptual)
            found |= {
                "quality/perceptual_distance": distance,
                "quality/perceptual_distance_baseline": self.perceptual_baseline,
            }
        return found

    def _perceptual(self, images: Tensor) -> np.ndarray[Any, Any]:
        assert self.weights is not None
        pictures = np.stack([from_channels(image) for image in images.numpy()])
        return perceptual_features(pictures, self.weights, self.device)

    def _components(self, images: Tensor) -> np.ndarray[Any, Any]:
        return self.components.apply(self._perceptual(images))

    def write_sheet(self, output: Path, step: int, images: Tensor, masks: Tensor, titles: list[str]) -> None:
        """samples/step_<step>.png of the first samples."""
        spec = self.val.spec
        pictures = [from_channels(image) for image in images[:SHOWN].numpy()]
        maps = [spec.from_coverage(mask) for mask in masks[:SHOWN].numpy()]
        sheet = contact_sheet(pictures, maps, titles[:SHOWN], spec=spec)
        write_png(make_folder(output / "samples") / f"step_{step:07d}.png", sheet)


def _aspects(pairs: SampleTensors) -> list[float]:
    """True width over height of every picture."""
    return [r.width * r.pixel_aspect / r.height for r in pairs.records]


def _features(images: Tensor, masks: Tensor, aspects: list[float]) -> np.ndarray[Any, Any]:
    """(N, K F) features of the grey image with each mask class in turn, of (N, C, S, S) and (N, K, S, S) uint8."""
    grey = [to_grey(from_channels(image)) for image in images.numpy()]
    layers = masks.transpose(0, 1).numpy()
    found = [feature_matrix(zip(grey, np.where(m > 127, 255, 0), aspects, strict=True)) for m in layers]
    return np.concatenate(found, axis=1)


def _balanced_rows(labels: Tensor, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Up to `count` rows, equally many of each class."""
    classes = torch.unique(labels)
    share = min(max(1, count // len(classes)), int(torch.bincount(labels)[classes].min()))
    rows = []
    for number, label in enumerate(classes):
        pool = torch.nonzero(labels == label).flatten()
        rows.append(pool[torch.randperm(len(pool), generator=generator(seed, number, BASELINE))[:share]])
    return torch.cat(rows).numpy()
