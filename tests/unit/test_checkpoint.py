"""What checkpoints hold, and what is refused where one is expected."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_networks import random_checkpoint, refuse_to_sample

from medsegdiff.generators.joint_diffusion.checkpoint import VERSION, load_checkpoint, save_checkpoint
from medsegdiff.synthesis.config import GenerateConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights."""
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors")


def refuse(message: str, path: Path) -> None:
    output = path.parent / "pairs"
    refuse_to_sample(message, lambda: GenerateConfig(str(path), str(output), precision="fp32", device="cpu"), output)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["pth", "pt", "pkl"])
def test_a_pickle_is_never_opened(ending: str, tmp_path: Path) -> None:
    """Damage: torch.load for names that end in .pth."""
    path = tmp_path / f"best_model.{ending}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refuse("found a pickle, which is never opened .*; expected a checkpoint, best_model.safetensors", path)
    assert not (tmp_path / "exploded").exists()


def test_missing_checkpoint(tmp_path: Path) -> None:
    """Damage: FileNotFoundError with a traceback."""
    refuse(r"nowhere\.pth: found no such file; expected a checkpoint", tmp_path / "nowhere.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint(share: float, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: letting SafetensorError through."""
    data = checkpoint.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(share * len(data))])
    refuse(r"cut\.safetensors: found a damaged file \(.*\); expected a safetensors checkpoint", path)


@pytest.mark.parametrize("metadata", [None, {"kind": "medsegdiff.downstream.segmentation", "version": str(VERSION)}])
def test_weights_of_something_else(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    """Damage: KeyError of a missing card."""
    path = tmp_path / "other.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata)
    refuse(r"found kind .*; expected kind 'medsegdiff\.generative'", path)


def test_checkpoint_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a field of ModelCard that JSON turns into something else, e.g. tuples of the codec into lists."""
    denoiser, card, _ = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "copy.safetensors", denoiser.state_dict(), card)
    again = load_checkpoint(tmp_path / "copy.safetensors")
    assert again[1] == card
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), again[0].parameters(), strict=True))
    assert not again[0].training


def test_the_same_checkpoint_has_the_same_digest(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a digest of the file, whose metadata keys safetensors writes in any order."""
    denoiser, card, digest = load_checkpoint(checkpoint)
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_checkpoint(path, denoiser.state_dict(), card)
        assert load_checkpoint(path)[2] == digest
    card = dataclasses.replace(card, step=8)
    save_checkpoint(tmp_path / "card.safetensors", denoiser.state_dict(), card)
    weights = {name: value + 1e-3 for name, value in denoiser.state_dict().items()}
    save_checkpoint(tmp_path / "weights.safetensors", weights, card)
    others = {load_checkpoint(tmp_path / f"{name}.safetensors")[2] for name in ("card", "weights")}
    assert len(others | {digest}) == 3
