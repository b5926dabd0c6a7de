"""Checkpoints of tiny networks with random weights, and what must not be sampled with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_sets import CLASSES

from medsegdiff.conditioning.label import Label
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, build_denoiser, save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

# Tiny, for pictures of 16 px, of which it sees 8 where noise is high
TWO_SIZES = ModelConfig(
    patch_size=2, model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2, low_res_factor=2
)


def refuse_to_sample(message: str, config: Callable[[], GenerateConfig], output: Path) -> None:
    """Assert that the settings are refused, or nothing is sampled with them, and that nothing half-written stays."""
    with pytest.raises(UserError, match=message):
        generate(config())
    assert not output.exists()
    assert not output.with_name(f"{output.name}.partial").exists()


def random_checkpoint(path: Path, noise: float = 0.02, **changes: Any) -> Path:
    """Save a tiny network with random weights at `path`; `changes` are fields of its card.

    As it is, its masks are noise of which half is lesion: one large connected part.
    """
    card = ModelCard(
        img_size=16,
        classes=CLASSES,
        lesion_classes=CLASSES,
        conditions=[Label(classes=changes.get("classes", CLASSES), drop_rate=0.1)],
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2),
        diffusion=DiffusionConfig(sigma_max=2.0, sigma_min=0.5),
        codec=PairCodec((0.4, 0.6), (0.2, 0.5)),
        aspects={"benign": [1.25, 1.5], "malignant": [0.75]},
        train_hashes=[{"image_hash": "ab", "perceptual_hash": "cd"}],
        step=7,
        scores={"val_loss": 1.0},
    )
    card = dataclasses.replace(card, **changes)
    torch.manual_seed(0)
    denoiser = build_denoiser(card)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(noise * torch.randn_like(weight))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, denoiser.state_dict(), card)
    return path
