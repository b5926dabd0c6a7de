"""A condition that the package has never seen: one file and one row, and networks learn it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_sets import CLASSES, ellipse_pairs

from medsegdiff.cli import run
from medsegdiff.conditioning.registry import CONDITIONS
from medsegdiff.generators.base import Request, load_generator

HEIGHT = '''
"""How tall the picture was, pixels."""
from __future__ import annotations
import math
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from medsegdiff.conditioning.base import Condition, Embedder

@dataclass(frozen=True, kw_only=True)
class Height(Condition):
    name: ClassVar[str] = "height"
    kind: ClassVar[str] = "numbers"
    highest: int

    @classmethod
    def fit(cls, train, classes, drop_rate, settings=None):
        return cls(drop_rate=drop_rate, highest=max(r.height for r in train.records))

    def encode(self, samples):
        return torch.tensor([[(s.get("height") or math.nan) / self.highest] for s in samples])

    def embedder(self, width):
        return HeightEmbedder(width)

class HeightEmbedder(Embedder):
    def __init__(self, width):
        super().__init__()
        self.linear, self.nothing = nn.Linear(1, width), nn.Parameter(torch.zeros(width))

    def null(self):
        return self.nothing

    def forward(self, values):
        return torch.where(values.isnan(), self.nothing, self.linear(values.nan_to_num()))
'''


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, the row, and a network that a few steps of training have moved."""
    (tmp_path / "height_condition.py").write_text(HEIGHT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(CONDITIONS, "height", "height_condition:Height")
    real = ellipse_pairs(tmp_path / "real", {"train": 2, "val": 1})
    line = (
        f"--data_dir {real.root} --output_dir {tmp_path / 'run'} --img_size 16 --batch_size 4 --num_epochs 12 --lr 0.02"
    )
    line += " --warmup_steps 1 --evals 1 --eval_samples 2 --eval_steps 2 --precision fp32 --device cpu"
    line += " --model.model_channels 8 --model.channel_mult 1 2 --model.transformer_depth 1 --model.num_heads 2"
    run("train", [*line.split(), "--conditions", "label", "height", "--condition_dropout", "0.3"])
    return tmp_path / "run" / "last_model.safetensors"


def test_networks_learn_it_and_samples_follow_it(checkpoint: Path) -> None:
    """Damage: a name of a condition in the trainer, the card, a backbone, guidance or the generator; values that are
    lost on the way; a null that is not its own."""
    generator = load_generator(checkpoint, {"steps": 3, "guidance": 2.0})
    described = {c["name"]: c for c in generator.card.conditions}
    assert described["height"] == {"name": "height", "kind": "numbers", "drop_rate": 0.3, "highest": 32}
    assert described["label"]["classes"] == CLASSES
    asked: list[dict[str, float | str]] = [{"height": 32.0}, {"height": 8.0}, {}, {"height": 32.0, "label": "benign"}]
    images = []
    for conditions in (*asked, asked[0]):
        request = Request("a", "joint", (0, 1), conditions, {})
        images.append(generator.sample([request], 0)[0]["image"])
    assert np.array_equal(images[0], images[-1])
    assert len({image.tobytes() for image in images}) == len(asked)
