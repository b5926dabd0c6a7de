"""Gradient checkpointing: the same gradients from less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medsegdiff.conditioning.label import Label
from medsegdiff.engine.checkpointing import checkpoint_blocks
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone
from medsegdiff.generators.joint_diffusion.config import ModelConfig

CONDITIONS = [Label(classes=["a", "b"], drop_rate=0.1)]
SETTINGS = ModelConfig(model_channels=16, channel_mult=[1, 2], transformer_depth=2, num_heads=2, dropout=0.5)


def gradients(backbone: str, switched_on: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients of all weights, and how many bytes forward kept for them."""
    torch.manual_seed(0)
    network = build_backbone(backbone, Inputs(32, (0, 1), tuple(CONDITIONS)), SETTINGS).train()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))  # closed gates hide what is behind them
    if switched_on:
        assert checkpoint_blocks(network) >= 6
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    cond = {"label": torch.tensor([0, -1, 0])}
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(torch.randn(3, 2, 32, 32), torch.zeros(3, 2), cond).square().mean()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    size = sum(size for address, size in kept.items() if address not in weights)
    torch.rand(7)  # somebody else samples in between
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, size


@pytest.mark.parametrize("backbone", ["patch_unet", "medsegdiff_v2"])
def test_gradients_are_the_same_and_memory_is_less(backbone: str) -> None:
    """Damage: other dropout in the second pass (preserve_rng_state=False); a kind of block left out; blocks undone."""
    plain, much = gradients(backbone, False)
    found, little = gradients(backbone, True)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    assert little < 0.6 * much


def test_weights_keep_their_names() -> None:
    """Damage: putting blocks into a module of another name, which older checkpoints would not fit."""
    network: Any = build_backbone("patch_unet", Inputs(32, (0, 1), tuple(CONDITIONS)), SETTINGS)
    names = list(network.state_dict())
    checkpoint_blocks(network)
    assert list(network.state_dict()) == names
