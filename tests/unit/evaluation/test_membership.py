"""Membership inference from what a generator says of a sample."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_sets import context, sampled, three_sets
from sample_sets import WriteSamples
from tiny_networks import TWO_SIZES, random_checkpoint

from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy.membership import (
    Membership,
    check_checkpoint,
    inferred,
    membership,
)
from medsegdiff.evaluation.sections.privacy import run
from medsegdiff.generators.base import load_generator
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA
from medsegdiff.generators.joint_diffusion.generator import LEVELS, JointDiffusion, levels_of
from medsegdiff.statistics.roc import rank_auc

COUNTS = {"train": 12, "val": 6, "test": 6}  # of each class


def settings(checkpoint: Path | None = None) -> EvaluateConfig:
    """Few resamples."""
    path = None if checkpoint is None else str(checkpoint)
    return EvaluateConfig("", "", checkpoint_path=path, bootstrap=50, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> SampleSet:
    """Ellipses of which a checkpoint may have learnt the train split."""
    return write_ellipses(tmp_path_factory.mktemp("membership") / "pairs", COUNTS, side=16)


def checkpoint_of(pairs: SampleSet, path: Path) -> Path:
    """A network with random weights whose card says that it learnt the train split."""
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in pairs.select("train").records]
    return random_checkpoint(path, train_hashes=hashes)


def test_auc_by_hand() -> None:
    """Damage: a tie counts as a whole, the direction is turned, or a missing side is not reported."""
    assert rank_auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])) == pytest.approx(2.5 / 4)
    assert np.isnan(rank_auc(np.array([1.0, 2.0]), np.array([True, True])))


def test_low_losses_mean_learnt_and_levels_count_alike() -> None:
    """Damage: high losses count as learnt, or the level with the largest losses outweighs the others."""
    learnt = np.array([True] * 10 + [False] * 10)
    order = np.arange(20.0)
    reported = inferred({str(level): -order for level in LEVELS}, learnt, order.astype(str), settings())
    assert reported.auc.value == reported.auc.low == reported.auc.high == 1.0
    assert (reported.train, reported.held_out) == (10, 10)
    mixed = (-1000 * np.random.default_rng(0).permutation(order), -order)
    both = inferred(dict(zip(map(str, LEVELS), mixed, strict=True)), learnt, order.astype(str), settings())
    assert both.auc.value > 0.8
    assert both.by_level[str(LEVELS[0])] < 0.7
    assert both.by_level[str(LEVELS[1])] == 1.0


def test_near_duplicates_widen_the_interval() -> None:
    """Damage: the bootstrap samples pictures instead of groups."""
    random = np.random.default_rng(0)
    learnt = np.arange(60) < 30
    score = np.repeat(random.normal(size=12), 5) + 0.5 * learnt
    scores = {str(level): score for level in LEVELS}
    single, grouped = (inferred(scores, learnt, g, settings()).auc for g in (np.arange(60), np.arange(60) // 5))
    assert grouped.high - grouped.low > 1.4 * (single.high - single.low)


def test_an_untrained_network_remembers_nobody(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: anything but the network's error says the splits apart: other noise, other labels, other sizes."""
    reported = membership(settings(checkpoint_of(pairs, tmp_path / "c.safetensors")), pairs)
    assert isinstance(reported, Membership)
    assert (reported.train, reported.held_out) == (24, 24)
    assert reported.auc.low < 0.5 < reported.auc.high


def test_every_picture_gets_the_same_noise(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: the noise depends on the place in the batch, or the levels all use one."""
    generator = load_generator(checkpoint_of(pairs, tmp_path / "c.safetensors"))
    assert isinstance(generator, JointDiffusion)
    same = dataclasses.replace(pairs, records=pairs.records[:1] * 18)
    data = load_tensors(same, 16, what="copies")
    scores = np.stack(list(generator.likelihood_score(data, 0).values()))
    assert scores.shape == (len(LEVELS), 18)
    assert np.ptp(scores, axis=1) == pytest.approx(0, abs=1e-5)
    assert len(set(scores[:, 0].round(6))) == len(LEVELS)


def test_smaller_pictures_are_asked_of_too(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: all levels are those of full-size pictures: what is remembered of smaller ones would not be seen."""
    path = random_checkpoint(tmp_path / "two.safetensors", model=TWO_SIZES)
    generator = load_generator(path)
    assert isinstance(generator, JointDiffusion)
    card, low_res = generator.model_card, generator.denoiser.low_res
    levels = torch.tensor(levels_of(card)) * SIGMA_DATA
    assert low_res is not None
    served = low_res.serves(levels[:, None].expand(-1, 2))
    assert served.tolist() == [False, False, True]
    data = load_tensors(pairs, 16, what="pictures")
    scores = generator.likelihood_score(data, 0)
    assert [score.shape for score in scores.values()] == [(len(data),)] * 3


def test_few_step_checkpoints_are_asked_at_their_levels(tmp_path: Path) -> None:
    """Damage: a network that learnt four levels is asked at others, where it knows neither train nor held-out."""
    card = load_generator(random_checkpoint(tmp_path / "two.safetensors", model=TWO_SIZES)).model_card  # type: ignore[attr-defined]
    learnt = dataclasses.replace(card, few_step=[80.0, 6.0, 0.7])
    assert levels_of(learnt) == pytest.approx((6.0 / SIGMA_DATA, 0.7 / SIGMA_DATA))


def test_a_model_of_other_pictures_is_refused(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: a figure comes from a model for which train and held-out mean nothing."""
    other = random_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="a model of 1 pictures, of which 0 are among the train split's"):
        check_checkpoint(settings(other), pairs)
    with pytest.raises(UserError, match="exactly the 24 train pictures"):
        membership(settings(other), pairs)
    check_checkpoint(settings(), pairs)
    check_checkpoint(settings(checkpoint_of(pairs, tmp_path / "own.safetensors")), pairs)
    assert pairs.select("train").records


def test_too_few_pictures_are_reported(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: a handful of held-out pictures gets an AUC."""
    few = dataclasses.replace(pairs, records=pairs.select("train").records + pairs.select("val").records[:3])
    reported = membership(settings(checkpoint_of(few, tmp_path / "c.safetensors")), few)
    assert reported == "Membership inference: 24 and 3 train and held-out pictures, at least 20 of both needed"


def test_another_checkpoint_than_the_one_that_drew_is_reported(pairs: SampleSet, tmp_path: Path) -> None:
    """Damage: the AUC of one checkpoint stands beside pairs of another without a word, or its own are doubted."""
    path = checkpoint_of(pairs, tmp_path / "c.safetensors")
    digest = load_checkpoint(path)[2]
    assert reported_of(path, pairs, [digest] * 4) == []
    assert reported_of(path, pairs, [None] * 4) == []  # nothing says who drew them
    assert reported_of(path, pairs, ["another"] * 4) == [NOTE + "these pairs."]
    assert reported_of(path, pairs, [digest, digest, "another", None]) == [NOTE + "1 of these 4 pairs."]


NOTE = "Take care: membership was inferred for another checkpoint than the one that drew "


def reported_of(path: Path, pairs: SampleSet, makers: list[str | None]) -> list[str]:
    """What the section says of the checkpoint where the pairs name these as theirs."""
    synthetic = sampled(len(makers), 3, "synthetic")
    records = [dataclasses.replace(r, generator=m or "") for r, m in zip(synthetic.records, makers, strict=True)]
    sets = three_sets(dataclasses.replace(synthetic, records=tuple(records)))
    asked = dataclasses.replace(context(sets), real=pairs, config=settings(path))
    text = run(asked).text
    assert any("Membership inference from the checkpoint" in sentence for sentence in text)
    return [sentence for sentence in text if sentence.startswith("Take care")]
