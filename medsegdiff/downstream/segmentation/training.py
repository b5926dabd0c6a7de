"""Training a segmentation network on samples, and finding lesions with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medsegdiff.data.dataset import SampleTensors
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.madgnet import MADGNet
from medsegdiff.downstream.segmentation.models import (
    DEFAULT_ENCODER,
    DEFAULT_ENCODERS,
    DEFAULT_MODEL,
    build_model,
    check_size,
    sizes_taken,
)
from medsegdiff.downstream.segmentation.scores import overlaps
from medsegdiff.downstream.supervised import SupervisedTrainer, training_sizes
from medsegdiff.engine.device import autocast

PREDICT_BATCH = 32  # pictures predicted together, whatever they were trained in


class SegmentationTrainer(SupervisedTrainer):
    """Trains the network of `config.model` and `config.encoder`; mean Dice on val picks the weights."""

    score_name = "dice"

    def __init__(
        self, config: SegmentConfig, classes: list[str], train: SampleTensors, val: SampleTensors, steps: int
    ) -> None:
        torch.manual_seed(config.seed)
        model = build_network(config)
        sizes = sizes_taken(model, training_sizes(config.img_size))  # some take one only
        super().__init__(config, model, train, val, steps)
        self.sizes = sizes

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """The loss of the network's own paper where it has one (MADGNet), else `segmentation_loss`."""
        smoothing = self.config.label_smoothing
        with autocast(self.device, self.config.precision):
            if isinstance(self.model, MADGNet):
                return self.model.training_loss(images, masks, smoothing)
            logits = self.model(images)
        return segmentation_loss(logits.float(), masks, smoothing)

    def score(self) -> float:
        """Mean Dice over val, picture by picture; without mirror images, for speed."""
        config = dataclasses.replace(self.config, tta_flip=False)
        found = predict_masks(self.ema.model, self.val, self.mean, self.std, config, self.device)
        return float(np.mean([overlaps(p, t)["dice"] for p, t in zip(found, true_masks(self.val), strict=True)]))


def build_network(config: SegmentConfig) -> nn.Module:
    """The network of the settings, on the CPU. Raises `UserError` for names, weights and sizes that cannot be."""
    name = config.model or DEFAULT_MODEL
    encoder = config.encoder or DEFAULT_ENCODERS.get(name, DEFAULT_ENCODER)
    model = build_model(name, encoder, config.encoder_weights, config.dropout)
    check_size(model, config.img_size, f"{name} with {encoder}")
    return model


def segmentation_loss(logits: Tensor, masks: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy + soft Dice loss (Milletari et al. 2016, with one pixel of smoothing), Dice image by image.

    `logits` and `masks` (B, 1, S, S), masks soft in [0, 1]; `smoothing` of the labels concerns the cross-entropy
    (Szegedy et al. 2016, section 7).
    """
    probability = torch.sigmoid(logits)
    both = (probability * masks).sum(dim=(1, 2, 3))
    dice = (2 * both + 1) / (probability.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3)) + 1)
    targets = masks * (1 - smoothing) + smoothing / 2
    return binary_cross_entropy_with_logits(logits, targets) + 1 - dice.mean()


def predict(model: nn.Module, images: Tensor, mean: float, std: float, precision: str, flip: bool) -> Tensor:
    """float32 logits (B, 1, S, S) of images in [0, 1], of the same shape, on the device of the model.

    `flip`: the mean of the logits of the pictures and of their mirror images.
    """
    x = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    with autocast(images.device, precision):
        logits: Tensor = model(x).float()
        if flip:
            logits = (logits + model(x.flip(-1)).float().flip(-1)) / 2
    return logits


@torch.no_grad()
def predict_masks(
    model: nn.Module, data: SampleTensors, mean: float, std: float, config: SegmentConfig, device: torch.device
) -> np.ndarray:
    """(N, S, S) boolean masks of all pairs: probability above one half."""
    parts: list[Tensor] = []
    for rows in torch.arange(len(data)).split(PREDICT_BATCH):
        images, _, _ = data.batch(rows)
        logits = predict(model, images.to(device), mean, std, config.precision, config.tta_flip)
        parts.append(logits[:, 0].cpu() > 0)
    return torch.cat(parts).numpy()


def true_masks(data: SampleTensors) -> np.ndarray:
    """(N, S, S) boolean true masks: pixels of which the lesion covers at least half."""
    return (data.masks[:, 0] >= 128).numpy()
