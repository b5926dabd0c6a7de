"""Phase 2: train the joint denoiser on the train split of samples, watching val; the test split is not touched."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from medsegdiff.conditioning.augmentation import Augmentation
from medsegdiff.conditioning.base import Condition, Conditions, encode
from medsegdiff.conditioning.registry import CONDITIONS, condition_class
from medsegdiff.data.dataset import SampleTensors, load_tensors, with_mask_channel
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import GENERATIVE, augment, augment_conditioned
from medsegdiff.engine.checkpointing import checkpoint_blocks
from medsegdiff.engine.compiling import compile_network, compiles, missing_for_compile
from medsegdiff.engine.device import READ_EVERY, autocast, send, settle_precision
from medsegdiff.engine.distributed import Distributed
from medsegdiff.engine.ema import Averages
from medsegdiff.engine.loop import LoopConfig, Scalars, lr_factor, run_loop
from medsegdiff.engine.memory import BatchSizeFinder, within_memory
from medsegdiff.engine.optimise import Optimisation
from medsegdiff.engine.rng import generator
from medsegdiff.engine.run_folder import RunFolder
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import BEST_FILE
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, build_denoiser, save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK, hide_masks, of_images_alone, sample_sigma
from medsegdiff.generators.joint_diffusion.run import (
    FINER,
    LAST_FILE,
    check_shares,
    enter,
    initial_file,
    run_folder,
    start_from,
)
from medsegdiff.generators.joint_diffusion.validator import Validator

logger = logging.getLogger(__name__)

AUGMENT, NOISE, WEIGHTS, DROPOUT, PRICE = 1, 2, 3, 4, 5  # purpose numbers of the random streams


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, or go on training; returns the summary that it also writes to `<output_dir>/summary.json`.

    Writes best_model.safetensors (lowest val loss), last_model.safetensors, samples/, tensorboard/, history.jsonl. Of
    several processes (`accelerate launch`) each computes its share of every batch; the main one alone writes.
    Raises `UserError` for settings or data that do not fit, and where memory does not hold a batch.
    """
    processes = Distributed(config.device)
    config = settle_precision(config, processes.device)
    if not config.find_batch_size:
        check_shares(config, processes, "Change the setting.")
    compiles(config.compile, processes.device)
    pairs = read_samples(Path(config.data_dir))
    generated = [r.id for r in pairs.records if r.is_synthetic]
    if generated:
        raise UserError(
            pairs.root,
            f"{len(generated)} synthetic pairs, the first {generated[0]}",
            "real pairs only, since a checkpoint says by their hashes what it saw",
            "Give the folder that prepare wrote.",
        )
    with contextlib.ExitStack() as stack:
        config, found, summary = processes.run_on_main(lambda: enter(config, pairs, stack))
        if found:
            check_shares(config, processes, "Start as many processes as before.")
        return summary or _train(config, pairs, processes, found)


def _train(config: TrainConfig, pairs: SampleSet, processes: Distributed, found: bool) -> dict[str, Any]:
    trainer = DiffusionTrainer(config, pairs, processes)
    if config.find_batch_size:
        if not found:
            config = trainer.config = trainer.batch_size_finder.fitted(config)
        trainer.build_kernels()
    folder = run_folder(config, pairs)
    n = len(trainer.train_set)
    per_step = config.batch_size * config.accumulate
    total = config.num_epochs * max(1, math.ceil(n / per_step))
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    logger.info(
        "training on %d pairs, watching %d val pairs: %s parameters, %d steps of %d pairs on %s",
        n, len(trainer.val_set), f"{parameters / 1e6:.1f} M", total, per_step, trainer.device,
    )  # fmt: skip
    trainer.total_steps = total
    if total < config.warmup_steps:
        text = "all %d steps are warm-up (--warmup_steps %d): the learning rate does not reach %g; train longer"
        logger.warning(text, total, config.warmup_steps, config.lr)
    if trainer.small_steps:
        text = "the first %d steps are on pictures of %d pixels; val is looked at when they are done"
        logger.info(text, trainer.small_steps, config.first_size)
    elif config.progressive_resizing:
        logger.info("all steps are on pictures of %d pixels: half of that does not suit", config.img_size)
    if trainer.small_steps or trainer.denoiser.low_res is not None:  # the first steps need less memory than later ones
        trainer.batch_size_finder.check(config)
    loop = LoopConfig(
        folder=folder,
        total_steps=total,
        evals=config.evals,
        evals_from=trainer.small_steps,
        save_every=config.save_every,
        images_per_step=per_step,
        bar=("image_loss", "mask_loss"),
        read_every=READ_EVERY.get(trainer.device.type, 1),
        sample_ids=trainer.sample_ids,
        processes=processes,
    )
    summary = run_loop(trainer, loop, "training")
    return processes.run_on_main(lambda: _finish(trainer, summary, per_step, folder))


def _finish(trainer: DiffusionTrainer, summary: dict[str, Any], per_step: int, folder: RunFolder) -> dict[str, Any]:
    """Write the last weights and the summary of `run_loop`, completed; returns it."""
    config, total = trainer.config, trainer.total_steps
    save_checkpoint(folder.path / LAST_FILE, trainer.ema.model.state_dict(), trainer.card(total))
    summary |= {
        "parameters": sum(p.numel() for p in trainer.denoiser.parameters()),
        "train_pairs": len(trainer.train_set),
        "images_per_second": round(summary["steps"] * per_step / max(summary["seconds"], 1e-9), 1),
        "best": trainer.validator.best,
        "config": dataclasses.asdict(config),
    }
    summary = folder.finish(summary)
    logger.info(
        "best model: step %d, val loss %.4f", trainer.validator.best["step"], trainer.validator.best["val_loss"]
    )
    return summary


class Objective(nn.Module):
    """The loss as a network of its own, so that it can be spread over processes."""

    def __init__(self, denoiser: Denoiser, config: DiffusionConfig) -> None:
        super().__init__()
        self.denoiser, self.config = denoiser, config

    def forward(self, x0: Tensor, cond: Conditions, sigma: Tensor, noise: Tensor, high: int | None = None) -> Tensor:
        """(M,) mean loss of each modality; arguments as of `denoising_loss`."""
        return denoising_loss(self.denoiser, x0, cond, sigma, noise, self.config, high).mean(dim=0)


class DiffusionTrainer:
    """Steps, evaluation and state of the joint denoiser, for `run_loop`."""

    def __init__(self, config: TrainConfig, pairs: SampleSet, processes: Distributed | None = None) -> None:
        self.has_masks = bool(pairs.arrays.foreground)
        if not self.has_masks:
            config = dataclasses.replace(config, diffusion=of_images_alone(config.diffusion))
        self.config = config
        self.total_steps = 1
        self.processes = processes or Distributed(config.device)
        self.device = self.processes.device
        self.pairs = pairs
        self.train_set = with_mask_channel(load_tensors(pairs.select("train"), config.img_size, what="train split"))
        for label in pairs.classes:
            require(
                len(pairs.select("train", label)) > 0,
                str(pairs.root),
                f"no train pair of class {label}",
                "at least one of each class",
                "Prepare the data anew.",
            )
        self.val_set = with_mask_channel(load_tensors(pairs.select("val"), config.img_size, what="val split"))
        names = [*config.conditions, *([Augmentation.name] if config.augment_prob else [])]
        self.conditions: list[Condition] = [
            condition_class(name).fit(self.train_set, pairs.classes, config.condition_dropout, vars(config))
            for name in CONDITIONS
            if name in names
        ]
        self.known = encode(self.conditions, [vars(r) for r in self.train_set.records])
        radius = config.diffusion.sdf_truncation
        self.codec = PairCodec.fit(self.train_set.images, encode_sdf(self.train_set.masks, radius), radius)
        torch.manual_seed(int(generator(config.seed, WEIGHTS).initial_seed()))
        self.learnt_before: list[dict[str, str]] = []
        fresh = build_denoiser(self.card(0))
        if config.init_from is not None:
            self.learnt_before = start_from(initial_file(config.init_from), fresh, self.card(0), pairs)
        self.denoiser = fresh.to(self.device)
        self.ema = Averages(self.denoiser, config.ema_lengths)
        self.optimiser = torch.optim.AdamW(
            self.denoiser.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.optimisation = Optimisation(
            self.denoiser, self.optimiser, self.ema, precision=config.precision, grad_clip=config.grad_clip
        )
        self.validator = Validator(config, self.codec, self.train_set, self.val_set, self.conditions, pairs.classes)
        # Moving a picture takes its finest detail, which networks would learn to leave out: it is moved where that is
        # finer than what they see
        self.finer = FINER if config.augment else 1
        sizes = {self.finer * side for side in (config.first_size, config.img_size)}
        self.resident = {side: self._coded(side).to(self.device) for side in sorted(sizes)}
        # What follows changes how this network computes; its averaged copy stays plain
        if config.checkpoint_gradients:
            checkpoint_blocks(self.denoiser)
        if not config.find_batch_size:  # whose trials would be a graph each
            self.build_kernels()
        self.objective = Objective(self.denoiser, config.diffusion)
        self.network = self.processes.prepare(self.objective)
        smaller = "Lower --img_size or --model.model_channels"
        self.batch_size_finder = BatchSizeFinder(
            self.objective, self._trial_loss, self.optimiser, self.processes, smaller
        )

    def build_kernels(self) -> None:
        """Have torch.compile build what `--compile` asks for."""
        if compiles(self.config.compile, self.device):
            # A graph for each size of pictures, of which some are seen smaller where noise is high
            self.denoiser.sizes_stand = self.denoiser.low_res is not None
            compile_network(self.denoiser.backbone, self.processes.count > 1, self.denoiser.sizes_stand)
        elif self.config.compile == "auto" and self.device.type == "cuda":
            logger.info("training without torch.compile, for want of %s", missing_for_compile(self.device))

    def _coded(self, size: int) -> SampleTensors:
        """The train split at `size` x `size` pixels, its masks coded as far from their edges as at full size."""
        read = self.train_set
        if size != self.config.img_size:
            read = with_mask_channel(load_tensors(self.pairs.select("train"), size, what=f"train split, {size} px"))
        radius = self.config.diffusion.sdf_truncation * size / self.config.img_size
        return dataclasses.replace(read, masks=encode_sdf(read.masks, radius))

    @property
    def small_steps(self) -> int:
        """Steps before the pictures have their full size."""
        return (
            int(self.config.progressive_resizing * self.total_steps)
            if self.config.first_size < self.config.img_size
            else 0
        )

    @functools.cached_property
    def small_price(self) -> float:
        """Work of a step on small pictures, share of one at full size: by the pixels that the network sees."""
        low_res, sample = self.denoiser.low_res, 4096
        sigma = sample_sigma(sample, self.config.diffusion, generator(self.config.seed, PRICE))
        high = self.denoiser.by_size(sigma)[1] / sample
        full = 1.0 if low_res is None else 1 - high + high / low_res.factor**2
        return float(self.config.first_size / self.config.img_size) ** 2 / full

    def card(self, step: int, scores: dict[str, float] | None = None) -> ModelCard:
        """What travels with the weights of `step`."""
        records = self.train_set.records
        aspects: dict[str, list[float]] = {name: [] for name in self.pairs.classes}
        for r in records:
            aspects[r.label].append(round(r.width * r.pixel_aspect / r.height, 4))
        filled = (self.train_set.masks > 0).flatten(1).any(dim=1)
        lesions = [c for i, c in enumerate(self.pairs.classes) if bool(filled[self.train_set.labels == i].any())]
        return ModelCard(
            img_size=self.config.img_size,
            classes=self.pairs.classes,
            lesion_classes=lesions,
            conditions=self.conditions,
            model=self.config.model,
            diffusion=self.config.diffusion,
            codec=self.codec,
            aspects=aspects,
            train_hashes=self._learnt(),
            step=step,
            scores=scores or {},
            backbone=self.config.backbone,
            arrays=self.train_set.spec,
            always_shown={c: self._always_shown(i) for i, c in enumerate(self.pairs.classes)},
        )

    def _learnt(self) -> list[dict[str, str]]:
        """Hashes of the train pictures, and of those that the initial weights had learnt."""
        own = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in self.train_set.records]
        known = {hashes["image_hash"] for hashes in own}
        return own + [hashes for hashes in self.learnt_before if hashes["image_hash"] not in known]

    def _always_shown(self, label: int) -> dict[str, float]:
        """Mask classes that every train picture of the class of this number shows, and the least share of it."""
        if not self.has_masks:
            return {}
        shares = (self.train_set.masks[self.train_set.labels == label] > 127).flatten(2).double().mean(dim=2)
        least = zip(self.train_set.spec.foreground, shares.amin(dim=0).tolist(), strict=True)
        return {name: round(share, 6) for name, share in least if share > 0}

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the pairs that `step` sees."""
        config, labels = self.config, self.train_set.labels
        count = config.batch_size * config.accumulate
        rows = sample_indices(labels, step * count, count, config.seed, config.balance_classes)
        return [self.train_set.records[row].id for row in rows.tolist()]

    def _batch(self, sample: int, seed_step: int) -> tuple[Tensor, Conditions, Tensor, Tensor, int]:
        """x0, conditions, sigma, noise and `high` of this process's share of the batch of samples `sample` and on.

        Random numbers are made for the whole batch, so that it is the same one for any number of processes. Pictures
        that are small already are not made smaller where noise is high.
        """
        config = self.config
        rows = sample_indices(self.train_set.labels, sample, config.batch_size, config.seed, config.balance_classes)
        small = seed_step < self.small_steps * config.accumulate
        size = self.finer * (config.first_size if small else config.img_size)
        images, masks, _ = self.resident[size].batch(send(rows, self.device))
        cond = {name: values[rows] for name, values in self.known.items()}
        chance = generator(config.seed, seed_step, AUGMENT)
        if config.augment_prob:
            images, masks, cond[Augmentation.name] = augment_conditioned(
                images, masks, GENERATIVE, config.augment_prob, chance
            )
        elif config.augment:
            images, masks = augment(images, masks, GENERATIVE, chance)
        images, masks = avg_pool2d(images, self.finer), avg_pool2d(masks, self.finer)
        for c in self.conditions:
            if c.name in cond:
                cond[c.name] = c.seen(cond[c.name], images, masks)
        random = generator(config.seed, seed_step, NOISE)
        x0 = self.codec.encode(images, masks)
        sigma = sample_sigma(len(x0), config.diffusion, random)
        if not self.has_masks:
            hide_masks(sigma, config.diffusion)
        noise = torch.randn(x0.shape, generator=random)
        for c in self.conditions:
            cond[c.name] = c.hidden(cond[c.name], random)
        own, high = torch.arange(len(x0))[self.processes.share(len(x0))], 0
        if not small:
            order, high = self.denoiser.by_size(sigma[own])
            own = own[order]
        sigma, noise = (send(part[own], self.device) for part in (sigma, noise))
        cond = {name: send(values[own], self.device) for name, values in cond.items()}
        return x0[send(own, self.device)], cond, sigma, noise, high

    def _loss(self, sample: int, seed_step: int) -> Tensor:
        """(M,) mean loss of each modality over this process's share of the batch of samples `sample` and on."""
        batch = self._batch(sample, seed_step)
        seed = generator(self.config.seed, seed_step, DROPOUT).initial_seed()  # dropout uses the global generator
        torch.manual_seed((seed + self.processes.rank) % 2**63)
        with autocast(self.device, self.config.precision):
            loss: Tensor = self.network(*batch)
        return loss

    def _trial_loss(self, pairs: int, config: TrainConfig) -> Tensor:
        """The loss of so many blank full-size pairs at a level where none is seen smaller."""
        x0 = torch.zeros(pairs, len(self.denoiser.modality), config.img_size, config.img_size, device=self.device)
        with autocast(self.device, config.precision):
            sigma = torch.ones(pairs, 2, device=self.device)
            loss: Tensor = self.objective(x0, {}, sigma, torch.ones_like(x0), 0)
        return loss.sum()

    def train_step(self, step: int) -> Scalars:
        """One optimiser step over `accumulate` batches. Raises `UserError` where memory does not hold one."""
        too_large = functools.partial(self.batch_size_finder.too_large, self.config)
        return within_memory(lambda: self._step(step), too_large)

    def _step(self, step: int) -> Scalars:
        config = self.config
        cheap, price = self.small_steps, self.small_price
        lr = config.lr * lr_factor(step, config.warmup_steps, self.total_steps, cheap=cheap, price=price)
        total = torch.zeros(2, device=self.device)

        def loss(part: int) -> Tensor:
            number = step * config.accumulate + part
            terms = self._loss(number * config.batch_size, number)
            total.add_(terms.detach() / config.accumulate)
            return (terms[IMAGE] + config.diffusion.mask_weight * terms[MASK]).div(config.accumulate)

        around = functools.partial(self.processes.averaging, self.network)
        norm = self.optimisation.step(step, lr, loss, config.accumulate, around)
        assert norm is not None
        image, mask = total.double()
        weighed = image + config.diffusion.mask_weight * mask
        return {"loss": weighed, "image_loss": image, "mask_loss": mask, "grad_norm": norm, "lr": lr}

    def evaluate(self, step: int) -> dict[str, float]:
        """Val losses, sample quality and a sample grid of the averaged weights; saves them where they are the best.

        The main process does it, which has the pairs of val to itself; others get the scores.
        """
        return self.processes.run_on_main(lambda: self._evaluate(step))

    def _evaluate(self, step: int) -> dict[str, float]:
        output = Path(self.config.output_dir)
        found = {}
        if step == self.total_steps and len(self.ema.lengths) > 1:
            found = self.ema.choose(lambda model: self.validator.val_losses(model)["val_loss"])
            shown = ", ".join(f"{length:g}: {loss:.4f}" for length, loss in found.items())
            logger.info("val loss by length of the average: %s", shown)
        known = {f"val_loss_of_average/{length:g}": loss for length, loss in found.items()}
        known["ema_length"] = self.ema.lengths[self.ema.chosen]
        scores = self.validator.validate(self.ema.model, step, output, known)
        if self.validator.is_best(step, scores):
            save_checkpoint(output / BEST_FILE, self.ema.model.state_dict(), self.card(step, scores))
        return scores

    def finished(self) -> bool:
        """The number of steps is fixed by the settings."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Raw and averaged weights, optimiser, best so far."""
        return {
            "denoiser": self.denoiser.state_dict(),
            **self.optimisation.state_dict(),
            "best": self.validator.best,
            "history": self.validator.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all of it back."""
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimisation.load_state_dict(state)
        self.validator.best = state["best"]
        self.validator.history = state["history"]
