"""Checkpoints to hand on: half the bytes, the same pairs but for what bf16 rounds."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import random_checkpoint

from medsegdiff.checkpoint import load_checkpoint
from medsegdiff.diffusion.condition import Condition
from medsegdiff.export import ExportConfig, export


def test_exported_checkpoint_is_half_as_large_and_denoises_alike(tmp_path: Path) -> None:
    """Damage: weights left in fp32, buffers rounded too (which tell the noise level), or a card that is lost."""
    source = random_checkpoint(tmp_path / "model.safetensors", noise=0.05)
    found = export(ExportConfig(str(source), str(tmp_path / "given" / "small.safetensors")))
    assert found.stat().st_size < 0.7 * source.stat().st_size  # the card is as long as before
    (whole, card, digest), (small, other, other_digest) = load_checkpoint(source), load_checkpoint(found)
    assert other == card
    assert other_digest != digest  # pairs drawn from it are told apart
    for (name, a), (_, b) in zip(whole.named_buffers(), small.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), small.parameters(), strict=True))
    x = torch.randn(2, len(whole.modality), card.img_size, card.img_size, generator=torch.Generator().manual_seed(0))
    given = Condition(torch.tensor([0, 1]), torch.tensor([True, True]))
    a, b = (network(x, torch.full((2, 2), 0.7), given) for network in (whole, small))
    assert torch.allclose(a, b, atol=0.02)
    assert next(small.parameters()).dtype == torch.float32
