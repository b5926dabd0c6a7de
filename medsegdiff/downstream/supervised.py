"""What training a segmentation network and training a classifier share: batches, optimiser, average, best weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.sampling import sample_gradual, sample_indices
from medsegdiff.data.transforms import SEGMENTATION_LEVELS, augment
from medsegdiff.downstream.config import SIZE_FACTOR, SegmentConfig
from medsegdiff.engine.device import choose_device, send
from medsegdiff.engine.ema import EMA
from medsegdiff.engine.loop import Scalars, lr_factor
from medsegdiff.engine.optimise import Optimisation
from medsegdiff.engine.rng import generator

AUGMENT, DROPOUT = 1, 2  # purposes of random numbers
SMALLEST = 64  # side of the smallest pictures that training sees, pixels


def training_sizes(img_size: int) -> list[int]:
    """Sides of the pictures that training sees, one after another: from half of `img_size` up, in steps of 32.

    Progressive resizing: much of what a network learns of shape and grey values it learns as well from small pictures,
    at a fraction of the price (Howard's DAWNBench entry 2018; Tan and Le 2021, EfficientNetV2, section 4).
    """
    first = max(SMALLEST, img_size // 2 // SIZE_FACTOR * SIZE_FACTOR)
    return [*range(first, img_size, SIZE_FACTOR), img_size]


def grey_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (of a sample, 0.001 or more) of the grey values of uint8 pictures, in [0, 1].

    By counting the 256 values: floating-point copies would take 16 bytes a pixel.
    """
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum()
    mean = (counts * values).sum() / total
    variance = (counts * (values - mean) ** 2).sum() / (total - 1)
    return float(mean), max(float(variance.sqrt()), 1e-3)


class SupervisedTrainer:
    """The trainer that `run_loop` drives. All chance depends on (config.seed, step or epoch, purpose) only.

    A task gives it `loss` and `score`. The averaged weights with the highest score on val are kept.
    """

    score_name = "score"

    def __init__(
        self, config: SegmentConfig, model: nn.Module, train: SampleTensors, val: SampleTensors, steps: int
    ) -> None:
        self.config, self.train, self.val, self.steps = config, train, val, steps
        self.device = choose_device(config.device)
        self.mean, self.std = grey_statistics(train.images)
        self.synthetic = torch.tensor([record.is_synthetic for record in train.records])
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = EMA(self.model, config.ema_decay)
        optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.optimisation = Optimisation(
            self.model, optimiser, self.ema, precision=config.precision, grad_clip=config.grad_clip
        )
        self.resident = train.to(self.device)
        self.sizes = training_sizes(config.img_size)
        self.best_weights: dict[str, Tensor] = {}
        self.best_score, self.best_step, self.stale = -1.0, 0, 0

    def loss(self, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: standardised images (B, C, S, S), masks (B, K, S, S) and labels, on the device."""
        raise NotImplementedError

    def score(self) -> float:
        """How well `self.ema.model` does on `self.val`; higher is better."""
        raise NotImplementedError

    @property
    def small_steps(self) -> int:
        """Steps before the pictures have their full size."""
        return round(self.config.progressive_resizing * self.steps) if len(self.sizes) > 1 else 0

    def size_at(self, step: int) -> int:
        """Side of the pictures of a step: each smaller size for as many steps as the others, then the full one."""
        if step >= self.small_steps:
            return self.sizes[-1]
        return self.sizes[step * (len(self.sizes) - 1) // self.small_steps]

    def model_settings(self) -> dict[str, Any]:
        """What predicting with the best weights needs beside them; asked for when training is over."""
        return {"mean": self.mean, "std": self.std}

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The augmented, standardised batch of a step, on the device: images, masks and labels."""
        config, labels = self.config, self.train.labels
        first, count = step * config.batch_size, config.batch_size
        if config.mixing == "gradual":
            total = self.steps * config.batch_size
            index = sample_gradual(labels, self.synthetic, first, count, total, config.seed, config.balance_classes)
        else:
            index = sample_indices(labels, first, count, config.seed, config.balance_classes)
        images, masks, labels = self.resident.batch(send(index, self.device))
        if config.augment != "none":
            level = SEGMENTATION_LEVELS[config.augment]
            images, masks = augment(images, masks, level, generator(config.seed, step, AUGMENT))
        size = self.size_at(step)
        if size < config.img_size:
            images, masks = (interpolate(part, size=size, mode="area") for part in (images, masks))
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return images, masks, labels

    def train_step(self, step: int) -> Scalars:
        """One optimiser step on an augmented batch; step counts from 0."""
        config = self.config
        batch = self.batch(step)
        torch.manual_seed(generator(config.seed, step, DROPOUT).initial_seed())  # dropout uses the global one
        lr = config.lr * lr_factor(step, config.warmup_steps, self.steps)
        losses: list[Tensor] = []

        def loss(part: int) -> Tensor:
            losses.append(self.loss(*batch))
            return losses[0]

        norm = self.optimisation.step(step, lr, loss)
        assert norm is not None
        val = {f"val_{self.score_name}": self.best_score} if self.best_step else {}
        return {"loss": losses[0].detach(), "grad_norm": norm, **val}

    def evaluate(self, step: int) -> dict[str, float]:
        """The score of the averaged weights on val; keeps the best ones."""
        score = self.score()
        self.stale += 1
        if score > self.best_score:
            self.best_score, self.best_step, self.stale = score, step, 0
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.ema.state_dict().items()}
        return {f"val/{self.score_name}": score}

    def finished(self) -> bool:
        """True after `patience` evaluations without a better score."""
        return self.stale >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Weights, average, optimiser, and the best so far."""
        return {
            "model": self.model.state_dict(),
            **self.optimisation.state_dict(),
            "best_weights": self.best_weights,
            "best": {"score": self.best_score, "step": self.best_step, "stale": self.stale},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimisation.load_state_dict(state)
        self.best_weights = state["best_weights"]
        best = state["best"]
        self.best_score, self.best_step, self.stale = best["score"], best["step"], best["stale"]
