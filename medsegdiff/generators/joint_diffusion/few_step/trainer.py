"""Few-step training: the denoiser of a checkpoint learns to sample in a few network calls, against discriminators.

A denoiser trained by squared error returns the mean of what a noisy picture may have been, so that many small steps are
needed, and a network that is too small leaves anatomy out. Here every estimate has to look like a real pair to
discriminators (Sauer et al. 2023, adversarial diffusion distillation; Xiao et al. 2022, denoising diffusion GANs).
Sampling then is: estimate, add noise of the next level, estimate again (`samplers.renoise`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.device import READ_EVERY, autocast, choose_device, send, settle_precision
from medsegdiff.engine.ema import Averages
from medsegdiff.engine.files import read_record, write_bytes
from medsegdiff.engine.loop import LoopConfig, Scalars, run_loop
from medsegdiff.engine.memory import within_memory
from medsegdiff.engine.optimise import Optimisation
from medsegdiff.engine.rng import generator
from medsegdiff.engine.run_folder import TRAINING, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError, require
from medsegdiff.features.perceptual.efficientnet import packaged_weights
from medsegdiff.features.perceptual.mobilenet import FrozenFeatures, load_mobilenet
from medsegdiff.generators.base import BEST_FILE
from medsegdiff.generators.joint_diffusion.backbones.patch_unet import Settings
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, build_denoiser, load_checkpoint, save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, expand_levels
from medsegdiff.generators.joint_diffusion.few_step.batches import Batch, Batches
from medsegdiff.generators.joint_diffusion.few_step.config import FewStepConfig
from medsegdiff.generators.joint_diffusion.few_step.discriminator import Discriminator, moved
from medsegdiff.generators.joint_diffusion.few_step.lesions import RealLesions
from medsegdiff.generators.joint_diffusion.loss import squared_error
from medsegdiff.generators.joint_diffusion.noise import sigma_table
from medsegdiff.generators.joint_diffusion.run import FINER, LAST_FILE, data_digest
from medsegdiff.generators.joint_diffusion.sample_quality import SampleQuality
from medsegdiff.generators.joint_diffusion.samplers import FEW_STEP
from medsegdiff.generators.joint_diffusion.sampling import sample_labels

logger = logging.getLogger(__name__)

MOVES, WEIGHTS, EVAL_SAMPLES = 34, 35, 36  # purpose numbers of random streams
EVAL_BATCH = 16
MISMATCHED = 0.25  # share of real pairs that are called another class among what is false
ON_MASKS = 2.0  # weight of the discriminators of masks in the generator's loss, beside 1 of each other one
ON_LESIONS = 2.0  # ... and of the one of what is inside and outside of masks
LESIONS = 1.0  # weight of the distance between sizes, outlines and edges of lesions, generated and real
SUREST = 0.6  # least of the largest value of a mask that has a lesion, where the edge is 0.5


def few_step(config: FewStepConfig) -> dict[str, Any]:
    """Train, or go on training; returns the summary that it also writes to `<output_dir>/summary.json`.

    Writes best_model.safetensors (lowest distance of samples to val), last_model.safetensors, samples/, tensorboard/,
    history.jsonl. Raises `UserError` for settings, a checkpoint or data that do not fit.
    """
    config = settle_precision(config)
    pairs = read_samples(Path(config.data_dir))
    denoiser, card, digest = load_checkpoint(Path(config.checkpoint_path))
    _check(config, card, pairs)
    features = load_mobilenet(config.feature_weights)
    places = ("checkpoint_path", "data_dir", "output_dir", "device", "save_every", "feature_weights")
    fingerprint = fingerprint_of(config, "few-step", places) | {
        "checkpoint": digest,
        "data": data_digest(pairs),
        "features": features.digest,
        "best by": "texture" if packaged_weights() is None else "anatomy",
    }
    files = (BEST_FILE, LAST_FILE, "history.jsonl", "samples/*.png")
    folder = RunFolder(config.output_dir, TRAINING, fingerprint, files)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.held())
        if folder.is_finished():
            logger.info("%s holds this run, finished", folder.path)
            return dict(read_record(folder.sign))
        trainer = FewStepTrainer(config, card, denoiser, pairs, features)
        text = "few-step training on %d pairs: %d steps of %d pairs at levels %s on %s"
        shown = ", ".join(f"{level:g}" for level in config.sigmas)
        logger.info(text, len(trainer.batches.train_set), config.num_steps, config.batch_size, shown, trainer.device)
        loop = LoopConfig(
            folder=folder,
            total_steps=config.num_steps,
            evals=config.evals,
            save_every=config.save_every,
            images_per_step=config.batch_size,
            bar=("loss", "discriminator_loss"),
            read_every=READ_EVERY.get(trainer.device.type, 1),
            sample_ids=trainer.sample_ids,
        )
        summary = run_loop(trainer, loop, "few-step training")
        save_checkpoint(folder.path / LAST_FILE, trainer.ema.model.state_dict(), trainer.card_at(config.num_steps))
        return folder.finish(summary | {"best": trainer.best, "config": dataclasses.asdict(config)})


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Of logits (k, B, n) of real pairs and (1, B, n) of generated ones; 2 by chance alone, 0 where all is known.

    With k = 2 the second logits are those of real pairs called another class, which count as generated ones to a share
    of `MISMATCHED` (Reed et al., ICML 2016): discriminators hardly look at the class otherwise.
    """
    loss, false = relu(1 - real[0]).mean(), relu(1 + fake).mean()
    if len(real) > 1:
        false = (1 - MISMATCHED) * false + MISMATCHED * relu(1 + real[1]).mean()
    return loss + false


def lacking_lesion(masks: Tensor, has_lesion: Tensor) -> Tensor:
    """What the largest values of estimated masks (B, K, S, S) lack of `SUREST`, the mean over those that have a lesion.

    `has_lesion` (B,) is 0 or 1. Discriminators see a mask without a lesion as one false picture among many, and take
    thousands of steps over the last few in a hundred.
    """
    return (relu(SUREST - masks.flatten(1).amax(dim=1)) * has_lesion).sum() / has_lesion.sum().clamp(min=1)


def _adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Without momentum, as usual where two networks chase each other."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.99), fused=True)


def _check(config: FewStepConfig, card: ModelCard, pairs: SampleSet) -> None:
    """Raise `UserError` for a checkpoint that cannot learn this, or that learnt other pictures."""
    where, hint = f"--checkpoint_path {config.checkpoint_path}", "Give the checkpoint of an ordinary training."
    require(not card.few_step, where, "a checkpoint of few-step training", "one that is not yet", hint)
    require(
        isinstance(card.model, Settings),
        where,
        f"backbone {card.backbone}",
        "patch_unet",
        "Train one with --backbone patch_unet.",
    )
    require(
        bool(card.arrays.foreground), where, f"a checkpoint of {card.arrays}", "one of pairs", "Train it with masks."
    )
    arrays, labels = card.arrays == pairs.arrays, card.classes == list(pairs.classes)
    found = f"classes {', '.join(pairs.classes)} and {pairs.arrays.to_json()}"
    expected = f"those of the checkpoint: {', '.join(card.classes)} and {card.arrays.to_json()}"
    hint = "Give the sample folder of that training."
    require(arrays and labels, f"--data_dir {pairs.root}", found, expected, hint)
    learnt = {hashes["image_hash"] for hashes in card.train_hashes}
    own = {record.image_hash for record in pairs.select("train").records}
    expected = "the train split that the checkpoint learnt, and no other: it would have seen val or test pictures"
    found = f"{len(own - learnt)} train pictures that it did not learn, {len(learnt - own)} that are missing"
    require(own == learnt, f"--data_dir {pairs.root}", found, expected, hint)


class FewStepTrainer:
    """Steps, evaluation and state of generator and discriminators, for `run_loop`."""

    def __init__(
        self, config: FewStepConfig, card: ModelCard, denoiser: Denoiser, pairs: SampleSet, features: FrozenFeatures
    ) -> None:
        self.config, self.device = config, choose_device(config.device)
        assert isinstance(card.model, Settings)
        model = dataclasses.replace(card.model, layout_code=True, dropout=0.0)
        self.card = dataclasses.replace(card, model=model, few_step=list(config.sigmas), step=0, scores={})
        self.codec, self.classes = card.codec, card.classes
        large = load_tensors(pairs.select("train"), FINER * card.img_size, what="train split")
        val, train = (load_tensors(pairs.select(s), card.img_size, what=f"{s} split") for s in ("val", "train"))
        self.quality = SampleQuality(train, val, config.eval_samples, config.seed, self.device)
        self.denoiser = self._network(denoiser).to(self.device)
        self.batches = Batches(config, card, self.denoiser, large)
        self.ema = Averages(self.denoiser, [config.ema_length])
        channels, kinds = len(self.codec.mean), 2 * len(self.classes)
        torch.manual_seed(int(generator(config.seed, WEIGHTS).initial_seed()))
        self.discriminator = Discriminator(
            features,
            channels,
            self.codec.image_channels,
            kinds,
            self.codec.sdf_truncation,
            config.seed,
        ).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = self.discriminator.weights(ON_MASKS, ON_LESIONS).to(self.device)
        named = torch.tensor([float(name in card.lesion_classes) for name in self.classes])
        self.has_lesion = named.repeat(2).to(self.device)  # of both sizes of pictures
        self.real_lesions = self._real_lesions()
        self.learning = [p for p in self.discriminator.parameters() if p.requires_grad]  # not what it looks through
        self.sides = (
            Optimisation(
                self.denoiser,
                _adam(list(self.denoiser.parameters()), config.lr),
                self.ema,
                precision=config.precision,
                grad_clip=config.grad_clip,
            ),
            Optimisation(self.discriminator, _adam(self.learning, config.discriminator_lr), precision=config.precision),
        )
        self.best: dict[str, float] = {"step": -1, "distance": math.inf}
        self.history: list[dict[str, float]] = []

    def _network(self, trained: Denoiser) -> Denoiser:
        """The network of the checkpoint with a layout code, which as yet says nothing."""
        torch.manual_seed(int(generator(self.config.seed, WEIGHTS, 1).initial_seed()))
        network = build_denoiser(self.card)
        network.load_state_dict(trained.state_dict(), strict=False)
        return network

    def card_at(self, step: int, scores: dict[str, float] | None = None) -> ModelCard:
        """What travels with the weights of `step`."""
        return dataclasses.replace(self.card, step=step, scores=scores or {})

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the pairs that `step` sees."""
        return [self.batches.train_set.records[row].id for row in self.batches.rows(step).tolist()]

    def _seen(
        self, batch: Batch, x: Tensor, noisy: Tensor, random: torch.Generator, also: Tensor | None = None
    ) -> list[Tensor]:
        """Logits (k, B, n) of the discriminators of pairs x beside noisy ones.

        k is 2 where they are looked at as of other kinds (B,) too (`also`).
        """
        modality = self.denoiser.modality
        scale = 1 / (batch.sigma.square() + SIGMA_DATA**2).sqrt()
        # At the first level the noisy pair is noise alone, from which the network has to make variety: discriminators
        # that saw it would tell its pictures by what they owe to it, and teach it to pay the noise no heed
        scale = torch.where(batch.sigma < self.config.sigmas[0], scale, 0.0)
        image, mask = self.codec.pixels(x)
        both = torch.cat([torch.cat([image, mask], dim=1) * 2 - 1, noisy * expand_levels(scale, modality, x.ndim)], 1)
        both, channels = moved(both, random), x.shape[1]
        kinds = batch.kind[None] if also is None else torch.stack([batch.kind, also])
        logits: list[Tensor] = self.discriminator(both[:, :channels], both[:, channels:], kinds, batch.level)
        return logits

    def _others(self, kind: Tensor, random: torch.Generator) -> Tensor | None:
        """(B,) kinds of the same size and of another class; None where there is one class only."""
        count = len(self.classes)
        if count < 2:
            return None
        further = 1 + (torch.rand(len(kind), generator=random) * (count - 1)).long()
        return kind // count * count + (kind % count + send(further, kind.device)) % count

    def _real_lesions(self) -> RealLesions:
        """Those of the train split, class by class, and once more without the finest detail."""
        train = self.batches.train_set
        pictures = [avg_pool2d(arrays.float() / 255, FINER) for arrays in (train.images, train.masks)]
        low_res = self.denoiser.low_res
        small = pictures if low_res is None else [low_res.enlarged(low_res.reduced(array)) for array in pictures]
        rows = [train.labels == number for number in range(len(self.classes))]
        found = []
        for images, coded in (pictures, small):
            masks = self.codec.covered(coded)
            found += [(images[own], masks[own]) for own in rows]
        return RealLesions(found, self.device)

    def _lesions_apart(self, batch: Batch, images: Tensor, masks: Tensor) -> Tensor:
        """Of estimated pairs from those of their kind, where the network began with noise alone."""
        rows = torch.nonzero(batch.own & (self.has_lesion[batch.kind] > 0)).flatten()
        return self.real_lesions.apart(images[rows], self.codec.covered(masks[rows]), batch.kind[rows])

    def train_step(self, step: int) -> Scalars:
        """One step of the generator, then one of the discriminators on the same pairs.

        Raises `UserError` where memory does not hold it.
        """
        found = f"{self.config.batch_size}, too many for the memory of {self.device}"
        hint = "Give a smaller one and a new --output_dir."
        too_large = functools.partial(UserError, "--batch_size", found, "fewer pairs a step", hint)
        return within_memory(lambda: self._step(step), too_large)

    def _step(self, step: int) -> Scalars:
        config, batch = self.config, self.batches.make(step)
        share = min(1.0, (step + 1) / config.warmup_steps)
        random = functools.partial(generator, config.seed, step, MOVES)
        found: dict[str, Tensor] = {}

        def generator_loss(_: int) -> Tensor:
            with autocast(self.device, config.precision):
                estimate = self.denoiser(batch.noisy, batch.sigma, batch.cond)
                error = squared_error(self.denoiser, estimate, batch.real)
                images, masks = (array.float() for array in self.codec.pixels(estimate))
                lacking = lacking_lesion(masks, self.has_lesion[batch.kind])
                apart = self._lesions_apart(batch, images, masks)
                regression = (error * batch.weight).sum(dim=1).mean() + lacking + LESIONS * apart
                logits = self._seen(batch, estimate, batch.noisy, random(0))
            fooled = -(torch.stack([of_one.float().mean() for of_one in logits]) * self.weights).sum()
            found["estimate"] = estimate.detach().float()
            found.update(adversarial=fooled.detach(), regression=regression.detach(), lesions=apart.detach())
            return fooled + regression

        def discriminator_loss(_: int) -> Tensor:
            with autocast(self.device, config.precision):
                others = self._others(batch.kind, random(3))
                real = self._seen(batch, batch.real, batch.real_noisy, random(1), others)
                fake = self._seen(batch, found["estimate"], batch.noisy, random(2))
            loss = torch.stack([hinge_loss(r.float(), f.float()) for r, f in zip(real, fake, strict=True)]).mean()
            found["discriminator"] = loss.detach()
            return loss

        for p in self.learning:
            p.requires_grad_(False)
        norm = self.sides[0].step(step, config.lr * share, generator_loss)
        for p in self.learning:
            p.requires_grad_(True)
        self.sides[1].step(step, config.discriminator_lr * share, discriminator_loss)
        assert norm is not None
        return {
            "loss": found["adversarial"] + found["regression"],
            "regression": found["regression"],
            "lesions_apart": found["lesions"],
            "discriminator_loss": found["discriminator"],
            "grad_norm": norm,
        }

    def evaluate(self, step: int) -> dict[str, float]:
        """Sample quality and a sample grid of the averaged weights; saves them where they are the best."""
        output = Path(self.config.output_dir)
        images, masks, titles = self._sample()
        scores = self.quality.scores(images, masks)
        self.quality.write_sheet(output, step, images, masks, titles)
        self.history.append({"step": step, **scores})
        write_bytes(output / "history.jsonl", "".join(json.dumps(row) + "\n" for row in self.history).encode())
        distance = scores.get("quality/perceptual_distance", scores["quality/feature_distance"])
        if distance < self.best["distance"]:
            self.best = {"step": step, "distance": distance, **scores}
            save_checkpoint(output / BEST_FILE, self.ema.model.state_dict(), self.card_at(step, scores))
        return scores

    def _sample(self) -> tuple[Tensor, Tensor, list[str]]:
        """`eval_samples` pairs, the classes in turn, always of the same noise."""
        config = self.config
        labels = [self.classes[k % len(self.classes)] for k in range(config.eval_samples)]
        images, masks = sample_labels(
            self.ema.model,
            self.codec,
            self.card.conditions,
            labels,
            self.card.img_size,
            sigma_table("joint", self.card.diffusion, 0, config.sigmas),
            lambda row, step: generator(config.seed, row, step, EVAL_SAMPLES),
            batch=EVAL_BATCH,
            precision=config.precision,
            sampler=FEW_STEP,
        )
        return images, masks, labels

    def finished(self) -> bool:
        """The number of steps is fixed by the settings."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Both networks, both optimisers, the average, best so far."""
        networks = {"denoiser": self.denoiser.state_dict(), "discriminator": self._learnt()}
        sides = [side.state_dict() for side in self.sides]
        return networks | {"sides": sides, "best": self.best, "history": self.history}

    def _learnt(self) -> dict[str, Tensor]:
        """The discriminators without the network that they look through."""
        return {k: v for k, v in self.discriminator.state_dict().items() if not k.startswith("features.")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all of it back."""
        self.denoiser.load_state_dict(state["denoiser"])
        features = {k: v for k, v in self.discriminator.state_dict().items() if k.startswith("features.")}
        self.discriminator.load_state_dict(features | state["discriminator"])
        for side, own in zip(self.sides, state["sides"], strict=True):
            side.load_state_dict(own)
        self.best, self.history = state["best"], state["history"]
