"""A patchified U-Net with transformer blocks at the bottleneck: the network works at a fraction of the resolution.

Space-to-depth (Shi et al. 2016, sub-pixel convolution, and its inverse) by 4 makes a training step about twenty times
cheaper on a CPU than a U-Net at full resolution. A small output stage at full resolution (`OutputRefiner`) removes the
seams between patches, which otherwise show as jagged mask edges, and the grain that a coarse network leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)

from medsegdiff.conditioning.base import GAIN, Condition, Conditions
from medsegdiff.generators.joint_diffusion.backbones import Inputs
from medsegdiff.generators.joint_diffusion.backbones.blocks import (
    ConditionEmbedding,
    OutputRefiner,
    TransformerBlock,
    closed_linear,
    decoder_stages,
    encoder_stages,
    group_norm,
    positions_at,
    run_stage,
)
from medsegdiff.generators.joint_diffusion.backbones.config import ModelConfig

REFINER_FEATURES = 4  # channels that the coarse network hands to the output stage


@dataclass(frozen=True)
class Settings(ModelConfig):
    """Settings of this network: those of every U-Net, and the layout code."""

    layout_code: bool = False  # embed the picture's coarse layout too; few-step training adds it, for variety


def build(inputs: Inputs, settings: Settings) -> PatchUNet:
    """The network of these settings."""
    return PatchUNet(inputs.img_size, inputs.modality, inputs.conditions, **settings.own)


class LayoutCode(nn.Module):
    """The picture's coarse layout, 8 x 8, as a part of the embedding, so that every block knows it.

    At the highest noise level it is noise, and so the latent vector that decides a picture as a whole (StyleGAN, Karras
    et al. 2019): convolutions see too little of the low frequencies of noise to make pictures differ as a whole.
    """

    SIDE, GAIN = 8, 5.0  # places a side; factor of what is learnt, as of an equalised learning rate

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels * self.SIDE**2, 2 * embedding)
        self.out = closed_linear(2 * embedding, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, E)."""
        layout = F.adaptive_avg_pool2d(x, self.SIDE).flatten(1)
        code: Tensor = self.GAIN * self.out(F.silu(self.hidden(F.layer_norm(layout, layout.shape[1:]))))
        return code


class Bottleneck(nn.Module):
    """Transformer blocks on the coarsest map, with learnt positions."""

    def __init__(self, channels: int, side: int, depth: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, embedding, dropout) for _ in range(depth))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c") + positions_at(self.position, x.shape[2])
        for block in self.blocks:
            tokens = block(tokens, embedding)
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class PatchUNet(ConditionEmbedding):
    """The joint denoising network of image and mask, (B, C, S, S) -> (B, C, S, S).

    `modality` says, for each of the C channels, which of the M noise levels is its own. `img_size` must be a
    multiple of patch_size * 2^(levels - 1); smaller pictures of such sizes may come too.
    """

    def __init__(
        self,
        img_size: int,
        modality: Sequence[int] = (0, 1),
        conditions: Sequence[Condition] = (),
        patch_size: int = 4,
        model_channels: int = 96,
        channel_mult: Sequence[int] = (1, 2, 3),
        num_res_blocks: int = 1,
        use_transformer: bool = True,
        transformer_depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        layout_code: bool = False,
    ) -> None:
        embedding = 4 * model_channels
        super().__init__(max(modality) + 1, conditions, embedding)
        widths = [model_channels * m for m in channel_mult]
        self.patch_size = patch_size
        self.layout_code = LayoutCode(len(modality), embedding) if layout_code else None
        self.stem = nn.Conv2d(len(modality) * patch_size**2, widths[0], 3, padding=1)
        drawn = sum(embedder.map_count for _, embedder in self.drawing())
        self.places = nn.Conv2d(drawn, widths[0], 3, padding=1, bias=False) if drawn else None
        if self.places is not None:
            nn.init.zeros_(self.places.weight)
        self.down = encoder_stages(widths, num_res_blocks, embedding, dropout)
        side = img_size // (patch_size * 2 ** (len(widths) - 1))
        depth = transformer_depth if use_transformer else 0
        self.bottleneck = Bottleneck(widths[-1], side, depth, num_heads, embedding, dropout)
        self.up = decoder_stages(widths, num_res_blocks, embedding, dropout)
        self.out_norm = group_norm(widths[0])
        self.out = nn.Conv2d(widths[0], REFINER_FEATURES * patch_size**2, 3, padding=1)
        self.refiner = OutputRefiner(REFINER_FEATURES, modality, embedding)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditions) -> Tensor:
        embedding = self.embedding(c_noise, cond)
        if self.layout_code is not None:
            embedding = embedding + self.layout_code(x)
        h = self.stem(F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last))
        if self.places is not None:
            h = h + GAIN * self.places(self.maps(cond, h))
        skips = []
        for stage in self.down:
            h = run_stage(stage, h, embedding)
            skips.append(h)
        h = self.bottleneck(h, embedding)
        for stage in self.up:
            h = run_stage(stage, h, embedding, skips.pop())
        h = F.pixel_shuffle(self.out(F.silu(self.out_norm(h))), self.patch_size)
        result: Tensor = self.refiner(h, x, c_noise, embedding)
        return result
