"""Membership inference: does the model's denoising loss distinguish pictures that it learnt from pictures that it did
not?

A model that memorises removes noise from the pictures it learnt better than from others (Matsumoto et al. 2023,
"Membership inference attacks against diffusion models", the loss attack; Carlini et al. 2023, "Extracting training
data from diffusion models", section 5). All pictures get the same noise, so that chance is no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medsegdiff.conditioning.condition import Condition
from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.engine.device import autocast, choose_device
from medsegdiff.engine.rng import generator
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, find_checkpoint, load_checkpoint
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA, encode_sdf
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import highest_sigma
from medsegdiff.statistics.bootstrap import statistic_interval
from medsegdiff.statistics.interval import Interval
from medsegdiff.statistics.roc import rank_auc

LEVELS = (0.3, 1.0)  # noise, in standard deviations of the data: one that hides fine detail, one that hides outlines
FURTHER = 2.0  # ... and, where high noise is taken off smaller pictures, one so many times above where that begins
LARGEST = 128  # pictures of each side
SMALLEST = 20  # pictures of each side below which there is no figure
BATCH = 16
CHOICE, NOISE = 1, 2  # purposes of random numbers


@dataclass(frozen=True)
class Membership:
    """How well losses distinguish train pictures from held-out ones; 0.5 is not at all."""

    auc: Interval
    by_level: dict[str, float]  # AUC at each noise level, in standard deviations of the data
    train: int  # pictures
    held_out: int
    checkpoint: str = ""  # digest of the one that was asked


def check_checkpoint(config: EvaluateConfig, real: SampleSet) -> None:
    """Raise `UserError` where a checkpoint is given that did not learn exactly the train split of the real set."""
    if config.checkpoint_path is not None:
        path = find_checkpoint(Path(config.checkpoint_path))
        _check_card(path, load_checkpoint(path)[1], real)


def _check_card(path: Path, card: ModelCard, real: SampleSet) -> None:
    learnt = {hashes["image_hash"] for hashes in card.train_hashes}
    train = {record.image_hash for record in real.select("train").records}
    if learnt != train:
        found = f"a model of {len(learnt)} pictures, of which {len(learnt & train)} are among the train split's"
        expected = f"a model of exactly the {len(train)} train pictures of {real.root}"
        hint = "Give the sample folder that it was trained on, or leave --checkpoint_path out."
        raise UserError(path, found, expected, hint)


def membership(config: EvaluateConfig, real: SampleSet) -> Membership | str:
    """Membership inference for the checkpoint of the settings; a sentence where there are too few pictures.

    At most `LARGEST` pictures of each side are taken, at random. Raises `UserError` as `check_checkpoint` does.
    """
    path = find_checkpoint(Path(str(config.checkpoint_path)))
    denoiser, card, digest = load_checkpoint(path)
    _check_card(path, card, real)
    held = [r for split in config.held_out for r in real.select(split).records]
    sides = [_choose(records, card, config.seed) for records in (real.select("train").records, held)]
    if min(len(side) for side in sides) < SMALLEST:
        counts = " and ".join(str(len(side)) for side in sides)
        return f"Membership inference: {counts} train and held-out pictures, at least {SMALLEST} of both needed"
    records = tuple(record for side in sides for record in side)
    data = load_tensors(dataclasses.replace(real, records=records), card.img_size, what="pictures for membership")
    labels = torch.tensor([card.classes.index(record.label) for record in records])
    losses = denoising_losses(denoiser.to(choose_device(config.device)), card, data, labels, config)
    learnt = np.arange(len(records)) < len(sides[0])
    groups = np.array([record.group for record in records])
    return dataclasses.replace(inferred(losses, levels_of(card), learnt, groups, config), checkpoint=digest)


def made_by_another(synthetic: Iterable[SampleRecord], digest: str) -> int:
    """How many synthetic pairs say that another checkpoint than that of this digest drew them."""
    makers = (record.generator for record in synthetic if record.is_synthetic)
    return sum(maker not in ("", digest) for maker in makers)


def _choose(records: list[SampleRecord] | tuple[SampleRecord, ...], card: ModelCard, seed: int) -> list[SampleRecord]:
    known = [record for record in records if record.label in card.classes]
    rows = np.random.default_rng([seed, CHOICE]).permutation(len(known))[:LARGEST]
    return [known[i] for i in sorted(rows)]


def levels_of(card: ModelCard) -> tuple[float, ...]:
    """Noise levels at which losses are compared, in standard deviations of the data.

    One more where high noise is taken off smaller pictures: at that level the network is asked of such a picture.
    """
    if card.model.low_res_factor == 1:
        return LEVELS
    level = min(FURTHER * card.model.low_res_sigma, highest_sigma(card.diffusion))
    return (*LEVELS, level / SIGMA_DATA)


@torch.no_grad()
def denoising_losses(
    denoiser: Denoiser, card: ModelCard, data: SampleTensors, labels: Tensor, config: EvaluateConfig
) -> np.ndarray:
    """(N, L) weighted errors, summed over image and mask, of N pairs at the L `levels_of` the card.

    `labels` (N,) are class indices of the card. The noise depends on (seed, level) alone: it is the same for every
    picture.
    """
    device = next(denoiser.parameters()).device
    data = dataclasses.replace(data, masks=encode_sdf(data.masks, card.codec.sdf_truncation))
    batches = torch.arange(len(data)).split(BATCH)
    levels = levels_of(card)
    losses = np.zeros((len(data), len(levels)))
    for rows in tqdm(batches, desc="membership", unit="batch", leave=False):
        images, masks, _ = data.batch(rows)
        x0 = card.codec.encode(images, masks).to(device)
        cond = Condition(labels[rows].to(device))
        for k, level in enumerate(levels):
            noise = torch.randn((1, *x0.shape[1:]), generator=generator(config.seed, k, NOISE)).to(device)
            sigma = torch.full((len(rows), 2), level * SIGMA_DATA, device=device)
            with autocast(device, config.precision):
                terms = denoising_loss(denoiser, x0, cond, sigma, noise.expand_as(x0), card.diffusion)
            losses[rows.numpy(), k] = terms.float().sum(dim=1).cpu().numpy()
    return losses


def inferred(
    losses: np.ndarray, levels: tuple[float, ...], learnt: np.ndarray, groups: np.ndarray, config: EvaluateConfig
) -> Membership:
    """AUC of reporting `learnt` (N,) pictures by low losses (N, L) at `levels`.

    It is that of the mean of the levels, each on a common scale. The interval comes from a bootstrap over `groups`
    (N,). Raises `ValueError` where one side is empty.
    """
    scale = np.maximum(losses.std(axis=0), 1e-12)
    score = -((losses - losses.mean(axis=0)) / scale).mean(axis=1)
    interval = statistic_interval(
        lambda rows: rank_auc(score[rows], learnt[rows]), groups, config.bootstrap, config.seed
    )
    by_level = {str(level): rank_auc(-losses[:, k], learnt) for k, level in enumerate(levels)}
    return Membership(interval, by_level, int(learnt.sum()), int((~learnt).sum()))
