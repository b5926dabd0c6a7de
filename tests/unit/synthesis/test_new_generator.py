"""A generator that the package has never seen: one file and one row, and phase 3 serves its checkpoints."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, ellipse_pairs
from safetensors.torch import save_file

from medsegdiff.cli import run
from medsegdiff.data.records import read_samples
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy.membership import membership
from medsegdiff.generators.base import GENERATORS

TOY = '''
"""Bright squares on noise, as wide as the class says."""
from dataclasses import dataclass
import json
import numpy as np
from medsegdiff.engine.rng import generator
from medsegdiff.generators.base import GeneratorCard, opened, settings_of

@dataclass(frozen=True)
class Settings:
    sigma_scale: float = 1.0  # of the noise

class Toy:
    tasks = frozenset({"joint"})

    def __init__(self, card, settings):
        self.card, self.own = card, settings

    def settings(self, task):
        return {"sigma_scale": self.own.sigma_scale}

    def sample(self, requests, attempt):
        return [self._one(request, attempt) for request in requests]

    def _one(self, request, attempt):
        noise = np.random.default_rng(generator(*request.seed, attempt).initial_seed())
        image = noise.integers(0, 1 + int(100 * self.own.sigma_scale), size=(32, 32)).astype(np.uint8)
        side, mask = {"benign": 8, "malignant": 16}[request.conditions["label"]], np.zeros((32, 32), np.uint8)
        mask[4 : 4 + side, 4 : 4 + side] = 255
        return {"image": np.maximum(image, mask), "mask": mask}

def load(path, settings, device, precision, batch_size):
    with opened(path) as file:
        card = json.loads(file.metadata()["card"])
    return Toy(GeneratorCard(kind="toy", digest="0123456789ab", **card), settings_of(Settings, settings, "toy"))
'''


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, the row, and a checkpoint that learnt the train split of `tmp_path/real`."""
    (tmp_path / "toy_generator.py").write_text(textwrap.dedent(TOY))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(GENERATORS, "toy", "toy_generator")
    real = ellipse_pairs(tmp_path / "real", {"train": 12, "val": 6, "test": 6})
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in real.select("train").records]
    card = {"img_size": 32, "arrays": {"image": {"channels": 1}}, "classes": CLASSES, "lesion_classes": CLASSES,
            "conditions": [], "aspects": {c: [1.0] for c in CLASSES}, "train_hashes": hashes, "step": 3}  # fmt: skip
    path = tmp_path / "toy.safetensors"

    save_file({"weight": torch.zeros(1)}, path, {"kind": "toy", "card": json.dumps(card)})
    return path


def flags(checkpoint: Path, name: str, *more: str) -> list[str]:
    line = f"--checkpoint_path {checkpoint} --output_dir {checkpoint.parent / name} --num_samples_per_class 3"
    return [*line.split(), "--device", "cpu", *more]


def test_generate_serves_it(checkpoint: Path) -> None:
    """Damage: synthesis that asks for a network, a codec or a sampler; a setting that is parsed and not handed on."""
    found = run("generate", flags(checkpoint, "a"))
    assert [r.label for r in found.records] == ["benign"] * 3 + ["malignant"] * 3
    pairs = read_samples(found.root)
    assert pairs.info["checkpoint"]["step"] == 3
    assert {r.source for r in pairs.records} == {"synthetic:0123456789ab"}
    for r in pairs.records:
        assert (pairs.read_mask(r) > 0).sum() == {"benign": 64, "malignant": 256}[r.label]
    again = run("generate", flags(checkpoint, "b"))
    assert [r.image_hash for r in again.records] == [r.image_hash for r in pairs.records]
    quiet = run("generate", flags(checkpoint, "c", "--sigma_scale", "0.1"))
    assert quiet.info["fingerprint"]["sigma_scale"] == 0.1
    assert max(int(np.unique(quiet.read_image(r))[-2]) for r in quiet.records) <= 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "3"], "--steps: found 3, which toy does not know; expected settings of toy: sigma_scale"),
        (
            ["--mode", "mask_first"],
            "--mode: found mask_first, which a generator of kind 'toy' does not serve; expected",
        ),
    ],
)
def test_what_it_does_not_know_is_refused(more: list[str], message: str, checkpoint: Path) -> None:
    """Damage: settings that do nothing for a generator, or a task that it answers with another one."""
    with pytest.raises(UserError, match=message):
        run("generate", flags(checkpoint, "a", *more))
    assert not (checkpoint.parent / "a").exists()


def test_membership_inference_is_skipped_with_a_word(checkpoint: Path) -> None:
    """Damage: an AttributeError where a generator has no likelihood, or a figure all the same."""
    real = read_samples(checkpoint.parent / "real")
    config = EvaluateConfig("", "", checkpoint_path=str(checkpoint), device="cpu", precision="fp32")
    assert membership(config, real) == "Membership inference: a generator of kind 'toy' says no likelihood of a sample"
