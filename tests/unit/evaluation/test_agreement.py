"""Agreement of masks and classes with what reference models find."""

from __future__ import annotations

import dataclasses

import numpy as np
from evaluation_sets import context, sampled, three_sets

from medsegdiff.evaluation.sections.agreement import run


def test_pairs_of_the_real_kind_pass() -> None:
    """Damage: Dice is taken between the wrong pairs, or the difference is not about zero for sets of one kind."""
    section = run(context(three_sets()))
    reported = section.values["masks"]["all"]
    assert reported["synthetic"]["value"] > 0.9
    assert reported["difference"]["low"] < 0 < reported["difference"]["high"]
    assert section.verdict is not None
    assert section.verdict.outcome == "pass"
    assert section.values["classes"]["synthetic"]["AUC"]["value"] > 0.95
    assert len(section.per_pair["agreement_dice"]) == 40
    assert not section.skipped


def test_masks_of_other_pictures_fail() -> None:
    """Damage: the masks found are compared with anything but the synthetic masks, or the verdict ignores them."""
    own = sampled(40, 3, "synthetic")
    section = run(context(three_sets(dataclasses.replace(own, masks=np.roll(own.masks, 2, axis=0)))))
    reported = section.values["masks"]
    assert section.verdict is not None
    assert section.verdict.outcome == "fail"
    assert reported["all"]["difference"]["high"] < -0.2
    assert reported["benign"]["synthetic"]["value"] < reported["benign"]["held_out"]["value"] - 0.2


def test_shrunk_masks_lower_agreement() -> None:
    """Damage: agreement cannot say a mask that misses the lesion's rim."""
    own = sampled(40, 3, "synthetic")
    inner = np.stack([np.roll(own.masks, s, a) for s in (-3, 3) for a in (1, 2)]).all(axis=0)
    section = run(context(three_sets(dataclasses.replace(own, masks=inner))))
    assert section.values["masks"]["all"]["difference"]["high"] < -0.05


def test_shuffled_labels_lose_the_classes_and_leave_the_masks() -> None:
    """Damage: class agreement is computed from anything but the labels of the synthetic pairs."""
    own = sampled(40, 3, "synthetic")
    shuffled = dataclasses.replace(own, labels=np.roll(own.labels, 1))
    section = run(context(three_sets(shuffled)))
    assert section.values["classes"]["synthetic"]["AUC"]["high"] < 0.5
    assert section.values["classes"]["held_out"]["AUC"]["value"] > 0.95
    assert section.verdict is not None
    assert section.verdict.outcome == "pass"


def test_a_reference_model_below_its_minimum_is_not_usable() -> None:
    """Damage: figures of a bad reference model are shown, or are left out without a word."""
    section = run(context(three_sets(), quality=0.4))
    assert section.values == {}
    assert section.verdict is None
    assert len(section.skipped) == 2
    assert "below the 0.500" in section.skipped[0]


def test_one_class_and_few_pairs_are_reported() -> None:
    """Damage: one class crashes the AUC, or three pairs get a figure of masks or of classes."""
    section = run(context(three_sets(sampled(3, 3, "synthetic", ("benign",)), classes=("benign",))))
    assert section.values == {"masks": {}, "classes": {}}
    assert section.verdict is None
    for what in ("masks, all", "classes, benign"):
        expected = f"Agreement of {what}: 3 synthetic, 40 real held-out pictures; at least 5 of each needed."
        assert expected in section.skipped
    assert len(section.per_pair["class_probability"]) == 3
    one = run(context(three_sets(sampled(5, 3, "synthetic", ("benign",)), classes=("benign",))))
    assert list(one.values["classes"]["synthetic"]) == ["benign classified as benign"]


def test_a_class_of_few_pictures_has_no_figure() -> None:
    """Damage: the share or the AUC of four malignant pictures is reported, or left out without a word."""
    section = run(context(three_sets(sampled(9, 3, "synthetic"))))
    assert list(section.values["classes"]["synthetic"]) == ["benign classified as benign"]
    assert list(section.values["classes"]["held_out"]) == ["benign classified as benign"]
    reported = [line for line in section.skipped if "classes" in line]
    assert reported[0].startswith("Agreement of classes, malignant: 4 synthetic, 20 real held-out pictures")
    assert reported[1].startswith("AUC of the classes")


def test_black_pictures_and_empty_masks_have_finite_figures() -> None:
    """Damage: a constant picture or an empty mask divides by zero."""
    own = sampled(40, 3, "synthetic")
    blank = dataclasses.replace(own, images=np.zeros_like(own.images), masks=np.zeros_like(own.masks))
    section = run(context(three_sets(blank)))
    assert np.isfinite(np.array(section.per_pair["agreement_dice"], dtype=float)).all()
    assert section.values["masks"]["all"]["synthetic"]["value"] == 0
