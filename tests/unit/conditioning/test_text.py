"""Captions and modalities: what is learnt of them, what is refused, and that order and words matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from sample_sets import WriteSamples
from tiny_networks import random_checkpoint, refuse_to_sample

from medsegdiff.conditioning.label import Label
from medsegdiff.conditioning.modality import Modality
from medsegdiff.conditioning.registry import read_condition
from medsegdiff.conditioning.text import Text, TextEmbedder, words_of
from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.errors import UserError
from medsegdiff.generators.base import load_generator
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.prompts import read_prompt
from medsegdiff.synthesis.run import generate

CAPTIONS = ("Chest X-ray, pneumonia.", "retinal fundus, right eye", "", "fundus of the left eye")
CLASSES = ["benign", "malignant"]


@pytest.fixture
def train(tmp_path: Path, write_ellipses: WriteSamples) -> SampleTensors:
    """8 pairs with captions of two modalities."""
    found = load_tensors(write_ellipses(tmp_path / "data", {"train": 4}).select("train"), 16, what="train split")
    said = [(CAPTIONS[n % 4], ("chest X-ray", "fundus")[n % 2]) for n in range(len(found))]
    rows = zip(found.records, said, strict=True)
    return dataclasses.replace(found, records=tuple(dataclasses.replace(r, text=t, modality=m) for r, (t, m) in rows))


def test_words_and_modalities_are_those_of_the_train_split(train: SampleTensors) -> None:
    """Damage: punctuation and capitals that make words of their own; an order that depends on the run."""
    text, modality = (kind.fit(train, CLASSES, 0.1) for kind in (Text, Modality))
    assert isinstance(text, Text)
    assert text.words == ["chest", "eye", "fundus", "left", "of", "pneumonia", "retinal", "right", "the", "x-ray"]
    assert text.length == 5
    assert isinstance(modality, Modality)
    assert modality.classes == ["chest X-ray", "fundus"]
    for condition in (text, modality):
        assert read_condition(condition.describe()) == condition
    assert modality.encode([{"modality": "fundus"}, {}]).tolist() == [1, -1]
    with pytest.raises(UserError, match="modality: found OCT; expected one of chest X-ray, fundus"):
        modality.encode([{"modality": "OCT"}])
    plain = dataclasses.replace(
        train, records=tuple(dataclasses.replace(r, text="", modality="") for r in train.records)
    )
    for kind in (Text, Modality):
        with pytest.raises(UserError, match=f"--conditions {kind.name}: found"):
            kind.fit(plain, CLASSES, 0.1)


def test_numbers_of_words(train: SampleTensors) -> None:
    """Damage: unknown words of a request dropped in silence; those of a val picture refused."""
    text = Text.fit(train, CLASSES, 0.1)
    assert words_of("BI-RADS 4a, (non-)parallel; 1.5") == ["bi-rads", "4a", "non", "parallel", "1.5"]
    rows = text.encode([{"text": "left eye"}, {"text": ""}, {}])
    assert rows[0].tolist() == [5, 3, 0, 0, 0]
    assert (rows[1:] == -1).all()
    with pytest.raises(UserError, match=r"--prompt: found 'pneumonie', 'maybe'.*Did you mean pneumonia\?"):
        text.encode([{"text": "pneumonie maybe"}])
    with pytest.raises(UserError, match="--prompt: found 6 words; expected 5 at most"):
        text.encode([{"text": "left eye left eye left eye"}])
    of_val = text.encode([{"text": "maybe left " + "eye " * 9, "width": 1}, {"text": "maybe", "width": 1}])
    assert of_val[0].tolist() == [5, 3, 3, 3, 3]
    assert of_val[1].tolist() == [0, 0, 0, 0, 0]


def test_a_caption_is_more_than_its_words() -> None:
    """Damage: places that say nothing; padding that speaks; the null lost among others; NaN of an empty caption."""
    torch.manual_seed(0)
    embedder = TextEmbedder(6, 4, 8)
    rows = torch.tensor([[2, 3, 0, 0], [3, 2, 0, 0], [-1, -1, -1, -1], [0, 0, 0, 0]])
    assert not embedder(rows).any()
    torch.nn.init.normal_(embedder.last.weight)
    torch.nn.init.normal_(embedder.places)
    found = embedder(rows)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.equal(found[2], embedder.null())
    assert found.isfinite().all()
    with torch.no_grad():
        embedder.table.weight[0] += 5
        assert torch.allclose(embedder(rows)[0], found[0], atol=1e-5)


def test_a_prompt_of_a_checkpoint_that_learnt_captions(tmp_path: Path) -> None:
    """Damage: the lexicon asked in place of the captions; a class beside that of the words."""
    text = Text(drop_rate=0.1, words=["a", "benign", "malignant", "mass", "round", "without"], length=4)
    path = random_checkpoint(tmp_path / "m.safetensors", conditions=[Label(classes=CLASSES, drop_rate=0.1), text])
    card = load_generator(path).card
    assert read_prompt("a round malignant mass", card).label == "malignant"
    assert read_prompt("a round mass", card).label is None
    with pytest.raises(UserError, match=r"--prompt: found (benign and malignant|malignant and benign)"):
        read_prompt("benign malignant", card)
    assert read_prompt("a mass without malignant", card).label is None
    plain = {"steps": 2, "chunk_size": 4, "precision": "fp32", "device": "cpu", "num_samples_per_class": 1}
    found = [
        generate(GenerateConfig(str(path), str(tmp_path / name), prompt=words, **plain))  # type: ignore[arg-type]
        for name, words in (("one", "round malignant mass"), ("two", "malignant mass"))
    ]
    pixels = [(pairs.root / "images" / "syn_malignant_000000.png").read_bytes() for pairs in found]  # type: ignore[union-attr]
    assert pixels[0] != pixels[1]
    output = tmp_path / "out"
    refuse_to_sample(
        "--prompt: found 'square'", lambda: GenerateConfig(str(path), str(output), prompt="square"), output
    )
