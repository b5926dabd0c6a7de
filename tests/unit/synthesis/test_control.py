"""Control: what is swept, that noise stands still meanwhile, and figures of known answers."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import random_checkpoint

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.label import Label
from medsegdiff.data.records import read_samples
from medsegdiff.engine.files import read_json
from medsegdiff.errors import UserError
from medsegdiff.generators.base import Arrays, Generator, Request, load_generator
from medsegdiff.synthesis import control as module
from medsegdiff.synthesis.control import ControlConfig, control

CLASSES = ["benign", "malignant"]
SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights that takes two attributes."""
    knots = [np.linspace(0.02, 0.2, 17).tolist(), np.linspace(0.3, 0.7, 17).tolist()]
    attributes = Attributes(drop_rate=0.1, names=["area", "depth"], knots=knots)
    path = tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors"
    return random_checkpoint(path, conditions=[Label(classes=CLASSES, drop_rate=0.1), attributes])


@dataclasses.dataclass(frozen=True)
class Obedient:
    """A generator that draws a bright disc of the area that is asked for, deeper where it is larger, on its noise."""

    own: Generator
    seeds: list[Any]

    @property
    def card(self) -> Any:
        return self.own.card

    @property
    def tasks(self) -> Any:
        return self.own.tasks

    def settings(self, task: Any) -> dict[str, Any]:
        return {}

    def sample(self, requests: Sequence[Request], attempt: int) -> list[Arrays]:
        found = []
        for request in requests:
            self.seeds.append((request.id, request.seed))
            asked: Any = request.conditions["attributes"]
            area = asked.get("area", 0.1)
            rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
            aspect: Any = request.conditions["aspect"]
            middle = 0.3 + area
            near = ((rows - middle) ** 2 + ((columns - 0.5) * aspect) ** 2) * math.pi < area
            noise = np.random.default_rng(request.seed).integers(0, 60, (SIDE, SIDE))
            image = (noise + near * 100).astype(np.uint8)
            found.append({"image": image, "mask": (near * 255).astype(np.uint8)})
        return found


def config(checkpoint: Path, output: Path, **changes: Any) -> ControlConfig:
    return dataclasses.replace(
        ControlConfig(str(checkpoint), str(output), num_seeds=4, bootstrap=50, device="cpu", precision="fp32"),
        **changes,
    )


def test_what_does_as_it_is_asked(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: noise that moves within a sweep; asked and obtained values of unlike pairs; what moves along not seen."""
    obedient = Obedient(load_generator(checkpoint), [])
    monkeypatch.setattr(module, "load_generator", lambda *args, **options: obedient)
    area, depth = control(config(checkpoint, tmp_path / "control"))
    assert area.rank_correlation.value > 0.95
    assert area.slope == pytest.approx(1, abs=0.1)
    assert area.crosstalk["depth"] > 0.95  # larger ones are drawn deeper
    assert abs(depth.rank_correlation.value) < 0.3
    seeds = dict(obedient.seeds)
    assert len(seeds) == 40
    assert len({seeds[f"area_000_{step}"] for step in range(5)}) == 1
    assert seeds["area_000_0"] != seeds["area_001_0"]
    figures = read_json(tmp_path / "control" / "control.json")
    assert figures["area"]["rank_correlation"]["value"] == area.rank_correlation.value
    with (tmp_path / "control" / "control.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["asked"] for row in rows if row["attribute"] == "area"}) == 5
    for name in ("sheets/area.png", "sheets/depth.png", "crosstalk.png"):
        assert (tmp_path / "control" / name).stat().st_size > 1000
    assert len(read_samples(tmp_path / "control").records) == 40
    calls = len(obedient.seeds)
    again = control(config(checkpoint, tmp_path / "control"))
    assert again == [area, depth]
    assert len(obedient.seeds) == calls  # finished: nothing is sampled again


def test_a_real_network_is_swept(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: the sweep works with a generator of the tests alone."""
    (found,) = control(config(checkpoint, tmp_path / "control", names=["area"], num_seeds=2))
    assert found.name == "area"
    assert found.crosstalk == {}


def test_what_cannot_be_swept(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a checkpoint without attributes, or a name that it does not take, swept all the same."""
    plain = random_checkpoint(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="--checkpoint_path: found a checkpoint that takes label"):
        control(config(plain, tmp_path / "control"))
    with pytest.raises(UserError, match="--names: found size; expected some of area, depth"):
        control(config(checkpoint, tmp_path / "control", names=["size"]))
    assert not (tmp_path / "control").exists()
