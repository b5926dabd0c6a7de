"""What is sampled from: network, settings, noise of each item, and the conditioning pictures as channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsegdiff.engine.rng import generator
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard
from medsegdiff.generators.joint_diffusion.codec import encode_sdf
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance
from medsegdiff.generators.joint_diffusion.guidance_defaults import guidance_of
from medsegdiff.generators.joint_diffusion.noise import sigma_table
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.plan import Item

SAMPLE, ASPECT = 21, 22  # purpose numbers of the random streams


@dataclass(frozen=True)
class Source:
    """A loaded checkpoint and how to sample from it; `config.mode` is settled."""

    config: GenerateConfig
    denoiser: Denoiser
    card: ModelCard
    digest: str  # of the checkpoint
    guidance_model: Denoiser | None = None  # a less trained network, which guidance steers away from
    guidance_digest: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.denoiser.modality.device

    @property
    def sigmas(self) -> Tensor:
        """(T + 1, 2) table of the mode."""
        assert self.config.mode is not None
        return sigma_table(self.config.mode, self.card.diffusion, self.config.steps)

    @property
    def guidance(self) -> Guidance:
        """What guides sampling of pairs."""
        return guidance_of(self.config, self.guidance_model)

    @property
    def provenance(self) -> dict[str, Any]:
        """What dataset.json says about the checkpoint; by its hashes `combine` refuses leakage."""
        return {"sha256": self.digest, "step": self.card.step, "train_hashes": self.card.train_hashes}

    def noise(self, items: Sequence[Item], attempts: Sequence[int]) -> Callable[[int], Tensor]:
        """noise(step) -> (B, C, S, S): standard normal numbers of each item from its own counters, on the CPU."""
        shape = (len(self.card.codec.mean), self.card.img_size, self.card.img_size)
        seed = self.config.seed

        def noise(step: int) -> Tensor:
            rows = zip(items, attempts, strict=True)
            return torch.stack(
                [torch.randn(shape, generator=generator(seed, *i.key, a, step, SAMPLE)) for i, a in rows]
            )

        return noise

    def known(self, items: Sequence[Item]) -> Tensor | None:
        """(B, C, S, S) channels of what the items are given, with 0 for the other modality, which the mode samples."""
        pictures = [i.conditioning_input.picture for i in items if i.conditioning_input is not None]
        if not pictures:
            return None
        stack, codec = torch.from_numpy(np.stack(pictures)), self.card.codec
        images = masks = stack
        if self.config.mode == "image_to_mask":
            masks = torch.zeros(len(stack), len(codec.mean) - codec.image_channels, *stack.shape[2:], dtype=torch.uint8)
        else:
            images = torch.zeros(len(stack), codec.image_channels, *stack.shape[2:], dtype=torch.uint8)
        return codec.encode(images.float() / 255, encode_sdf(masks, codec.sdf_truncation).float() / 255)


def padded(items: Sequence[Item], size: int) -> list[Item]:
    """`size` items, the last one repeated: batches of one size give the same pixels however many are asked for."""
    return [*items, *[items[-1]] * (size - len(items))]
