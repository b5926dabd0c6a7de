"""Phase 2: train the joint denoiser on the train split of PAIRS, watching val; the test split is not touched."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from medsegdiff.checkpoint import BEST_FILE, ModelCard, build_denoiser, save_checkpoint
from medsegdiff.config import DiffusionConfig, TrainConfig, identity_of, require, require_fraction, require_positive
from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import PairSet, read_pairs
from medsegdiff.data.transforms import GENERATIVE, augment, generator
from medsegdiff.diffusion.codec import SIGMA_DATA, PairCodec
from medsegdiff.diffusion.condition import Condition
from medsegdiff.diffusion.loss import denoising_loss
from medsegdiff.diffusion.noise import IMAGE, MASK, draw_sigma
from medsegdiff.errors import UserError
from medsegdiff.files import SUMMARY_FILE, clear_leftovers, make_folder, read_json, refuse_other_phase, write_json
from medsegdiff.locks import locked
from medsegdiff.models.backbones import check_backbone
from medsegdiff.training.device import autocast, choose_device, settle_precision
from medsegdiff.training.ema import EMA
from medsegdiff.training.loop import LoopConfig, lr_factor, run_loop
from medsegdiff.training.sampling import draw_indices
from medsegdiff.training.state import refuse_other_run
from medsegdiff.training.watch import Watch

logger = logging.getLogger(__name__)

LAST_FILE = "last_model.safetensors"
AUGMENT, NOISE, WEIGHTS, DROPOUT = 1, 2, 3, 4  # purpose numbers of the random streams


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, or go on training; returns the summary that it also writes to `<output_dir>/summary.json`.

    Writes best_model.safetensors (lowest val loss), last_model.safetensors, samples/, tensorboard/, history.jsonl.
    Raises `UserError` for settings or data that do not fit.
    """
    config = settle_precision(config)
    check_settings(config)
    pairs = read_pairs(Path(config.data_dir))
    generated = [r.id for r in pairs.records if r.is_synthetic]
    if generated:
        raise UserError(
            pairs.root,
            f"{len(generated)} synthetic pairs, the first {generated[0]}",
            "real pairs only, since a checkpoint tells by their hashes what it saw",
            "Give the folder that prepare wrote.",
        )
    output = Path(config.output_dir)
    refuse_other_phase(output, SUMMARY_FILE, "a folder for checkpoints")
    make_folder(output)
    identity = identity_of(config, "train", ("data_dir", "output_dir", "device", "save_every"))
    identity |= {"data": data_digest(pairs)}
    with locked(output):
        clear_leftovers(output, BEST_FILE, LAST_FILE, SUMMARY_FILE, "history.jsonl", "samples/*.png")
        return _finished(output, identity) or _train(config, pairs, output, identity)


def _finished(output: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished run with the same settings; other settings are a `UserError`."""
    if not (output / SUMMARY_FILE).is_file():
        return None
    summary: dict[str, Any] = read_json(output / SUMMARY_FILE)
    if "identity" not in summary:  # an older run; the state beside it tells
        return None
    refuse_other_run(output, summary["identity"], identity)
    logger.info("%s holds this run, finished", output)
    return summary


def _train(config: TrainConfig, pairs: PairSet, output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    trainer = DiffusionTrainer(config, pairs)
    n = len(trainer.train_set)
    per_step = config.batch_size * config.accumulate
    total = config.num_epochs * max(1, math.ceil(n / per_step))
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    logger.info(
        "training on %d pairs, watching %d val pairs: %s parameters, %d steps of %d pairs on %s",
        n, len(trainer.val_set), f"{parameters / 1e6:.1f} M", total, per_step, trainer.device,
    )  # fmt: skip
    trainer.total_steps = total
    loop = LoopConfig(
        output_dir=output,
        total_steps=total,
        evals=config.evals,
        save_every=config.save_every,
        images_per_step=per_step,
        identity=identity,
        bar=("image_loss", "mask_loss"),
    )
    summary = run_loop(trainer, loop, "training")
    save_checkpoint(output / LAST_FILE, trainer.ema.state_dict(), trainer.card(total))
    summary |= {
        "parameters": parameters,
        "train_pairs": n,
        "images_per_second": round(summary["steps"] * per_step / max(summary["seconds"], 1e-9), 1),
        "best": trainer.watch.best,
        "config": dataclasses.asdict(config),
        "identity": identity,
    }
    write_json(output / SUMMARY_FILE, summary)  # last of all: it says that the run is finished
    logger.info("best model: step %d, val loss %.4f", trainer.watch.best["step"], trainer.watch.best["val_loss"])
    return summary


def check_settings(config: TrainConfig) -> None:
    """Raise `UserError` for a setting that cannot work."""
    require_positive(
        img_size=config.img_size, batch_size=config.batch_size, accumulate=config.accumulate, lr=config.lr,
        num_epochs=config.num_epochs, evals=config.evals, save_every=config.save_every,
        eval_samples=config.eval_samples,
        warmup_steps=config.warmup_steps, grad_clip=config.grad_clip,
    )  # fmt: skip
    require(config.eval_steps >= 2, "--eval_steps", config.eval_steps, "2 or more")
    require(config.seed >= 0, "--seed", config.seed, "0 or more")
    require(config.weight_decay >= 0, "--weight_decay", config.weight_decay, "0 or more")
    require_fraction("label_dropout", config.label_dropout)
    require_fraction("ema_decay", config.ema_decay)
    m = config.model
    sizes = ("patch_size", "model_channels", "num_res_blocks", "num_heads")
    require_positive(**{f"model.{name}": getattr(m, name) for name in sizes})
    require(bool(m.channel_mult) and min(m.channel_mult) > 0, "--model.channel_mult", m.channel_mult, "1 or more each")
    require(m.transformer_depth >= 0, "--model.transformer_depth", m.transformer_depth, "0 or more")
    require_fraction("model.dropout", m.dropout)
    multiple = m.patch_size * 2 ** (len(m.channel_mult) - 1)
    require(
        config.img_size % multiple == 0,
        "--img_size",
        config.img_size,
        f"a multiple of {multiple} (patch_size times the halvings of the U-Net)",
        f"Try {max(1, round(config.img_size / multiple)) * multiple}.",
    )
    widest = m.model_channels * m.channel_mult[-1]
    check_backbone(config.backbone, m)
    require(widest % m.num_heads == 0, "--model.num_heads", m.num_heads, f"a divisor of {widest} channels")
    require((m.in_channels, m.out_channels) == (1, 1), "--model.in_channels", (m.in_channels, m.out_channels), "1, 1")
    _check_noise(config.diffusion)
    shares = [getattr(config.diffusion, f"share_{k}") for k in ("independent", "mask_clean", "image_clean", "marginal")]
    require(min(shares) >= 0 and sum(shares) <= 1, "--diffusion.share_*", shares, "shares that add up to at most 1")


def _check_noise(d: DiffusionConfig) -> None:
    require_positive(
        **{"diffusion.timesteps": d.timesteps, "diffusion.min_snr": d.min_snr, "diffusion.rho": d.rho},
        **{"diffusion.image_p_std": d.image_p_std, "diffusion.mask_p_std": d.mask_p_std},
    )
    require(d.mask_weight >= 0, "--diffusion.mask_weight", d.mask_weight, "0 or more")
    betas, levels = (d.beta_start, d.beta_end), (d.sigma_min, d.sigma_max)
    require(0 < betas[0] <= betas[1] < 1, "--diffusion.beta_start, beta_end", betas, "0 < start <= end < 1")
    require(0 < levels[0] < levels[1], "--diffusion.sigma_min, sigma_max", levels, "0 < min < max")
    require(d.sigma_data == SIGMA_DATA, "--diffusion.sigma_data", d.sigma_data, f"{SIGMA_DATA}, as the codec makes it")


def data_digest(pairs: PairSet) -> str:
    """A short digest of what train and val hold, so that a run is not resumed on other data."""
    rows = [r for r in pairs.records if r.split != "test"]
    text = " ".join(pairs.classes)
    text += "".join(f"{r.id}{r.split}{r.label}{r.image_hash}{r.mask_hash}{r.pixel_aspect}" for r in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class DiffusionTrainer:
    """Steps, evaluation and state of the joint denoiser, for `run_loop`."""

    def __init__(self, config: TrainConfig, pairs: PairSet) -> None:
        self.config = config
        self.total_steps = 1
        self.device = choose_device(config.device)
        self.pairs = pairs
        self.train_set = load_tensors(pairs.select("train"), config.img_size, what="train split")
        for label in pairs.classes:
            require(
                len(pairs.select("train", label)) > 0,
                str(pairs.root),
                f"no train pair of class {label}",
                "at least one of each class",
                "Prepare the data anew.",
            )
        self.val_set = load_tensors(pairs.select("val"), config.img_size, what="val split")
        self.codec = PairCodec.fit(self.train_set.images, self.train_set.masks)
        torch.manual_seed(int(generator(config.seed, WEIGHTS).initial_seed()))
        self.denoiser = build_denoiser(self.card(0)).to(self.device)
        self.ema = EMA(self.denoiser, config.ema_decay)
        self.optimiser = torch.optim.AdamW(
            self.denoiser.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.watch = Watch(config, self.codec, self.train_set, self.val_set, pairs.classes)

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
            model=dataclasses.replace(self.config.model, num_classes=len(self.pairs.classes)),
            diffusion=self.config.diffusion,
            codec=self.codec,
            aspects=aspects,
            train_hashes=[{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in records],
            step=step,
            scores=scores or {},
            backbone=self.config.backbone,
        )

    def _loss(self, draw: int, seed_step: int) -> Tensor:
        """(M,) mean loss of each modality over the batch of draws draw, draw + 1, ..."""
        config = self.config
        rows = draw_indices(self.train_set.labels, draw, config.batch_size, config.seed, config.balance_classes)
        images, masks, labels = self.train_set.batch(rows)
        if config.augment:
            images, masks = augment(images, masks, GENERATIVE, generator(config.seed, seed_step, AUGMENT))
        random = generator(config.seed, seed_step, NOISE)
        x0 = self.codec.encode(images, masks).to(self.device)
        sigma = draw_sigma(len(x0), config.diffusion, random).to(self.device)
        noise = torch.randn(x0.shape, generator=random).to(self.device)
        keep = torch.rand(len(x0), generator=random) >= config.label_dropout
        cond = Condition(labels.to(self.device), keep.to(self.device))
        torch.manual_seed(generator(config.seed, seed_step, DROPOUT).initial_seed())  # dropout uses the global one
        with autocast(self.device, config.precision):
            return denoising_loss(self.denoiser, x0, cond, sigma, noise, config.diffusion).mean(dim=0)

    def train_step(self, step: int) -> dict[str, float]:
        """One optimiser step over `accumulate` batches."""
        config = self.config
        self.denoiser.train()
        lr = config.lr * lr_factor(step, config.warmup_steps, self.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        total = torch.zeros(2)
        for part in range(config.accumulate):
            number = step * config.accumulate + part
            terms = self._loss(number * config.batch_size, number)
            (terms[IMAGE] + config.diffusion.mask_weight * terms[MASK]).div(config.accumulate).backward()
            total += terms.detach().cpu() / config.accumulate
        norm = clip_grad_norm_(self.denoiser.parameters(), config.grad_clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.denoiser, step)
        image, mask = total.tolist()
        loss = image + config.diffusion.mask_weight * mask
        return {"loss": loss, "image_loss": image, "mask_loss": mask, "grad_norm": float(norm), "lr": lr}

    def evaluate(self, step: int) -> dict[str, float]:
        """Val losses, sample quality and a sample grid of the averaged weights; saves them where they are the best."""
        output = Path(self.config.output_dir)
        scores = self.watch.look(self.ema.model, step, output)
        if self.watch.is_best(step, scores):
            save_checkpoint(output / BEST_FILE, self.ema.state_dict(), self.card(step, scores))
        return scores

    def finished(self) -> bool:
        """The number of steps is fixed by the settings."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Raw and averaged weights, optimiser, best so far."""
        return {
            "denoiser": self.denoiser.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.watch.best,
            "history": self.watch.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all of it back."""
        self.denoiser.load_state_dict(state["denoiser"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.watch.best = state["best"]
        self.watch.history = state["history"]
