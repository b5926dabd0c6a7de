"""The optimiser: orthogonal steps for inner matrices, AdamW for the rest, and a state that can be saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medsegdiff.models import MedSegDiffV2, PatchUNet
from medsegdiff.training.muon import Muon, is_inner_matrix, orthogonalised


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalised_keeps_directions_and_levels_sizes(shape: tuple[int, int]) -> None:
    """Damage: fewer rounds, another coefficient, no turning of tall matrices."""
    random = torch.Generator().manual_seed(0)
    k = min(shape)
    u = torch.linalg.qr(torch.randn(shape[0], k, generator=random))[0]
    v = torch.linalg.qr(torch.randn(shape[1], k, generator=random))[0]
    sizes = torch.logspace(0, -1.2, k)
    found = u.T @ orthogonalised(u @ sizes.diag() @ v.T) @ v
    assert float(found.diagonal().min()) > 0.5
    assert float(found.diagonal().max()) < 1.3
    assert (found - found.diagonal().diag()).abs().max() < 1e-4
    assert not orthogonalised(torch.zeros(shape)).any()
    matrix = u @ sizes.diag() @ v.T
    rough = orthogonalised(matrix, dtype=torch.bfloat16)
    assert rough.dtype == matrix.dtype
    assert 0 < float((rough - orthogonalised(matrix)).norm() / rough.norm()) < 0.05


def test_what_counts_as_an_inner_matrix() -> None:
    """Damage: the output of a transformer block, or of the network, or tables among the wrong ones."""
    for network in (PatchUNet(32, model_channels=16, tell_moves=True), MedSegDiffV2(32, model_channels=16)):
        names = {name for name, w in network.named_parameters() if is_inner_matrix(name, w)}
        left = {name for name, w in network.named_parameters() if w.ndim >= 2} - names
        parts = {name.rsplit(".", 1)[0].split(".")[-1] for name in left}
        assert {"stem", "out", "label", "conv1", "conv2"} <= parts | {n.split(".")[-2] for n in left}
        assert any(name.endswith("blocks.0.out.weight") or "halves.0.out.weight" in name for name in names)
        assert not any("gain" in name or "position" in name or "moves" in name for name in names)
        share = sum(w.numel() for n, w in network.named_parameters() if n in names)
        assert share / sum(w.numel() for w in network.parameters()) > 0.7


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(3, 4)
        self.conv = nn.Conv2d(2, 4, 3)


def with_gradients(seed: int = 1) -> Net:
    net, random = Net(), torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=random)
    return net


def test_everything_but_inner_matrices_takes_the_step_of_adamw() -> None:
    """Damage: no bias correction, decay of the gradient, betas swapped."""
    net, reference = with_gradients(), with_gradients()
    muon = Muon(net, 1e-2, 1e-2, 0.1, betas=(0.8, 0.9))
    outer = [reference.stem.weight, reference.stem.bias, reference.conv.bias]
    adamw = torch.optim.AdamW(outer, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    for _ in range(3):
        muon.step()
        adamw.step()
    for name in ("stem.weight", "stem.bias", "conv.bias"):
        assert torch.allclose(net.get_parameter(name), reference.get_parameter(name), atol=1e-6)


def test_inner_matrices_take_orthogonal_steps() -> None:
    """Damage: no momentum, none ahead, decay left out, the convolution flattened along another axis."""
    net, expected, momentum = Net(), Net().conv.weight.detach(), torch.zeros(4, 2, 3, 3)
    optimiser = Muon(net, 1e-3, 0.02, 0.5, momentum=0.9)
    for seed in (1, 2):  # after one step momentum and gradient have the same direction
        for weight, other in zip(net.parameters(), with_gradients(seed).parameters(), strict=True):
            weight.grad = other.grad
        grad = net.conv.weight.grad
        assert grad is not None
        momentum = 0.9 * momentum + 0.1 * grad
        ahead = 0.1 * grad + 0.9 * momentum
        step = orthogonalised(ahead.reshape(4, 18)).view(4, 2, 3, 3)
        expected = expected * (1 - 0.02 * 0.5) - 0.02 * step
        optimiser.step()
    assert torch.allclose(net.conv.weight, expected, atol=1e-6)


def test_state_goes_on_where_it_was() -> None:
    """Damage: momentum kept outside of the state, so that a resumed run differs."""

    def steps(net: Net, optimiser: Muon, seeds: range) -> list[Tensor]:
        for seed in seeds:
            for weight, other in zip(net.parameters(), with_gradients(seed).parameters(), strict=True):
                weight.grad = other.grad
            optimiser.step()
        return [w.detach().clone() for w in net.parameters()]

    def fresh() -> tuple[Net, Muon]:
        net = Net()
        return net, Muon(net, 1e-2, 0.02, 0.1)

    whole = steps(*fresh(), range(4))
    net, optimiser = fresh()
    steps(net, optimiser, range(2))
    saved: dict[str, Any] = copy.deepcopy(optimiser.state_dict())
    other, again = fresh()
    other.load_state_dict(net.state_dict())
    again.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(whole, steps(other, again, range(2, 4)), strict=True))
