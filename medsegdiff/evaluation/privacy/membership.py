"""Membership inference: does a generator find pictures that it learnt likelier than pictures that it did not?

A model that memorises removes noise from the pictures it learnt better than from others (Matsumoto et al. 2023,
"Membership inference attacks against diffusion models", the loss attack; Carlini et al. 2023, "Extracting training
data from diffusion models", section 5). All pictures get the same noise, so that chance is no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.engine.device import choose_device
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.generators.base import GeneratorCard, LikelihoodScore, find_checkpoint, load_generator
from medsegdiff.statistics.bootstrap import statistic_interval
from medsegdiff.statistics.interval import Interval
from medsegdiff.statistics.roc import rank_auc

LARGEST = 128  # pictures of each side
SMALLEST = 20  # pictures of each side below which there is no figure
CHOICE = 1  # purpose of random numbers


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
        _check_card(path, load_generator(path).card, real)


def _check_card(path: Path, card: GeneratorCard, real: SampleSet) -> None:
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
    generator = load_generator(path, device=choose_device(config.device), precision=config.precision)
    card = generator.card
    _check_card(path, card, real)
    if not isinstance(generator, LikelihoodScore):
        return f"Membership inference: a generator of kind {card.kind!r} says no likelihood of a sample"
    held = [r for split in config.held_out for r in real.select(split).records]
    sides = [_choose(records, card, config.seed) for records in (real.select("train").records, held)]
    if min(len(side) for side in sides) < SMALLEST:
        counts = " and ".join(str(len(side)) for side in sides)
        return f"Membership inference: {counts} train and held-out pictures, at least {SMALLEST} of both needed"
    records = tuple(record for side in sides for record in side)
    data = load_tensors(dataclasses.replace(real, records=records), card.img_size, what="pictures for membership")
    scores = generator.likelihood_score(data, config.seed)
    learnt = np.arange(len(records)) < len(sides[0])
    groups = np.array([record.group for record in records])
    return dataclasses.replace(inferred(scores, learnt, groups, config), checkpoint=card.digest)


def made_by_another(synthetic: Iterable[SampleRecord], digest: str) -> int:
    """How many synthetic pairs say that another checkpoint than that of this digest sampled them."""
    makers = (record.generator for record in synthetic if record.is_synthetic)
    return sum(maker not in ("", digest) for maker in makers)


def _choose(
    records: list[SampleRecord] | tuple[SampleRecord, ...], card: GeneratorCard, seed: int
) -> list[SampleRecord]:
    known = [record for record in records if record.label in card.classes]
    rows = np.random.default_rng([seed, CHOICE]).permutation(len(known))[:LARGEST]
    return [known[i] for i in sorted(rows)]


def inferred(
    scores: Mapping[str, np.ndarray], learnt: np.ndarray, groups: np.ndarray, config: EvaluateConfig
) -> Membership:
    """AUC of recognising `learnt` (N,) pictures by high scores (N,), of each level and of the mean of the levels.

    For the mean each is put on a common scale. The interval comes from a bootstrap over `groups` (N,). Raises
    `ValueError` where one side is empty.
    """
    values = np.stack(list(scores.values()), axis=1)
    scale = np.maximum(values.std(axis=0), 1e-12)
    score = ((values - values.mean(axis=0)) / scale).mean(axis=1)
    interval = statistic_interval(
        lambda rows: rank_auc(score[rows], learnt[rows]), groups, config.bootstrap, config.seed
    )
    by_level = {level: rank_auc(column, learnt) for level, column in scores.items()}
    return Membership(interval, by_level, int(learnt.sum()), int((~learnt).sum()))
