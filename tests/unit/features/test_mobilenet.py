"""The frozen network of discriminators: its weights, and that it only looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from medsegdiff.errors import UserError
from medsegdiff.features.perceptual.mobilenet import MEAN, STD, TAPS, load_mobilenet


def test_maps_are_those_of_torchvision(tmp_path: Path) -> None:
    """Damage: batch normalisation put into the wrong convolution, another layer tapped, or pictures scaled wrongly."""
    network = mobilenet_v2().eval()
    for name, value in network.state_dict().items():
        if "running" in name:  # statistics of their own, or putting them into a convolution would change nothing
            value.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    frozen = load_mobilenet(str(tmp_path / "weights.pth"))
    picture = torch.rand(2, 1, 32, 32)
    x = (picture.expand(-1, 3, -1, -1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = []
    with torch.no_grad():
        for number, layer in enumerate(network.features):
            x = layer(x)
            if number in TAPS:
                expected.append(x)
        found = frozen(picture)
    assert [f.shape[1] for f in found] == list(TAPS.values())
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, expected, strict=True))


def test_gradients_reach_the_picture_and_no_weight(tmp_path: Path) -> None:
    """Damage: the network learns, or hands no gradient on."""
    save_file(mobilenet_v2().state_dict(), tmp_path / "weights.safetensors")
    frozen = load_mobilenet(str(tmp_path / "weights.safetensors"))
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    frozen.train()(picture)[-1].sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


def test_layers_under_other_names_are_read_in_their_order(tmp_path: Path) -> None:
    """Damage: only torchvision's own names are known."""
    weights = mobilenet_v2().state_dict()
    renamed = {f"features.{n}.{k.split('.')[-1]}": v for n, (k, v) in enumerate(weights.items()) if "features" in k}
    torch.save(renamed, tmp_path / "other.pth")
    torch.save(weights, tmp_path / "own.pth")
    first, second = (load_mobilenet(str(tmp_path / name)) for name in ("own.pth", "other.pth"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Damage: a traceback for a file that holds something else."""
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"--feature_weights .*another network"):
        load_mobilenet(str(tmp_path / "other.safetensors"))
