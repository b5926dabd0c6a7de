"""Phase 5: train a segmentation network on PAIRS, keep the best weights on val, score them once on test."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medsegdiff.config import SegmentConfig, identity_of, require, require_positive
from medsegdiff.data.dataset import PairTensors, load_tensors, pixel_size
from medsegdiff.data.records import PairRecord, PairSet, read_pairs
from medsegdiff.data.transforms import SEGMENTATION, augment, generator
from medsegdiff.errors import UserError
from medsegdiff.files import (
    SCORES_FILE,
    clear_leftovers,
    differing_keys,
    make_folder,
    read_json,
    refuse_other_phase,
    write_json,
)
from medsegdiff.locks import locked
from medsegdiff.segmentation.models import build_model, load_model, save_model
from medsegdiff.segmentation.results import (
    OVERLAYS_FILE,
    PER_IMAGE_FILE,
    ImageScore,
    check_comparable,
    compare,
    content_digest,
    draw_overlays,
    format_table,
    read_run,
    summarise,
    write_rows,
)
from medsegdiff.segmentation.scores import overlaps, score_image
from medsegdiff.training.device import autocast, choose_device, settle_precision
from medsegdiff.training.ema import EMA
from medsegdiff.training.loop import LoopConfig, lr_factor, run_loop
from medsegdiff.training.sampling import draw_indices
from medsegdiff.training.state import STATE_FOLDER

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "best_model.safetensors"
COMPARISON_FILE = "comparison.json"
SIZE_FACTOR = 32  # the encoders halve the picture five times
AUGMENT, DROPOUT = 1, 2  # purposes of random numbers
# What does not decide the weights: where things lie, and what is done with the scores afterwards.
NOT_IDENTITY = ("data_dir", "output_dir", "baseline", "bootstrap", "device", "save_every")


def segment(config: SegmentConfig) -> dict[str, Any]:
    """Train, score on test, write everything to `config.output_dir`, and return scores.json's content.

    With `config.baseline` the result has "comparison" too. The same call goes on where an interrupted one stopped, and
    returns the scores of a finished one without training. Raises `UserError` for bad settings or data.
    """
    config = settle_precision(config)
    check_settings(config)
    pairs = read_pairs(Path(config.data_dir))
    check_splits(pairs)
    test = pairs.select("test")
    output = Path(config.output_dir)
    baseline = _read_baseline(config, test)
    identity = {**identity_of(config, "segment", NOT_IDENTITY), "data": content_digest(pairs.records)}
    with locked(make_folder(output)):
        clear_leftovers(output, WEIGHTS_FILE, OVERLAYS_FILE, PER_IMAGE_FILE, SCORES_FILE, COMPARISON_FILE)
        if not _finished(output, identity):
            results, rows = _train_and_test(config, pairs, identity)
            write_rows(output / PER_IMAGE_FILE, rows)
            write_json(output / SCORES_FILE, results)
        # Only now is there nothing left to resume; a run killed before it got here left them
        shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
        results, rows = read_run(output)
        results["test"] = summarise(rows, config.bootstrap, config.seed)
        if baseline is not None:
            scopes = compare(rows, baseline, config.bootstrap, config.seed)
            results["comparison"] = {"baseline": str(config.baseline), "scopes": scopes}
            write_json(output / COMPARISON_FILE, results["comparison"])
    logger.info("%s", format_table(results))
    return results


def check_settings(config: SegmentConfig) -> None:
    """Raise `UserError` for a setting that cannot work, before anything is read."""
    require_positive(
        epochs=config.epochs,
        patience=config.patience,
        evals=config.evals,
        lr=config.lr,
        grad_clip=config.grad_clip,
        img_size=config.img_size,
        bootstrap=config.bootstrap,
        save_every=config.save_every,
    )
    require(config.seed >= 0, "--seed", config.seed, "0 or more")
    require(config.weight_decay >= 0, "--weight_decay", config.weight_decay, "0 or more")
    require(config.warmup_steps >= 0, "--warmup_steps", config.warmup_steps, "0 or more")
    require(0 <= config.ema_decay < 1, "--ema_decay", config.ema_decay, "from 0 to below 1")
    require(config.steps is None or config.steps > 0, "--steps", config.steps, "a number above 0")
    require(config.batch_size >= 2, "--batch_size", config.batch_size, "2 or more, as batch normalisation needs")
    below = max(SIZE_FACTOR, config.img_size // SIZE_FACTOR * SIZE_FACTOR)
    expected = f"a multiple of {SIZE_FACTOR}, such as {below} or {below + SIZE_FACTOR}"
    require(config.img_size % SIZE_FACTOR == 0, "--img_size", config.img_size, expected)


def check_splits(pairs: PairSet) -> None:
    """Raise `UserError` where a split or a class of test is empty, or where a picture of val or test is not clean.

    Clean: real, and neither it nor another one of its group is in an earlier split (train, val, test).
    """
    for split in ("train", "val", "test"):
        if not len(pairs.select(split)):
            raise UserError(pairs.root, f"no pair in the {split} split", "at least one", "Prepare the data with it.")
    for label in pairs.classes:
        if not len(pairs.select("test", label)):
            hint = "Prepare the data with a larger --test_fraction, or without that class."
            raise UserError(pairs.root, f"no test image of class {label!r}", "at least one of each class", hint)
    seen: dict[str, PairRecord] = {}
    for split in ("train", "val", "test"):
        held = pairs.select(split).records
        for record in held:
            if split != "train" and record.is_synthetic:
                hint = "Make the data set with combine, which puts them into train."
                raise UserError(f"{pairs.root}, {record.id}", f"a synthetic pair in {split}", "real pairs there", hint)
            for key in (record.group, record.image_hash):
                if key in seen:
                    found = f"the same group or picture in {split} and {seen[key].split} ({record.id}, {seen[key].id})"
                    raise UserError(pairs.root, found, "each in one split only", "Prepare the data anew.")
        seen |= {key: record for record in held for key in (record.group, record.image_hash)}


def _read_baseline(config: SegmentConfig, test: PairSet) -> list[ImageScore] | None:
    """The scores to compare with, checked before hours of training rather than after."""
    if config.baseline is None:
        return None
    scores, rows = read_run(Path(config.baseline))
    ids = [r.id for r in test.records]
    check_comparable(Path(config.baseline), scores, ids, content_digest(test.records), config.img_size)
    return rows


def _finished(output: Path, identity: dict[str, Any]) -> bool:
    refuse_other_phase(output, SCORES_FILE, "a folder for weights and scores")
    if not (output / SCORES_FILE).is_file():
        return False
    changed = differing_keys(read_json(output / SCORES_FILE)["identity"], identity)
    if changed:
        raise UserError(
            output,
            f"a finished run with other settings ({'; '.join(changed)})",
            "the same settings, or a folder without a run",
            "Choose another --output_dir, or delete that one.",
        )
    logger.info("%s holds this run, finished; its scores stand", output)
    return True


def _train_and_test(
    config: SegmentConfig, pairs: PairSet, identity: dict[str, Any]
) -> tuple[dict[str, Any], list[ImageScore]]:
    output = Path(config.output_dir)
    train = load_tensors(pairs.select("train"), config.img_size, what="train split")
    val = load_tensors(pairs.select("val"), config.img_size, what="val split")
    steps = config.steps or config.epochs * -(-len(train) // config.batch_size)
    trainer = SegmentationTrainer(config, train, val, steps)
    loop = LoopConfig(
        output_dir=output,
        total_steps=steps,
        evals=config.evals,
        save_every=config.save_every,
        images_per_step=config.batch_size,
        identity=identity,
        bar=("loss", "val_dice"),
    )
    done = run_loop(trainer, loop, f"training {config.model}")
    settings = {"config": identity, "mean": trainer.mean, "std": trainer.std}
    save_model(output / WEIGHTS_FILE, trainer.best_weights, settings)
    rows = score_test_split(output, pairs.select("test"), config)
    results = {
        "config": identity_of(config, "segment"),
        "identity": identity,
        "dataset": {"made_by": pairs.info.get("identity", {}), "class_counts": pairs.info.get("class_counts", {})},
        "img_size": config.img_size,
        "pairs": {"train": len(train), "val": len(val), "test": len(rows)},
        **done,
        "val_dice": trainer.best_dice,
        "best_step": trainer.best_step,
        "test_ids": [row.id for row in rows],
        "test_digest": content_digest(pairs.select("test").records),
        "test": summarise(rows, config.bootstrap, config.seed),
    }
    return results, rows


class SegmentationTrainer:
    """The trainer that `run_loop` drives. All chance depends on (config.seed, step or epoch, purpose) only."""

    def __init__(self, config: SegmentConfig, train: PairTensors, val: PairTensors, steps: int) -> None:
        self.config, self.train, self.val, self.steps = config, train, val, steps
        self.device = choose_device(config.device)
        grey = train.images.double() / 255
        self.mean, self.std = float(grey.mean()), max(float(grey.std()), 1e-3)
        torch.manual_seed(config.seed)
        model = build_model(config.model, config.encoder, config.encoder_weights)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = EMA(self.model, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.best_weights: dict[str, Tensor] = {}
        self.best_dice, self.best_step, self.stale = -1.0, 0, 0

    def train_step(self, step: int) -> dict[str, float]:
        """One optimiser step on an augmented batch; step counts from 0."""
        config = self.config
        first, balanced = step * config.batch_size, config.balance_classes
        index = draw_indices(self.train.labels, first, config.batch_size, config.seed, balanced)
        images, masks, _ = self.train.batch(index)
        random = generator(config.seed, step, AUGMENT)
        images, masks = augment(images.to(self.device), masks.to(self.device), SEGMENTATION, random)
        torch.manual_seed(generator(config.seed, step, DROPOUT).initial_seed())  # dropout draws from the global one
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * lr_factor(step, config.warmup_steps, self.steps)
        self.model.train()
        loss = segmentation_loss(predict(self.model, images, self.mean, self.std, config.precision), masks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        if torch.isfinite(norm):  # else the loop stops with the loss below; keep the weights sound until then
            self.optimizer.step()
        self.ema.update(self.model, step)
        return {"loss": float(loss.detach()), "grad_norm": float(norm), "val_dice": max(self.best_dice, 0.0)}

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean Dice over val of the averaged weights; keeps the best ones."""
        found = predict_masks(self.ema.model, self.val, self.mean, self.std, self.config, self.device)
        true = true_masks(self.val)
        dice = float(np.mean([overlaps(p, t)["dice"] for p, t in zip(found, true, strict=True)]))
        self.stale += 1
        if dice > self.best_dice:
            self.best_dice, self.best_step, self.stale = dice, step, 0
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.ema.state_dict().items()}
        return {"val/dice": dice}

    def finished(self) -> bool:
        """True after `patience` evaluations without a better Dice."""
        return self.stale >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Weights, average, optimiser, and the best so far."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "best": {"dice": self.best_dice, "step": self.best_step, "stale": self.stale},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        best = state["best"]
        self.best_dice, self.best_step, self.stale = best["dice"], best["step"], best["stale"]


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy + soft Dice loss (Milletari et al. 2016, with one pixel of smoothing), Dice image by image.

    `logits` and `masks` (B, 1, S, S), masks soft in [0, 1].
    """
    probability = torch.sigmoid(logits)
    both = (probability * masks).sum(dim=(1, 2, 3))
    dice = (2 * both + 1) / (probability.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3)) + 1)
    return binary_cross_entropy_with_logits(logits, masks) + 1 - dice.mean()


def predict(model: nn.Module, images: Tensor, mean: float, std: float, precision: str) -> Tensor:
    """float32 logits (B, 1, S, S) of images in [0, 1], of the same shape, on the device of the model."""
    x = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    with autocast(images.device, precision):
        logits: Tensor = model(x)
    return logits.float()


@torch.no_grad()
def predict_masks(
    model: nn.Module, data: PairTensors, mean: float, std: float, config: SegmentConfig, device: torch.device
) -> np.ndarray:
    """(N, S, S) boolean masks of all pairs: probability above one half."""
    parts: list[Tensor] = []
    for rows in torch.arange(len(data)).split(config.batch_size):
        images, _, _ = data.batch(rows)
        parts.append(predict(model, images.to(device), mean, std, config.precision)[:, 0].cpu() > 0)
    return torch.cat(parts).numpy()


def true_masks(data: PairTensors) -> np.ndarray:
    """(N, S, S) boolean true masks: pixels of which the lesion covers at least half."""
    return (data.masks[:, 0] >= 128).numpy()


def score_test_split(output: Path, test: PairSet, config: SegmentConfig) -> list[ImageScore]:
    """Score the written weights on the test pairs, the first and only time that these are read; draws overlays."""
    model, settings = load_model(output / WEIGHTS_FILE)
    device = choose_device(config.device)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = load_tensors(test, config.img_size, what="test split")
    found = predict_masks(model, data, settings["mean"], settings["std"], config, device)
    true = true_masks(data)
    pixels = [pixel_size(record, config.img_size) for record in data.records]
    rows = [
        ImageScore(record.id, record.label, **score_image(found[i], true[i], pixels[i]))
        for i, record in enumerate(data.records)
    ]
    draw_overlays(output / OVERLAYS_FILE, data.images[:, 0].numpy(), true, found, rows, pixels)
    return rows
