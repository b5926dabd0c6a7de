"""What a user looks at to know when to stop: val loss by noise level, a cheap sample-quality figure, a sample grid."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsegdiff.conditioning.base import Condition, encode
from medsegdiff.data.dataset import SampleTensors, from_channels
from medsegdiff.data.hashing import to_grey
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.engine.device import autocast
from medsegdiff.engine.files import make_folder, write_bytes, write_png
from medsegdiff.engine.rng import generator
from medsegdiff.features.pair_features import feature_distance, feature_matrix
from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK, sigma_table
from medsegdiff.generators.joint_diffusion.sampling import sample_pairs
from medsegdiff.generators.joint_diffusion.sampling_settings import default_guidance

BANDS = (0.05, 0.15, 0.4, 1.0, 2.5, 6.0, 20.0)  # noise levels at which val is looked at, both modalities alike
EVAL_NOISE, EVAL_SAMPLES, BASELINE = 11, 12, 13  # purpose numbers of the random streams
EVAL_BATCH = 32


class Validator:
    """Evaluates averaged weights with the same noise every time, so that only the weights make a difference."""

    def __init__(
        self,
        config: TrainConfig,
        codec: PairCodec,
        train: SampleTensors,
        val: SampleTensors,
        conditions: list[Condition],
        classes: list[str],
    ) -> None:
        self.config = config
        self.codec = codec
        self.classes = classes
        self.conditions = conditions
        self.known = encode(conditions, [vars(r) for r in val.records])
        self.val = dataclasses.replace(val, masks=encode_sdf(val.masks, codec.sdf_truncation))
        self.best: dict[str, float] = {"step": -1, "val_loss": math.inf}
        self.history: list[dict[str, float]] = []
        train_features, val_features = (_features(s.images, s.masks, _aspects(s)) for s in (train, val))
        self.measured = ~np.isnan(train_features).all(axis=0)  # what no train picture has cannot be compared
        train_features, self.val_features = train_features[:, self.measured], val_features[:, self.measured]
        self.scale = np.nanstd(train_features, axis=0)
        # Equal class shares on both sides: sampling takes classes in turn
        self.val_rows = _balanced_rows(val.labels, config.eval_samples, config.seed)
        baseline_rows = _balanced_rows(train.labels, config.eval_samples, config.seed)
        self.baseline = feature_distance(train_features[baseline_rows], self.val_features[self.val_rows], self.scale)

    def validate(self, model: Denoiser, step: int, output: Path, known: dict[str, float]) -> dict[str, float]:
        """Scores of `model` beside those `known` already; also writes samples/step_<step>.png and history.jsonl."""
        scores = self.val_losses(model) | known
        images, masks, labels = self.sample(model)
        median = float(np.median(_aspects(self.val)))
        features = _features(images, masks, [median] * len(images))[:, self.measured]
        scores["quality/feature_distance"] = feature_distance(features, self.val_features[self.val_rows], self.scale)
        scores["quality/feature_distance_baseline"] = self.baseline
        scores["quality/empty_masks"] = float((masks == 0).flatten(1).all(dim=1).float().mean())
        shown = min(32, len(images))
        titles = [self.classes[int(k)] for k in labels[:shown]]
        spec = self.val.spec
        pictures = [from_channels(image) for image in images[:shown].numpy()]
        maps = [spec.from_coverage(mask) for mask in masks[:shown].numpy()]
        sheet = contact_sheet(pictures, maps, titles, spec=spec)
        write_png(make_folder(output / "samples") / f"step_{step:07d}.png", sheet)
        self.history = [*self.history, {"step": step, **scores}]
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        write_bytes(output / "history.jsonl", lines.encode())
        return scores

    def is_best(self, step: int, scores: dict[str, float]) -> bool:
        """Whether these are the lowest val losses so far; remembers them if so."""
        if not scores["val_loss"] < self.best["val_loss"]:  # written so that NaN is not the best
            return False
        self.best = {"step": step, **scores}
        return True

    @torch.inference_mode()
    def val_losses(self, model: Denoiser) -> dict[str, float]:
        """Weighted loss of each modality in each noise band, and their mean as "val_loss".

        Always with the weight of edm, by which an untrained network has about 1 in every band: that of ddpm would
        rate a network by the middle bands alone.
        """
        weighing = dataclasses.replace(self.config.diffusion, process="edm")
        device = model.modality.device
        result: dict[str, float] = {}
        for band, level in enumerate(BANDS):
            terms = []
            for start in range(0, len(self.val), EVAL_BATCH):
                rows = torch.arange(start, min(start + EVAL_BATCH, len(self.val)))
                images, masks, _ = self.val.batch(rows)
                cond = {name: values[rows].to(device) for name, values in self.known.items()}
                x0 = self.codec.encode(images, masks)
                noise = torch.randn(x0.shape, generator=generator(self.config.seed, band, start, EVAL_NOISE))
                sigma = torch.full((len(x0), 2), level)
                with autocast(device, self.config.precision):
                    loss = denoising_loss(
                        model, x0.to(device), cond, sigma.to(device), noise.to(device),
                        weighing,
                    )  # fmt: skip
                terms.append(loss.float().cpu())
            mean = torch.cat(terms).mean(dim=0)
            result[f"val_image/sigma_{level:g}"] = float(mean[IMAGE])
            result[f"val_mask/sigma_{level:g}"] = float(mean[MASK])
        weights = {"val_image": 1.0, "val_mask": self.config.diffusion.mask_weight}
        total = sum(weights[name.split("/")[0]] * value for name, value in result.items())
        return {"val_loss": total / len(BANDS), **result}

    def sample(self, model: Denoiser) -> tuple[Tensor, Tensor, Tensor]:
        """`eval_samples` pairs, the classes in turn: images (N, C, S, S), masks (N, K, S, S) uint8 and labels (N,).

        Guided as `generate` does by default: what is looked at is what a user will get.
        """
        config = self.config
        labels = torch.arange(config.eval_samples) % len(self.classes)
        sigmas = sigma_table("joint", config.diffusion, config.eval_steps)
        guidance = default_guidance(config.diffusion)
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(labels), EVAL_BATCH):
            chunk = labels[start : start + EVAL_BATCH]
            cond = encode(self.conditions, [{"label": self.classes[int(k)]} for k in chunk])
            shape = (len(chunk), len(self.codec.mean), config.img_size, config.img_size)

            def noise(step: int, start: int = start, shape: tuple[int, ...] = shape) -> Tensor:
                return torch.randn(shape, generator=generator(config.seed, start, step, EVAL_SAMPLES))

            with autocast(model.modality.device, config.precision):
                parts.append(sample_pairs(model, self.codec, cond, sigmas, noise, guidance=guidance))
        images, masks = (torch.cat(column) for column in zip(*parts, strict=True))
        return images, masks, labels


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
