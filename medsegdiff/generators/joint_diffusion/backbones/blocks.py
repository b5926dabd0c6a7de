"""What backbones are made of: embeddings, residual and transformer blocks, stages of a U-Net, the output stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)

from medsegdiff.conditioning.base import Condition, Conditions, Embedder

REFINER_WIDTH = 8  # channels of the full-resolution output stage


def positions_at(position: Tensor, side: int) -> Tensor:
    """Learnt positions (L, N, C) of a square grid, for one of side x side tokens: means where that one is coarser."""
    own = math.isqrt(position.shape[1])
    if own == side:
        return position
    grid = rearrange(position, "l (y x) c -> l c y x", y=own)
    return rearrange(F.interpolate(grid, size=(side, side), mode="area"), "l c y x -> l (y x) c")


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation, 16 channels a group where that goes (Wu and He 2018, table 3).

    As good there as 32 groups. Groups of one or two channels take torch's channels-last kernel on a CPU fifteen times
    as long, a third of a whole training step.
    """
    return nn.GroupNorm(math.gcd(channels, max(channels // 16, 1)), channels, eps=1e-5)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled-dot-product attention of (B, heads, N, D) queries, keys and values.

    Written out on a CPU: torch's fused kernel takes up to six times as long there for so few tokens in bf16.
    """
    if q.device.type == "cpu":
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


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

    checkpointable = True

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


def feed_forward(channels: int, dropout: float) -> nn.Sequential:
    """The MLP of a transformer block, (..., C) -> (..., C), four times as wide within."""
    return nn.Sequential(
        nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels), nn.Dropout(dropout)
    )


def closed_linear(features: int, channels: int) -> nn.Linear:
    """A linear layer that starts as 0, so that what it scales, shifts or gates starts as if it were not there."""
    layer = nn.Linear(features, channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class TransformerBlock(nn.Module):
    """Self-attention and MLP over all positions, both modulated and gated by the embedding (Peebles and Xie 2023)."""

    checkpointable = True

    def __init__(self, channels: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels, elementwise_affine=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False)
        self.mlp = feed_forward(channels, dropout)
        self.modulation = closed_linear(embedding, 6 * channels)  # closed gates: the block starts as the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, C) tokens and a (B, E) embedding to (B, N, C) tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(h), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        attended = attend(q, k, v)
        x = x + gate1 * self.out(rearrange(attended, "b heads n d -> b n (heads d)"))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)


class OutputRefiner(nn.Module):
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
        self.conv1 = nn.Conv2d(features + 2 * channels, REFINER_WIDTH, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * REFINER_WIDTH)
        self.conv2 = nn.Conv2d(REFINER_WIDTH, channels, 3, padding=1)
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


class ConditionEmbedding(nn.Module):
    """A backbone's embedding of noise levels and conditions."""

    def __init__(self, modalities: int, conditions: Sequence[Condition], embedding: int) -> None:
        super().__init__()
        bands = 32
        self.levels = LevelEmbedding(bands)
        self.embed = nn.Sequential(
            nn.Linear(2 * bands * modalities, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.conditions = nn.ModuleDict({c.name: c.embedder(embedding) for c in conditions})

    def embedding(self, c_noise: Tensor, cond: Conditions) -> Tensor:
        """(B, E) of levels (B, M) and conditions."""
        e: Tensor = self.embed(self.levels(c_noise))
        for name in reversed(list(self.conditions)):  # the class last, as older weights were trained
            embedder = cast(Embedder, self.conditions[name])
            e = e + (embedder(cond[name]) if name in cond else embedder.null())
        return F.silu(e)

    def drawing(self) -> list[tuple[str, Embedder]]:
        """Names and embedders of the conditions that draw where something is."""
        embedders = ((name, cast(Embedder, embedder)) for name, embedder in self.conditions.items())
        return [(name, embedder) for name, embedder in embedders if embedder.map_count]

    def maps(self, cond: Conditions, like: Tensor) -> Tensor:
        """(B, N, side, side) what they draw, for maps `like` (B, C, side, side); zero where nothing is given."""
        batch, _, side, _ = like.shape
        drawn = (
            embedder.maps(cond[name], side) if name in cond else like.new_zeros(batch, embedder.map_count, side, side)
            for name, embedder in self.drawing()
        )
        return torch.cat([part.to(like.dtype) for part in drawn], dim=1)


def encoder_stages(widths: list[int], blocks: int, embedding: int, dropout: float) -> nn.ModuleList:
    """One stage a level: an optional halving, then residual blocks."""
    stages = nn.ModuleList()
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        halve = nn.Conv2d(before, width, 3, stride=2, padding=1) if level else nn.Identity()
        rate = dropout if level else 0.0  # not on the finest maps, which hold the texture
        stages.append(nn.ModuleList([halve, *(ResBlock(width, width, embedding, rate) for _ in range(blocks))]))
    return stages


def decoder_stages(widths: list[int], blocks: int, embedding: int, dropout: float) -> nn.ModuleList:
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


def run_stage(stage: nn.Module, h: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
    """One stage of `encoder_stages`, or with `skip` one of `decoder_stages`."""
    resize, *blocks = cast(nn.ModuleList, stage)
    h = resize(h)
    if skip is not None:
        h = torch.cat([h, skip], dim=1)
    for block in blocks:
        h = block(h, embedding)
    return h
