"""Captions written from attributes."""

from __future__ import annotations

import numpy as np

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.data.lexicon import caption
from medsegdiff.generators.base import GeneratorCard
from medsegdiff.synthesis.prompts import read_prompt

RANGES = {
    "area": (0.0, 0.4), "depth": (0.1, 0.9), "lateral": (0.0, 1.0), "depth_to_width": (0.3, 1.6),
    "irregularity": (0.0, 0.3), "sharpness": (0.0, 3.0), "echogenicity": (-100.0, 40.0), "posterior": (-60.0, 100.0),
    "count": (1.0, 3.0),
}  # fmt: skip
KNOTS = {name: np.linspace(*ends, 17).tolist() for name, ends in RANGES.items()}


def test_a_caption_says_what_is_true_and_can_be_asked_for() -> None:
    """Damage: a word of another attribute or quantile; two words of one attribute; a word that prompts refuse."""
    rng = np.random.default_rng(0)
    attributes = Attributes(drop_rate=0.1, names=list(RANGES), knots=list(KNOTS.values()))
    conditions = [attributes.describe()]
    card = GeneratorCard("kind", "digest", 64, None, ["benign", "malignant"], [], conditions, {}, [], 0)  # type: ignore[arg-type]
    lengths, said = [], set()
    for number in range(300):
        values = {name: float(rng.uniform(*ends)) for name, ends in RANGES.items()} | {"count": float(1 + number % 3)}
        text = caption("benign", values, KNOTS, np.random.default_rng(number))
        wish = read_prompt(text, card)
        assert wish.label == "benign"
        for name, (low, high) in wish.ranges.items():
            assert low <= values[name] <= high, text
        lengths.append(len(wish.ranges))
        said |= set(wish.ranges)
    assert said == set(RANGES)  # each of them is spoken of
    assert min(lengths) == 0  # short captions, and long ones
    assert max(lengths) >= 6


def test_several_lesions_are_not_one_mass() -> None:
    """Damage: "two benign mass"."""
    knots = {"count": KNOTS["count"]}
    texts = {caption("benign", {"count": 2.0}, knots, np.random.default_rng(n)) for n in range(40)}
    assert texts <= {
        *("benign mass", "benign lesion"),
        *(f"{word} benign {noun}" for word in ("two", "several", "multiple") for noun in ("masses", "lesions")),
    }
    assert len(texts) > 4


def test_without_attributes_the_class_alone() -> None:
    """Damage: a lesion in a picture that has none."""
    assert caption("normal", {}, KNOTS, np.random.default_rng(0)) == "normal"
