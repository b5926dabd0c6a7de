"""Checkpoints to hand on: half the bytes, the same pairs but for what bf16 rounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_networks import TWO_SIZES, random_checkpoint

from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.export import ExportConfig, export


@pytest.mark.parametrize(("factor", "level"), [(1, 0.7), (2, 0.7), (2, 1.9)])
def test_exported_checkpoint_is_half_as_large_and_denoises_alike(factor: int, level: float, tmp_path: Path) -> None:
    """Damage: weights left in fp32, buffers rounded too (which say the noise level), or a card that is lost."""
    model = TWO_SIZES if factor > 1 else dataclasses.replace(TWO_SIZES, low_res_factor=1)
    source = random_checkpoint(tmp_path / "model.safetensors", noise=0.05, model=model)
    found = export(ExportConfig(str(source), str(tmp_path / "given" / "small.safetensors")))
    assert found.stat().st_size < 0.7 * source.stat().st_size  # the card is as long as before
    (whole, card, digest), (small, other, other_digest) = load_checkpoint(source), load_checkpoint(found)
    assert other == card
    assert other_digest != digest  # pairs sampled from it are distinguished
    for (name, a), (_, b) in zip(whole.named_buffers(), small.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), small.parameters(), strict=True))
    x = torch.randn(2, len(whole.modality), card.img_size, card.img_size, generator=torch.Generator().manual_seed(0))
    given = {"label": torch.tensor([0, 1])}
    a, b = (network(x, torch.full((2, 2), level), given) for network in (whole, small))
    assert torch.allclose(a, b, atol=0.02)
    assert next(small.parameters()).dtype == torch.float32
