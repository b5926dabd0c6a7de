"""Training a network that predicts the class of a picture, and finding classes with it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from medsegdiff.data.dataset import SampleTensors
from medsegdiff.downstream.classification.models import DEFAULT_MODEL, build_classifier
from medsegdiff.downstream.classification.scores import operating_threshold, positive_class
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.sizes import output_shapes
from medsegdiff.downstream.supervised import SupervisedTrainer
from medsegdiff.engine.device import autocast
from medsegdiff.errors import UserError
from medsegdiff.statistics.roc import macro_auc

PREDICT_BATCH = 32  # pictures predicted together, whatever they were trained in
# What the cross-entropy may take off the AUC on val, at most: less than one more pair in the right order brings
TIE_BREAK = 1e-6


def build_network(config: SegmentConfig, classes: list[str], channels: int = 1) -> nn.Module:
    """The network of the settings, on the CPU.

    Raises `UserError` where there is one class only, and for names, weights and sizes that cannot be.
    """
    if len(classes) < 2:
        hint = "Prepare the data with both, or use --task segment."
        raise UserError("--task classify", f"one class ({', '.join(classes)})", "two or more to distinguish", hint)
    name = config.model or DEFAULT_MODEL
    return build_classifier(name, config.encoder_weights, len(classes), config.dropout, config.img_size, channels)


class ClassificationTrainer(SupervisedTrainer):
    """Trains the timm network `config.model` by cross-entropy; AUC on val picks the weights.

    `classes` are those that the labels count; val has pictures of all of them.
    """

    score_name = "auc"

    def __init__(
        self, config: SegmentConfig, classes: list[str], train: SampleTensors, val: SampleTensors, steps: int
    ) -> None:
        torch.manual_seed(config.seed)
        super().__init__(config, build_network(config, classes, train.spec.channels), train, val, steps)
        self.classes = classes
        self.sizes = list(output_shapes(self.model, self.sizes, train.spec.channels))  # some networks take one only

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with smoothed labels (Szegedy et al. 2016, section 7); the masks play no part."""
        with autocast(self.device, self.config.precision):
            logits = self.model(images)
        return cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)

    def score(self) -> float:
        """AUC on val, the mean of each class against the rest where there are more than two.

        On an easy set many weights reach the same AUC, often 1. Of those the lower cross-entropy H decides: it takes
        off H / (1 + H) millionths.
        """
        probabilities, labels = self._predict_val(self.ema.model), self.val.labels.numpy()
        entropy = -np.log(probabilities[np.arange(len(labels)), labels].clip(1e-12)).mean()
        return macro_auc(probabilities, labels) - TIE_BREAK * float(entropy / (1 + entropy))

    def model_settings(self) -> dict[str, Any]:
        """Grey values, classes, and the threshold with which the best weights have a specificity of 0.9 on val."""
        model = copy.deepcopy(self.ema.model)
        model.load_state_dict(self.best_weights)
        positive = self.classes.index(positive_class(self.classes))
        values = self._predict_val(model)[:, positive]
        threshold = operating_threshold(values, (self.val.labels == positive).numpy())
        return {
            **super().model_settings(),
            "channels": self.train.spec.channels,
            "classes": self.classes,
            "threshold": threshold,
        }

    def _predict_val(self, model: nn.Module) -> np.ndarray:
        return predict_probabilities(model, self.val, self.mean, self.std, self.config, self.device)


@torch.no_grad()
def predict_probabilities(
    model: nn.Module, data: SampleTensors, mean: float, std: float, config: SegmentConfig, device: torch.device
) -> np.ndarray:
    """(N, K) float64 probabilities of the classes of all pictures, each row adding up to 1.

    `model` is in evaluation mode on `device`; `mean` and `std` are the grey values that it was trained with, in [0, 1].
    With `config.tta_flip` the mean of the probabilities of each picture and of its mirror image.
    """
    parts = [
        predict_classes(model, data.batch(rows)[0].to(device), mean, std, config.precision, config.tta_flip).cpu()
        for rows in torch.arange(len(data)).split(PREDICT_BATCH)
    ]
    return torch.cat(parts).numpy()


def predict_classes(model: nn.Module, images: Tensor, mean: float, std: float, precision: str, flip: bool) -> Tensor:
    """float64 probabilities (B, K) of images (B, C, S, S) in [0, 1], on the device of the model.

    `flip`: the mean of those of the pictures and of their mirror images.
    """
    found = []
    for view in [images, images.flip(-1)] if flip else [images]:
        x = ((view - mean) / std).contiguous(memory_format=torch.channels_last)
        with autocast(images.device, precision):
            logits = model(x)
        found.append(logits.double().softmax(dim=1))
    return torch.stack(found).mean(dim=0)
