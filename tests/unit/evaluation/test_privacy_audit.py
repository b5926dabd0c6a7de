"""What keeps the audit from false alarms and false passes: alarms by one picture, missed kinds, the wrong pictures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from evaluation_sets import context
from texture_sets import HOW, texture_sets

from medsegdiff.data.records import SampleSet
from medsegdiff.evaluation.privacy import rules
from medsegdiff.evaluation.privacy.audit import Audit, Found, alarm, audit
from medsegdiff.evaluation.privacy.decision import decide, missed_kinds
from medsegdiff.evaluation.privacy.leaks import find_leaks
from medsegdiff.evaluation.privacy.learnt import Learnt, compare_learnt
from medsegdiff.evaluation.privacy.planted import KINDS
from medsegdiff.evaluation.privacy.rules import CURRENT, AuditRules
from medsegdiff.evaluation.section import Verdict
from medsegdiff.evaluation.sections import privacy
from medsegdiff.evaluation.sections.privacy import run
from medsegdiff.evaluation.sets import Pairs, Sets
from medsegdiff.statistics.interval import Interval


@pytest.fixture(autouse=True)
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs in the figures: twenty pictures take most of the time."""
    monkeypatch.setattr(privacy, "SHOWN", 2)


@pytest.fixture(scope="module")
def quiet() -> Audit:
    """An audit without any sign of copies, sure of it, that finds all kinds of planted ones."""
    found = audit(texture_sets(), of_chance, **HOW)
    half, none = Interval(0.5, 0.45, 0.55), Interval(0.0, 0.0, 0.0)
    clean = dataclasses.replace(found.statistics, nearest_to_train=half, beyond_95=none, excess=none)
    return dataclasses.replace(
        found, statistics=clean, planted={kind: Found(1.0, 1.0) for kind in KINDS}, alarm_threshold=1e9
    )


def blind_to(found: Audit, *kinds: str, detected: float = 0.5) -> Audit:
    """The audit, had it found fewer copies of these kinds."""
    return dataclasses.replace(found, planted=found.planted | {kind: Found(detected, 0.0) for kind in kinds})


def verdict(learnt: Learnt | None = None, **audits: Audit) -> Verdict:
    """What is said of pictures of which none is a real one, after these audits."""
    sets = texture_sets()
    rules = dataclasses.replace(CURRENT, measures=tuple(audits))
    return decide(rules, len(sets.synthetic), find_leaks(sets, []), audits, learnt)


def of_chance(images: np.ndarray, real: Pairs) -> np.ndarray:
    """A similarity that sees exact copies and is otherwise chance, from the pictures alone."""
    numbers = [np.random.default_rng(int(image[:8].astype(int).sum())).normal(size=len(real)) for image in images]
    same = (images[:, None] == real.images[None]).all(axis=(2, 3))
    return np.where(same, 9.0, np.stack(numbers))


def test_alarm_is_rare_among_strangers() -> None:
    """Damage: the alarm stands just above the most alike of few held-out pictures, which many strangers exceed."""
    random, copies = np.random.default_rng(0), 1 - np.geomspace(0.02, 0.4, 300)
    false, set_off = 0, 0
    for _ in range(200):  # distances to the nearest of many points in eight dimensions
        baseline, strangers = (1 - 0.5 * random.uniform(size=n) ** (1 / 8) for n in (150, 1000))
        level = alarm(copies, baseline, len(strangers))
        false += bool((strangers > level).any())
        set_off += bool(level < 0.96)
    assert false <= 40  # the tail is estimated from thirty pictures; just above the best of them it is 66
    assert set_off >= 190


def test_alarm_stands_at_most_copies_where_strangers_are_far() -> None:
    """Damage: it stands at the farthest copy, or at the tail of strangers alone."""
    copies, baseline = np.array([0.5, 0.6, 0.7, 0.8, 0.9]), np.array([0.1, 0.12, 0.13, 0.13, 0.14])
    assert alarm(copies, baseline, 5) == pytest.approx(0.6)
    assert math.isinf(alarm(copies, np.append(baseline, 0.95), 5))  # a held-out twin of a train picture


def test_chance_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the most alike of forty pictures with nothing of train, beyond thirty held-out ones, fails the set."""
    sets = texture_sets()
    found = audit(sets, of_chance, **HOW)
    assert found.similarity.max() > found.baseline.max()  # the likely case: 40 synthetic against 30 held-out pictures
    assert found.unmistakable is None
    monkeypatch.setattr(privacy, "fine_detail", of_chance)
    section = run(context(sets))
    assert section.verdict is not None
    assert section.verdict.outcome != "fail"
    assert any("one single copy cannot be distinguished from chance" in sentence for sentence in section.text)
    assert section.values["fine_detail"]["unmistakable"] is None
    assert json.dumps(section.values, allow_nan=False)


def test_a_missed_kind_is_no_pass(quiet: Audit) -> None:
    """Damage: a set passes though mirrored copies would go unnoticed, or the report does not say which kinds."""
    assert verdict(detail=quiet).outcome == "pass"
    reported = verdict(detail=blind_to(quiet, "flipped", "cropped"))
    assert reported.outcome == "too few pictures to decide"
    assert "copies of these kinds may have gone unnoticed: flipped, cropped" in reported.sentence
    assert "not excluded" not in reported.sentence
    copied = dataclasses.replace(quiet.statistics, nearest_to_train=Interval(0.7, 0.6, 0.8))
    assert verdict(detail=dataclasses.replace(blind_to(quiet, "flipped"), statistics=copied)).outcome == "fail"


def test_what_one_measure_misses_another_may_find(quiet: Audit) -> None:
    """Damage: every measure has to find every kind, or one that is not usable counts."""
    first, second = blind_to(quiet, "flipped"), blind_to(quiet, "cropped")
    assert verdict(embedding=first, detail=second).outcome == "pass"
    assert missed_kinds(CURRENT, [first, second]) == []
    assert missed_kinds(CURRENT, [first, blind_to(second, "flipped")]) == ["flipped"]
    assert verdict(embedding=first, detail=blind_to(quiet, "exact")).outcome == "too few pictures to decide"


def real_set(sets: Sets) -> SampleSet:
    """The real folder of the sets, every picture with hashes of its own."""
    records = [dataclasses.replace(r, image_hash=f"i{k}", perceptual_hash=f"p{k}") for k, r in
               enumerate(sets.train.records)]  # fmt: skip
    return SampleSet(Path(), tuple(records), {"classes": list(sets.classes)})


def both_hashes(numbers: Iterable[int]) -> list[dict[str, str]]:
    """What a checkpoint says of the pictures of these numbers."""
    return [{"image_hash": f"i{k}", "perceptual_hash": f"p{k}"} for k in numbers]


def test_what_was_learnt_against_train_by_hand() -> None:
    """Damage: the two differences change places, combined sets are not asked, or silence counts as a difference."""
    train = real_set(texture_sets()).records
    assert compare_learnt({"checkpoint": {"train_hashes": both_hashes(range(60))}}, train) == Learnt(60, 0, 0)
    assert compare_learnt({"checkpoint": {"train_hashes": both_hashes(range(50, 100))}}, train) == Learnt(50, 40, 50)
    assert compare_learnt({"learnt": [f"p{k}" for k in range(55, 65)]}, train) == Learnt(10, 5, 55)
    assert compare_learnt({"checkpoint": {"train_hashes": []}}, train) is None
    assert compare_learnt({}, train) is None


def test_other_pictures_than_the_learnt_ones_are_reported() -> None:
    """Damage: the audit asks of pictures that the generator did not learn, and nobody is reported."""
    sets = texture_sets()
    train = dataclasses.replace(sets.train, records=real_set(sets).select("train").records)

    def said(numbers: range) -> str:
        info = {"checkpoint": {"train_hashes": both_hashes(numbers)}}
        section = run(context(dataclasses.replace(sets, train=train), info=info))
        assert section.values["learnt"]["total"] == len(numbers)
        return " ".join(sentence for sentence in section.text if sentence.startswith("Take care"))

    assert said(range(60)) == ""
    assert "of the 70 images that the generator learnt 10 are not among the train images" in said(range(70))
    assert "20 train images of the real set were not learnt" in said(range(40))


def test_learnt_pictures_that_are_not_here_are_no_pass(quiet: Audit) -> None:
    """Damage: a set passes though copies of some learnt pictures could not be found."""
    assert verdict(Learnt(60, 0, 4), detail=quiet).outcome == "pass"
    reported = verdict(Learnt(70, 10, 0), detail=quiet)
    assert reported.outcome == "too few pictures to decide"
    assert "10 of 70 images that the generator learnt are not in train" in reported.sentence


def test_held_out_pictures_that_are_like_train_are_no_pass(quiet: Audit) -> None:
    """Damage: held-out frames of train pass for a measure of chance: five copies among 400 passed by one such twin."""
    sets = texture_sets()
    assert find_leaks(sets, []).near_duplicates == 0
    assert not any(sentence.startswith("Take care") for sentence in run(context(sets)).text)
    frames = np.concatenate([sets.held_out.images[:-3], sets.train.images[:3]])
    mixed = dataclasses.replace(sets, held_out=dataclasses.replace(sets.held_out, images=frames))
    leaks = find_leaks(mixed, [])
    assert leaks.near_duplicates == 3
    assert any(
        "3 of 30 held-out images show nearly what a train image" in sentence for sentence in run(context(mixed)).text
    )
    reported = decide(CURRENT, len(mixed.synthetic), leaks, {"detail": quiet}, None)
    assert reported.outcome == "too few pictures to decide"
    assert "held-out images show what train images show" in reported.sentence


def test_no_alarm_anywhere_is_no_pass(quiet: Audit) -> None:
    """Damage: a set passes though a few copies could not have set off an alarm by any measure."""
    deaf = dataclasses.replace(quiet, alarm_threshold=math.inf)
    assert verdict(detail=quiet, embedding=deaf).outcome == "pass"
    assert verdict(detail=deaf).outcome == "too few pictures to decide"


@pytest.mark.parametrize("side", ["synthetic", "train", "held_out"])
def test_few_groups_are_not_asked(side: str) -> None:
    """Damage: sixty pictures of one conditioning mask, or of one patient, count as sixty: resamples would be all
    alike."""
    sets = texture_sets()
    pairs = getattr(sets, side)
    one = dataclasses.replace(pairs, groups=np.array(["m"] * len(pairs)))
    section = run(context(dataclasses.replace(sets, **{side: one})))
    reported = f"1 groups of {side.replace('_', '-')} pictures, at least 5 needed"
    assert any(reported in sentence for sentence in section.skipped)
    assert section.verdict is not None
    assert section.verdict.outcome == "too few pictures to decide"


def test_the_rules_of_a_version_do_not_change() -> None:
    """Damage: a threshold that is changed, or added, without a new version."""
    first = AuditRules(1)
    assert rules.VERSIONS[0] == first
    measures = (*first.measures, "perceptual features")
    assert rules.VERSIONS[1] == dataclasses.replace(first, version=2, measures=measures, every_measure=True)
    assert [v.version for v in rules.VERSIONS] == list(range(1, len(rules.VERSIONS) + 1))
    assert tuple(dataclasses.astuple(first)) == (
        1,
        ("embedding", "fine detail"),
        2,
        0.9,
        95,
        60,
        25,
        0.2,
        0.05,
        10,
        20,
        5,
        10,
        0.9,
        0.8,
        0.5,
        0.05,
        0.6,
        False,
    )


def test_a_measure_that_is_absent_keeps_a_set_from_passing_by_the_later_version_alone(quiet: Audit) -> None:
    """Damage: without the second opinion the last version passes a set, or the first one, which had none, does not."""
    sets, audits = texture_sets(), {"embedding": quiet, "fine detail": quiet}
    first, last = (decide(r, 40, find_leaks(sets, []), audits, None) for r in (rules.VERSIONS[0], rules.VERSIONS[1]))
    assert first.outcome == "pass"
    assert last.outcome == "too few pictures to decide"
    assert "no usable comparison by perceptual features" in last.sentence
    whole = decide(rules.VERSIONS[1], 40, find_leaks(sets, []), audits | {"perceptual features": quiet}, None)
    assert whole.outcome == "pass"


def test_a_new_version_shows_both_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: an earlier version's verdict that is dropped, or decided by the rules of the last one."""
    strict = dataclasses.replace(CURRENT, version=3, fewest_real=10_000)
    monkeypatch.setattr(privacy, "VERSIONS", (CURRENT, strict))
    monkeypatch.setattr(privacy, "CURRENT", strict)
    section = run(context(texture_sets()))
    assert section.verdict is not None
    assert section.verdict.outcome == section.values["verdicts"]["3"] == "too few pictures to decide"
    assert section.values["audit_version"] == 3
    assert set(section.values["verdicts"]) == {"2", "3"}
    assert "version 2 of the audit" in " ".join(section.text)
