"""Training a segmentation network on samples, and finding lesions with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medsegdiff.data.arrays import GREY_BINARY, ArraySpec
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
from medsegdiff.errors import require

PREDICT_BATCH = 32  # pictures predicted together, whatever they were trained in


class SegmentationTrainer(SupervisedTrainer):
    """Trains the network of `config.model` and `config.encoder`; mean Dice on val picks the weights."""

    score_name = "dice"

    def __init__(
        self, config: SegmentConfig, classes: list[str], train: SampleTensors, val: SampleTensors, steps: int
    ) -> None:
        torch.manual_seed(config.seed)
        model = build_network(config, train.spec)
        sizes = sizes_taken(model, training_sizes(config.img_size), train.spec.channels)  # some take one only
        super().__init__(config, model, train, val, steps)
        self.sizes = sizes

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """The loss of the network's own paper where it has one (MADGNet), else `segmentation_loss`."""
        smoothing = self.config.label_smoothing
        with autocast(self.device, self.config.precision):
            if isinstance(self.model, MADGNet):
                return self.model.training_loss(images, masks, smoothing)
            logits = self.model(images)
        if self.train.spec.is_binary:
            return segmentation_loss(logits.float(), masks, smoothing)
        return label_map_loss(logits.float(), masks, smoothing)

    def score(self) -> float:
        """Mean Dice over val, picture by picture and class by class; without mirror images, for speed."""
        config = dataclasses.replace(self.config, tta_flip=False)
        found = predict_masks(self.ema.model, self.val, self.mean, self.std, config, self.device)
        return float(mean_dice(found, true_masks(self.val), self.val.spec).mean())

    def model_settings(self) -> dict[str, Any]:
        """What the arrays are, beside the grey values."""
        return super().model_settings() | {"arrays": self.train.spec.to_json()}


def build_network(config: SegmentConfig, spec: ArraySpec = GREY_BINARY) -> nn.Module:
    """The network of the settings, on the CPU. Raises `UserError` for names, weights and sizes that cannot be."""
    name = config.model or DEFAULT_MODEL
    encoder = config.encoder or DEFAULT_ENCODERS.get(name, DEFAULT_ENCODER)
    hint = "Give samples that have masks; --task classify needs none."
    require(spec.mask_values is not None, "--task segment", "samples without masks", "samples with masks", hint)
    model = build_model(name, encoder, config.encoder_weights, config.dropout, spec)
    check_size(model, config.img_size, f"{name} with {encoder}", spec.channels)
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


def label_map_loss(logits: Tensor, masks: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy + soft Dice loss of smp, the mean over the classes that the batch shows.

    `logits` (B, 1 + K, S, S), the background first, and `masks` (B, K, S, S), soft in [0, 1]; `smoothing` of the labels
    concerns the cross-entropy.
    """
    shares = torch.cat([(1 - masks.sum(dim=1, keepdim=True)).clamp(min=0), masks], dim=1)
    entropy = cross_entropy(logits, shares / shares.sum(dim=1, keepdim=True), label_smoothing=smoothing)
    dice: Tensor = DiceLoss("multiclass", smooth=1.0)(logits, shares.argmax(dim=1))
    return entropy + dice


def predict(model: nn.Module, images: Tensor, mean: float, std: float, precision: str, flip: bool) -> Tensor:
    """float32 logits (B, L, S, S) of images (B, C, S, S) in [0, 1], on the device of the model.

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
    """(N, S, S) masks of all pairs.

    Of binary masks booleans: probability above one half. Of label maps uint8 numbers of the most probable classes, 0
    background.
    """
    parts: list[Tensor] = []
    for rows in torch.arange(len(data)).split(PREDICT_BATCH):
        images, _, _ = data.batch(rows)
        logits = predict(model, images.to(device), mean, std, config.precision, config.tta_flip)
        parts.append((logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(dim=1).byte()).cpu())
    return torch.cat(parts).numpy()


def true_masks(data: SampleTensors) -> np.ndarray:
    """(N, S, S) true masks, as `predict_masks` gives them: what covers most of a pixel."""
    index = data.spec.index_of(data.masks.numpy())
    return index > 0 if data.spec.is_binary else index


def mean_dice(found: np.ndarray, true: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """(N,) Dice of (N, S, S) masks as `predict_masks` gives them, the mean over the classes."""
    classes = range(1, 1 + len(spec.foreground))
    both = zip(found, true, strict=True)
    return np.array([np.mean([overlaps(p == k, t == k)["dice"] for k in classes]) for p, t in both])
