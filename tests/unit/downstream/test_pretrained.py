"""Weights of a file: what is read, what fits, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medsegdiff.downstream.pretrained import load_encoder
from medsegdiff.errors import UserError
from medsegdiff.features.perceptual.weights import read_weights


def colour_net(seed: int) -> nn.Module:
    """A small network for three channels and two classes."""
    torch.manual_seed(seed)
    return timm.create_model("resnet10t", num_classes=2).eval()


def grey_net(seed: int) -> nn.Module:
    """The same for one channel."""
    torch.manual_seed(seed)
    return timm.create_model("resnet10t", num_classes=2, in_chans=1).eval()


def features(model: nn.Module, x: Tensor) -> Tensor:
    """What comes before the head."""
    with torch.no_grad():
        return model.forward_features(x)  # type: ignore[operator]


def test_a_stem_for_colour_sees_grey_as_before(tmp_path: Path) -> None:
    """Grey against grey in all three channels. Damage: the channels of the stem are averaged, or one is taken."""
    published, model = colour_net(0), grey_net(1)
    save_file(published.state_dict(), tmp_path / "w.safetensors")
    load_encoder(model, read_weights(tmp_path / "w.safetensors"), tmp_path / "w.safetensors", heads=["fc"])
    x = torch.randn(2, 1, 64, 64)
    assert torch.allclose(features(model, x), features(published, x.expand(2, 3, 64, 64)), atol=1e-4)
    assert not torch.equal(model.fc.weight, published.fc.weight)


def test_an_encoder_is_found_within_another_network(tmp_path: Path) -> None:
    """As data-parallel training saves it. Damage: dictionaries are not looked into, or the prefix stays."""
    published, model = grey_net(0), grey_net(1)
    state = {f"module.encoder.{name}": value for name, value in published.state_dict().items()}
    content = {"epoch": 3, "optimiser": {"moments": torch.zeros(3)}, "state_dict": state | {"module.decoder.w": x0()}}
    torch.save(content, tmp_path / "w.pth")
    load_encoder(model, read_weights(tmp_path / "w.pth"), tmp_path / "w.pth")
    assert all(torch.equal(value, published.state_dict()[name]) for name, value in model.state_dict().items())


def x0() -> Tensor:
    """Something that no encoder has."""
    return torch.zeros(7)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """The names agree, most shapes do not. Damage: names alone count, or if what fits is loaded all the same."""
    model = grey_net(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = {
        name: value if name.startswith("layer1") else value.new_zeros(5)
        for name, value in grey_net(0).state_dict().items()
    }
    found = r"weights\.pth: found weights of another network: \d+ of \d+ tensors fit \(the file begins with conv1\.0"
    with pytest.raises(UserError, match=found + r".*expected tensors such as conv1\.0\.weight \(24, 1, 3, 3\)"):
        load_encoder(model, other, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_is_run_by_reading(tmp_path: Path) -> None:
    """A file that brings code. Damage: it is loaded with weights_only=False."""
    torch.save({"weight": torch.zeros(2), "trap": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: found a file that cannot be read"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth", "empty.pth"])
def test_broken_files_are_reported_in_a_line(tmp_path: Path, name: str) -> None:
    """Damage: what safetensors or torch raises comes through."""
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no weights")
    with pytest.raises(UserError, match="found a file that cannot be read"):
        read_weights(tmp_path / name)


def test_missing_files_and_files_without_tensors(tmp_path: Path) -> None:
    """Damage: a misspelt path, or a dictionary of numbers, is taken for weights."""
    with pytest.raises(UserError, match=r"--encoder_weights imagnet: found no such file; expected imagenet, or"):
        read_weights(Path("imagnet"))
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="found no tensor in a dict"):
        read_weights(tmp_path / "w.pth")
