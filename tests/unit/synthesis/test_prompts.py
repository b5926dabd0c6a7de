"""Prompts: what words mean, and which are refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tiny_networks import random_checkpoint, refuse_to_sample

import medsegdiff
from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.label import Label
from medsegdiff.data.attributes import MEASURED
from medsegdiff.data.lexicon import LEXICON
from medsegdiff.data.records import SampleSet
from medsegdiff.errors import UserError
from medsegdiff.generators.base import GeneratorCard, load_generator
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.prompts import read_prompt
from medsegdiff.synthesis.run import generate

CLASSES = ["benign", "malignant"]
RANGES = {
    "area": (0.0, 0.4), "depth": (0.1, 0.9), "lateral": (0.0, 1.0), "depth_to_width": (0.3, 1.6),
    "irregularity": (0.0, 0.3), "sharpness": (0.0, 3.0), "echogenicity": (-100.0, 40.0), "posterior": (-60.0, 100.0),
    "count": (1.0, 3.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights that takes all attributes."""
    knots = [np.linspace(*ends, 17).tolist() for ends in RANGES.values()]
    attributes = Attributes(drop_rate=0.1, names=list(RANGES), knots=knots)
    path = tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors"
    return random_checkpoint(path, conditions=[Label(classes=CLASSES, drop_rate=0.1), attributes])


@pytest.fixture(scope="module")
def card(checkpoint: Path) -> GeneratorCard:
    return load_generator(checkpoint).card


def test_words_are_classes_and_ranges(card: GeneratorCard) -> None:
    """Damage: a word that means nothing; a phrase read by its first word; quantiles and values mixed up."""
    wish = read_prompt("A malignant, irregular, taller-than-wide mass with posterior shadow, upper left.", card)
    assert wish.label == "malignant"
    assert wish.ranges == {
        "irregularity": pytest.approx((0.225, 0.3)),
        "depth_to_width": (1.0, 1.6),
        "posterior": (-60.0, -10.0),
        "depth": pytest.approx((0.1, 0.35)),
        "lateral": (0.0, 0.4),
    }
    assert read_prompt("BI-RADS 2", card).label == "benign"
    assert read_prompt("hypoechoic", card).ranges["echogenicity"] == pytest.approx((-73.75, -3.75))
    assert read_prompt("markedly hypoechoic", card).ranges["echogenicity"] == pytest.approx((-100, -73.75))
    assert read_prompt("a mass", card) == read_prompt("the lesion", card)
    for phrase, meaning in LEXICON.items():
        (found,) = read_prompt(phrase, card).ranges.items()
        assert found[0] == meaning.attribute
        assert meaning.attribute in MEASURED
        low, high = RANGES[meaning.attribute]
        assert low <= found[1][0] <= found[1][1] <= high


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a malignent mass", "found 'malignent'; expected words of the lexicon. Did you mean 'malignant'"),
        ("benign BI-RADS 5", "found 'benign' and 'bi-rads 5'; expected one class"),
        ("small and large", "found 'small' and 'large'; expected one wish for area"),
        ("mass of 12 mm", "found 12 mm; expected no lengths: pictures carry no scale"),
        ("", "found 0 characters"),
        ("x" * 10_000, "found 10000 characters; expected 1 to 1000"),
        ("gutartiger Knoten", "found 'gutartiger', 'knoten'"),
        ("良性腫瘤", "found '良性腫瘤'"),
    ],
)
def test_words_that_cannot_be_meant(card: GeneratorCard, text: str, message: str) -> None:
    """Damage: unknown or contradictory words passed over."""
    with pytest.raises(UserError, match=f"--prompt: {message}"):
        read_prompt(text, card)


def test_pairs_of_a_prompt(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: words that reach no network; a class beside that of the prompt; the prompt not written."""
    plain = {"steps": 2, "chunk_size": 4, "precision": "fp32", "device": "cpu", "num_samples_per_class": 3}
    text = "large malignant mass, right"
    found = generate(GenerateConfig(str(checkpoint), str(tmp_path / "words"), prompt=text, **plain))  # type: ignore[arg-type]
    assert isinstance(found, SampleSet)
    assert {(r.label, r.text) for r in found.records} == {("malignant", text)}
    with (tmp_path / "words" / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0.3 <= float(row["asked:area"]) <= 0.4 for row in rows)
    assert all(0.6 <= float(row["asked:lateral"]) <= 1 for row in rows)
    loaded = medsegdiff.load_generator(checkpoint, device="cpu", precision="fp32", batch_size=4, steps=2)
    images = {r.id: found.read_image(r).tobytes() for r in found.records}
    assert all(s.image.tobytes() == images[s.id] for s in loaded.sample(3, prompt=text))
    with pytest.raises(UserError, match="label: found benign; expected malignant, as the prompt says"):
        loaded.sample(3, "benign", prompt=text)
    (tmp_path / "rows.csv").write_text("prompt,label,area\nsmall benign mass,,\nlarge mass,malignant,0.1\n")
    rows_of = generate(
        GenerateConfig(str(checkpoint), str(tmp_path / "t"), requests=str(tmp_path / "rows.csv"), **plain)
    )  # type: ignore[arg-type]
    assert isinstance(rows_of, SampleSet)
    assert [(r.label, r.text) for r in rows_of.records] == [
        ("benign", "small benign mass"),
        ("malignant", "large mass"),
    ]


def test_prompts_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a prompt for a checkpoint that takes classes alone; a class beside another one in words."""
    output = tmp_path / "out"

    def config(**changes: object) -> GenerateConfig:
        return GenerateConfig(str(checkpoint), str(output), **changes)  # type: ignore[arg-type]

    refuse_to_sample("--classes: found benign", lambda: config(prompt="malignant", classes=["benign"]), output)
    plain = random_checkpoint(tmp_path / "plain.safetensors")
    message = "--prompt: found a checkpoint that takes label"
    refuse_to_sample(message, lambda: GenerateConfig(str(plain), str(output), prompt="small mass"), output)
    (tmp_path / "rows.csv").write_text("prompt,label\nbenign mass,malignant\n")
    message = "row 2 column prompt: found a wish for benign; expected malignant"
    refuse_to_sample(message, lambda: config(requests=str(tmp_path / "rows.csv")), output)
