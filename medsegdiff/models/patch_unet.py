"""A patchified U-Net with transformer blocks at the bottleneck: the network works at a quarter of the resolution.

Space-to-depth (Shi et al. 2016, sub-pixel convolution, and its inverse) by 4 makes a training step about twenty times
cheaper on a CPU than a U-Net at full resolution. A small output stage at full resolution (`Seam`) removes the seams
between patches, which otherwise show as jagged mask edges, and the grain that a coarse network leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)

from medsegdiff.diffusion.condition import Condition

SEAM_FEATURES, SEAM_WIDTH = 4, 8  # channels of the full-resolution output stage


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-5)


class LevelEmbedding(nn.Module):
    """Fourier features of the noise level of every modality, (B, M) -> (B, M * 2 * bands)."""

    frequencies: Tensor

    def __init__(self, bands: int = 32) -> None:
        super().__init__()
        # c_noise = log(sigma) / 4 spans about -1.8..1.3; these wavelengths resolve 1 % steps of it without aliasing
        self.register_buffer("frequencies", torch.logspace(math.log10(0.25), math.log10(16), bands) * 2 * math.pi)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = (c_noise[..., None] * self.frequencies).flatten(1)
        return torch.cat([phase.cos(), phase.sin()], dim=1)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions; the embedding scales and shifts in between (Dhariwal and Nichol 2021, AdaGN)."""

    def __init__(self, in_channels: int, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = group_norm(channels)
        self.dropout = nn.Dropout2d(dropout)  # whole channels: drawing a number a pixel takes a tenth of a CPU step
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # every block starts as the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        skipped: Tensor = self.skip(x)
        return skipped + self.conv2(self.dropout(h))


class TransformerBlock(nn.Module):
    """Self-attention and MLP over all positions, both modulated and gated by the embedding (Peebles and Xie 2023)."""

    def __init__(self, channels: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels, elementwise_affine=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels), nn.Dropout(dropout)
        )
        self.modulation = nn.Linear(embedding, 6 * channels)
        nn.init.zeros_(self.modulation.weight)  # closed gates: every block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, C) tokens and a (B, E) embedding to (B, N, C) tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(h), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + gate1 * self.out(rearrange(attended, "b heads n d -> b n (heads d)"))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)


class Bottleneck(nn.Module):
    """Transformer blocks on the coarsest map, with learnt positions."""

    def __init__(self, channels: int, side: int, depth: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, embedding, dropout) for _ in range(depth))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c") + self.position
        for block in self.blocks:
            tokens = block(tokens, embedding)
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class Seam(nn.Module):
    """The output stage at full resolution: the coarse network's word, the noisy input, and what in it looks like noise.

    At low noise the network has to return the noise itself, pixel by pixel and with a gain of 1 / sigma, which a
    coarse network learns last. So this stage sees the fine detail of every channel in units of its noise level,
    limited by tanh (as in wavelet shrinkage, Donoho and Johnstone 1994): detail well above it is content.
    """

    modality: Tensor

    def __init__(self, features: int, modality: Sequence[int], embedding: int) -> None:
        super().__init__()
        channels = len(modality)
        self.register_buffer("modality", torch.tensor(modality), persistent=False)
        self.conv1 = nn.Conv2d(features + 2 * channels, SEAM_WIDTH, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * SEAM_WIDTH)
        self.conv2 = nn.Conv2d(SEAM_WIDTH, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # the untrained network says nothing but a bias

    def forward(self, h: Tensor, x: Tensor, c_noise: Tensor, embedding: Tensor) -> Tensor:
        """(B, F, S, S) features and (B, C, S, S) scaled noisy input to (B, C, S, S)."""
        # c_noise is log(sigma) / 4 and x is scaled by about 1 / sqrt(sigma^2 + 0.25): its noise has this deviation
        sigma = (4 * c_noise.float()).exp()
        deviation = (sigma / (sigma**2 + 0.25).sqrt())[:, self.modality, None, None]
        detail = x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        excess = torch.tanh(detail / (2 * deviation))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(torch.cat([h, x.to(h.dtype), excess.to(h.dtype)], dim=1))
        result: Tensor = self.conv2(F.silu(h * (1 + scale) + shift))
        return result


class PatchUNet(nn.Module):
    """The joint denoising network of image and mask, (B, C, S, S) -> (B, C, S, S).

    `modality` tells, for each of the C channels, which of the M noise levels is its own. `img_size` must be a
    multiple of patch_size * 2^(levels - 1).
    """

    def __init__(
        self,
        img_size: int,
        modality: Sequence[int] = (0, 1),
        num_classes: int = 2,
        patch_size: int = 4,
        model_channels: int = 96,
        channel_mult: Sequence[int] = (1, 2, 3),
        num_res_blocks: int = 1,
        use_transformer: bool = True,
        transformer_depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [model_channels * m for m in channel_mult]
        embedding = 4 * model_channels
        bands, channels = 32, len(modality)
        self.patch_size = patch_size
        self.levels = LevelEmbedding(bands)
        self.embed = nn.Sequential(
            nn.Linear(2 * bands * (max(modality) + 1), embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(num_classes + 1, embedding)  # the last row is the null class
        self.stem = nn.Conv2d(channels * patch_size**2, widths[0], 3, padding=1)
        self.down = self._encoder(widths, num_res_blocks, embedding, dropout)
        side = img_size // (patch_size * 2 ** (len(widths) - 1))
        depth = transformer_depth if use_transformer else 0
        self.bottleneck = Bottleneck(widths[-1], side, depth, num_heads, embedding, dropout)
        self.up = self._decoder(widths, num_res_blocks, embedding, dropout)
        self.out_norm = group_norm(widths[0])
        self.out = nn.Conv2d(widths[0], SEAM_FEATURES * patch_size**2, 3, padding=1)
        self.seam = Seam(SEAM_FEATURES, modality, embedding)

    @staticmethod
    def _encoder(widths: list[int], blocks: int, embedding: int, dropout: float) -> nn.ModuleList:
        """One stage a level: an optional halving, then residual blocks."""
        stages = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            halve = nn.Conv2d(before, width, 3, stride=2, padding=1) if level else nn.Identity()
            rate = dropout if level else 0.0  # not on the finest maps, which hold the texture
            stages.append(nn.ModuleList([halve, *(ResBlock(width, width, embedding, rate) for _ in range(blocks))]))
        return stages

    @staticmethod
    def _decoder(widths: list[int], blocks: int, embedding: int, dropout: float) -> nn.ModuleList:
        """The mirror image: an optional doubling, the encoder's output of that level beside it, residual blocks."""
        stages = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width, below = widths[level], widths[min(level + 1, len(widths) - 1)]
            double: nn.Module = nn.Identity()
            if level < len(widths) - 1:
                double = nn.Sequential(nn.Conv2d(below, width, 1), nn.Upsample(scale_factor=2))
            rate = dropout if level else 0.0
            sizes = [2 * width] + [width] * (blocks - 1)
            stages.append(nn.ModuleList([double, *(ResBlock(size, width, embedding, rate) for size in sizes)]))
        return stages

    def _embedding(self, c_noise: Tensor, cond: Condition) -> Tensor:
        e: Tensor = self.embed(self.levels(c_noise))
        null = self.label.num_embeddings - 1
        if cond.label is None:
            index = torch.full((len(c_noise),), null, device=c_noise.device)
        elif cond.keep_label is None:
            index = cond.label
        else:
            index = torch.where(cond.keep_label, cond.label, null)
        return F.silu(e + self.label(index))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        embedding = self._embedding(c_noise, cond)
        h = self.stem(F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last))
        skips = []
        for stage in self.down:
            resize, *blocks = cast(nn.ModuleList, stage)
            h = resize(h)
            for block in blocks:
                h = block(h, embedding)
            skips.append(h)
        h = self.bottleneck(h, embedding)
        for stage in self.up:
            resize, *blocks = cast(nn.ModuleList, stage)
            h = torch.cat([resize(h), skips.pop()], dim=1)
            for block in blocks:
                h = block(h, embedding)
        h = F.pixel_shuffle(self.out(F.silu(self.out_norm(h))), self.patch_size)
        result: Tensor = self.seam(h, x, c_noise, embedding)
        return result
