"""Captions read by a text encoder of transformers: here a tiny BERT and a tiny CLIP that the tests make."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sample_sets import WriteSamples
from tiny_networks import random_checkpoint
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from medsegdiff.conditioning import encoded_text
from medsegdiff.conditioning.encoded_text import EncodedText
from medsegdiff.conditioning.label import Label
from medsegdiff.conditioning.registry import read_condition
from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.errors import UserError
from medsegdiff.generators.base import Generator, Request, load_generator
from medsegdiff.synthesis.prompts import read_prompt

WORDS = ["[UNK]", "[PAD]", "small", "large", "benign", "malignant", "mass", "upper", "left"]
CLASSES = ["benign", "malignant"]
HOW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save_encoder(folder: Path, kind: str) -> Path:
    """A tiny network of random weights and a tokenizer of `WORDS`, as users have them in a folder."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": 12, **HOW}
    if kind == "clip":
        vision = {**HOW, "image_size": 8, "patch_size": 4}
        config = transformers.CLIPConfig(
            text_config={**sizes, "eos_token_id": 1}, vision_config=vision, projection_dim=8
        )
        network = transformers.CLIPModel(config)
    else:
        network = transformers.BertModel(transformers.BertConfig(**sizes))
    network.save_pretrained(folder)
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "bert", "bert")


@pytest.fixture
def train(tmp_path: Path, write_ellipses: WriteSamples) -> SampleTensors:
    """8 pairs with captions."""
    found = load_tensors(write_ellipses(tmp_path / "data", {"train": 4}).select("train"), 16, what="train split")
    rows = (dataclasses.replace(r, text=f"{('small', 'large')[n % 2]} mass") for n, r in enumerate(found.records))
    return dataclasses.replace(found, records=tuple(rows))


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_captions_become_vectors(kind: str, train: SampleTensors, tmp_path: Path) -> None:
    """Damage: vectors that do not hear words, their order, or depend on what stands beside; long captions refused."""
    folder = save_encoder(tmp_path / kind, kind)
    condition = EncodedText.fit(train, CLASSES, 0.1, {"text_encoder": str(folder)})
    assert read_condition(condition.describe()) == condition
    said = ["small mass", "large mass", "Small mass", "upper left small mass", "small mass upper left"]
    vectors = condition.encode([{"text": text} for text in said] + [{}])
    assert vectors.shape == (6, 16)
    assert vectors[-1].isnan().all()
    assert torch.equal(vectors[0], vectors[2])
    assert len({tuple(v.tolist()) for v in vectors[:-1]}) == 4
    assert torch.allclose(vectors[:-1].square().mean(dim=1), torch.ones(5), atol=1e-4)
    assert torch.equal(condition.encode([{"text": "small mass"}])[0], vectors[0])
    encoded_text._opened.cache_clear()
    encoded_text._vector.cache_clear()
    assert torch.equal(condition.encode([{"text": "small mass"}])[0], vectors[0])  # weights of the folder, not new ones
    with pytest.raises(UserError, match="--prompt: found 13 tokens; expected 12 at most"):
        condition.encode([{"text": "small " * 13}])
    long = dataclasses.replace(train.records[0], text="small " * 13)  # of the data set: its beginning is read
    assert not condition.encode([vars(long)]).isnan().any()


def generator_of(encoder: Path, train: SampleTensors, path: Path, **settings: str) -> Generator:
    condition = EncodedText.fit(train, CLASSES, 0.1, {"text_encoder": str(encoder)})
    random_checkpoint(path, conditions=[Label(classes=CLASSES, drop_rate=0.1), condition])
    return load_generator(path, {"steps": 2, **settings})


def test_prompts_reach_the_network(encoder: Path, train: SampleTensors, tmp_path: Path) -> None:
    """Damage: a prompt that changes nothing; a class in it that is not heard; the lexicon's words alone taken."""
    generator = generator_of(encoder, train, tmp_path / "best_model.safetensors")
    wish = read_prompt("unheard-of malignant words", generator.card)
    assert (wish.label, dict(wish.ranges)) == ("malignant", {})
    images = []
    for text in ("small mass", "large mass", "", "small mass"):
        request = Request("a", "joint", (0, 0, 0, 1), {"label": "benign", "text": text}, {})
        images.append(generator.sample([request], 0)[0]["image"])
    assert np.array_equal(images[0], images[3])
    assert len({image.tobytes() for image in images}) == 3


def test_an_encoder_that_is_gone_or_another_one(encoder: Path, train: SampleTensors, tmp_path: Path) -> None:
    """Damage: an encoder of other weights used in silence; one that was moved not found where the user says it is."""
    mine = tmp_path / "mine"
    shutil.copytree(encoder, mine)
    checkpoint = tmp_path / "best_model.safetensors"
    request = Request("a", "joint", (0, 0, 0, 1), {"label": "benign", "text": "small mass"}, {})
    before = generator_of(mine, train, checkpoint).sample([request], 0)[0]["image"]
    mine.rename(tmp_path / "moved")
    encoded_text.digest_of.cache_clear()
    with pytest.raises(UserError, match=r"mine: found no such folder.*--text_encoder"):
        load_generator(checkpoint, {"steps": 2}).sample([request], 0)
    moved = load_generator(checkpoint, {"steps": 2, "text_encoder": str(tmp_path / "moved")})
    assert np.array_equal(moved.sample([request], 0)[0]["image"], before)
    other = save_encoder(tmp_path / "other", "clip")
    with pytest.raises(UserError, match="an encoder with other files"):
        load_generator(checkpoint, {"steps": 2, "text_encoder": str(other)}).sample([request], 0)


def test_what_cannot_be_an_encoder(encoder: Path, train: SampleTensors, tmp_path: Path) -> None:
    """Damage: a traceback of a library; a folder half-read."""

    def refused(folder: Path | None, message: str, samples: SampleTensors = train) -> None:
        settings = {"text_encoder": None if folder is None else str(folder)}
        with pytest.raises(UserError, match=message):
            EncodedText.fit(samples, CLASSES, 0.1, settings)

    refused(None, "found no --text_encoder")
    refused(tmp_path / "nowhere", "found no config.json")
    broken = tmp_path / "broken"
    shutil.copytree(encoder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    refused(broken, "expected a folder of a text encoder")
    rows = tuple(dataclasses.replace(r, text="") for r in train.records)
    refused(encoder, "a data set without captions", dataclasses.replace(train, records=rows))
    plain = random_checkpoint(tmp_path / "plain.safetensors", conditions=[Label(classes=CLASSES, drop_rate=0.1)])
    with pytest.raises(UserError, match="--text_encoder: found a checkpoint of conditions label"):
        load_generator(plain, {"text_encoder": str(encoder)})
