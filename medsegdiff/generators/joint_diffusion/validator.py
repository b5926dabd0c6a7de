"""What a user looks at to know when to stop: val loss by noise level, a cheap sample-quality figure, a sample grid."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from medsegdiff.conditioning.base import Condition, encode_seen
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.engine.device import autocast, choose_device
from medsegdiff.engine.files import write_bytes
from medsegdiff.engine.rng import generator
from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK, hide_masks, sigma_table
from medsegdiff.generators.joint_diffusion.sample_quality import SampleQuality
from medsegdiff.generators.joint_diffusion.sampling import sample_labels
from medsegdiff.generators.joint_diffusion.sampling_settings import default_guidance

BANDS = (0.05, 0.15, 0.4, 1.0, 2.5, 6.0, 20.0)  # noise levels at which val is looked at, both modalities alike
EVAL_NOISE, EVAL_SAMPLES = 11, 12  # purpose numbers of the random streams
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
        self.has_masks = bool(train.spec.foreground)
        self.classes = classes
        self.conditions = conditions
        self.known = encode_seen(conditions, val)
        self.val = dataclasses.replace(val, masks=encode_sdf(val.masks, codec.sdf_truncation))
        self.best: dict[str, float] = {"step": -1, "val_loss": math.inf}
        self.history: list[dict[str, float]] = []
        self.quality = SampleQuality(train, val, config.eval_samples, config.seed, choose_device(config.device))

    def validate(self, model: Denoiser, step: int, output: Path, known: dict[str, float]) -> dict[str, float]:
        """Scores of `model` beside those `known` already; also writes samples/step_<step>.png and history.jsonl."""
        scores = self.val_losses(model) | known
        images, masks, labels = self.sample(model)
        scores |= self.quality.scores(images, masks)
        self.quality.write_sheet(output, step, images, masks, labels)
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
                if not self.has_masks:
                    hide_masks(sigma, weighing)
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

    def sample(self, model: Denoiser) -> tuple[Tensor, Tensor, list[str]]:
        """`eval_samples` pairs, the classes in turn: images (N, C, S, S), masks (N, K, S, S) uint8 and N labels.

        Guided as `generate` does by default: what is looked at is what a user will get.
        """
        config = self.config
        labels = [self.classes[k % len(self.classes)] for k in range(config.eval_samples)]
        images, masks = sample_labels(
            model,
            self.codec,
            self.conditions,
            labels,
            config.img_size,
            sigma_table("joint" if self.has_masks else "text_to_image", config.diffusion, config.eval_steps),
            lambda row, step: generator(config.seed, row, step, EVAL_SAMPLES),
            batch=EVAL_BATCH,
            precision=config.precision,
            guidance=default_guidance(config.diffusion),
        )
        return images, masks, labels
