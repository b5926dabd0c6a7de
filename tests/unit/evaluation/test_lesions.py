"""Characteristics of lesions: closed forms of drawn ellipses, and what damage does to the comparison."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from evaluation_sets import CLASSES, context, sampled, three_sets
from scipy.ndimage import binary_erosion

from medsegdiff.evaluation.sections.lesions import run
from medsegdiff.evaluation.sets import Pairs


def test_sets_of_one_kind_are_alike() -> None:
    """Damage: anything of the same kind is named as far off, or a difference of classes is called lost."""
    section = run(context(three_sets()))
    assert section.values["farthest"] == []
    assert any("No characteristic" in sentence for sentence in section.text)
    assert section.values["class_difference"]["malignant - benign"]["area"]["outcome"] == "kept"
    assert section.values["with_specks"] == {"train": 0, "held_out": 0, "synthetic": 0}
    assert [t.title.split(" (")[0] for t in section.tables[:2]] == ["Lesions, benign", "Lesions, malignant"]
    assert len(section.figures) == 2
    assert all(figure.png[:4] == b"\x89PNG" for figure in section.figures)
    assert {len(values) for values in section.per_pair.values()} == {40}


def shrunk(pairs: Pairs) -> Pairs:
    """The same pictures with masks eroded by three pixels."""
    return dataclasses.replace(pairs, masks=np.stack([binary_erosion(m, iterations=3) for m in pairs.masks]))


def test_shrunk_masks_are_found_and_named() -> None:
    """Damage: the comparison sees neither the size of masks nor the rim left in their surroundings."""
    section = run(context(three_sets(shrunk(sampled(40, 3, "synthetic")))))
    for label in CLASSES:
        reported = section.values["per_class"][label]
        assert reported["area"]["synthetic_mean"] < reported["area"]["real_mean"]
        assert reported["area"]["ks_p_holm"] < 0.05
        assert reported["echogenicity"]["synthetic_mean"] > reported["echogenicity"]["real_mean"] + 10
        assert reported["echogenicity"]["distance"]["low"] > reported["echogenicity"]["baseline"]["high"]
    assert any("Farthest from real lesions" in sentence for sentence in section.text)


def test_shuffled_labels_lose_the_difference_of_classes() -> None:
    """Damage: the difference is taken over anything but the synthetic labels."""
    own = sampled(80, 3, "synthetic")
    labels = np.array([CLASSES[i // 2 % 2] for i in range(80)])  # half of each class under either label
    section = run(context(three_sets(dataclasses.replace(own, labels=labels))))
    reported = section.values["class_difference"]["malignant - benign"]["area"]
    assert reported["outcome"] == "lost"
    assert reported["real"]["low"] > 0
    assert any("Lost: area" in sentence for sentence in section.text)


def test_bad_sets_are_reported_and_do_not_crash() -> None:
    """Empty masks on black pictures; three pictures; one class alone. Damage: NaN gets out, or nothing is said."""
    own = sampled(40, 3, "synthetic")
    nothing = dataclasses.replace(own, masks=np.zeros_like(own.masks), images=np.zeros_like(own.images))
    sections = [run(context(three_sets(synthetic))) for synthetic in (nothing, own.rows([0, 1, 2]))]
    sections.append(run(context(three_sets(classes=("benign",)))))
    for section in sections:
        assert json.dumps([section.values, section.per_pair], allow_nan=False)
        assert section.skipped
    assert "40 of 40 synthetic pairs have an empty mask" in sections[0].skipped[0]
    assert sections[0].per_pair["lesion_depth"] == [None] * 40
    assert sections[0].values["per_class"]["benign"]["count"]["distance"] is None
    assert not sections[1].tables
    assert any("one class alone" in line for line in sections[2].skipped)
