"""Multi-Frequency in Multi-Scale Attention, the block of MADGNet's decoder (Nam et al., CVPR 2024, arXiv 2405.06284).

Channels are weighed by what they hold of low spatial frequencies (FcaNet, Qin et al., ICCV 2021, with the maximum and
minimum beside the mean), pixels by a map of foreground against background, at three scales.

What the paper leaves to pictures of 352 pixels is settled here for smaller ones. A map smaller than the size of the DCT
is not stretched to it: the same cosines are sampled at its own size, and have the amplitude 1 at any size, so that one
network sees the same statistics in a picture of 64 and of 128 pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

FREQUENCIES = 4  # of the DCT along each side, the lowest ones: 16 bases, and a map of 4 x 4 pixels still holds them
SCALES = 3  # branches; branch s sees the map at 1 / 2^s of its side
GROUPS = 32  # of the first convolution of a branch, which takes that many channels or a multiple
SMALLEST_CHANNELS = 32  # channels of a branch, at least
SMALLEST_SIDE = 8  # pixels that averaging leaves of a side, at least
REDUCTION = 16  # channels against hidden units of the channel attention
DCT_PRODUCT = 3584  # DCT sizes are 14, 28, 56 and 112 for blocks of 256, 128, 64 and 32 channels: always this product


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 3, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size of the map, batch normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def dct_bases(size: int, device: torch.device | None = None) -> Tensor:
    """(16, size, size) bases of the two-dimensional DCT-II with the lowest frequencies, u and v = 0 ... 3.

    B[4 u + v, i, j] = cos(pi u (i + 1/2) / size) cos(pi v (j + 1/2) / size): orthogonal for size >= 4, not normalised
    (FcaNet, eq. 3).
    """
    position = torch.arange(size, device=device) + 0.5
    waves = torch.cos(math.pi / size * torch.arange(FREQUENCIES, device=device)[:, None] * position)
    return (waves[:, None, :, None] * waves[:, None, :]).flatten(0, 1)


def frequency_statistics(x: Tensor) -> Tensor:
    """(3, B, C): mean, maximum and minimum over the pixels of x * basis, averaged over the bases; x (B, C, N, N)."""
    bases = dct_bases(x.shape[-1], x.device)
    mean = (x * bases.mean(dim=0)).mean(dim=(2, 3))  # linear in the basis, so the average comes first
    flat, bases = x.flatten(2).contiguous(), bases.flatten(1)
    with torch.no_grad():  # the gradient goes by one pixel of each map; finding it costs a third of what amax does
        products = (flat * basis for basis in bases)
        ends = [torch.stack([product.max(dim=-1)[1], product.min(dim=-1)[1]]) for product in products]
        places = torch.stack(ends, dim=-1)  # (2, B, C, 16)
    extremes = flat.expand(2, -1, -1, -1).gather(-1, places) * bases[torch.arange(len(bases), device=x.device), places]
    return torch.cat([mean[None], extremes.mean(dim=-1)])


class FrequencyAttention(nn.Module):
    """Channel attention: x * sigmoid(MLP(mean) + MLP(maximum) + MLP(minimum)), one MLP for the three statistics.

    `dct_size`: side that larger maps are averaged to before they meet the bases, pixels.
    """

    def __init__(self, channels: int, dct_size: int) -> None:
        super().__init__()
        self.dct_size = dct_size
        hidden = channels // REDUCTION
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = adaptive_avg_pool2d(x, self.dct_size) if x.shape[-1] > self.dct_size else x
        weights = torch.sigmoid(self.mlp(frequency_statistics(pooled)).sum(dim=0))
        return x * weights[:, :, None, None]


class SpatialAttention(nn.Module):
    """alpha x (1 - F) + beta x F, F = sigmoid(conv1x1(x)) the foreground; alpha and beta are learnt, 1 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.foreground = nn.Conv2d(channels, 1, 1)
        self.alpha = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        foreground = torch.sigmoid(self.foreground(x))
        return x * (self.alpha * (1 - foreground) + self.beta * foreground)


class ScaleBranch(nn.Module):
    """Branch s of the block: (B, C, N, N) -> (B, C, N, N) by way of N / 2^s pixels a side.

    A map that would have fewer than 8 pixels a side stays as it is, as in the paper: the branch then differs by its
    dilation only. It is not left out: its weights would not be trained while pictures are small.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.factor = 2**scale
        inner = max(channels // self.factor, SMALLEST_CHANNELS)
        self.features = nn.Sequential(
            conv_norm(channels, channels, dilation=1 + scale, groups=GROUPS), conv_norm(channels, inner, kernel=1)
        )
        self.frequency = FrequencyAttention(inner, DCT_PRODUCT // channels)
        self.spatial = SpatialAttention(inner)
        self.out = conv_norm(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        if min(size) // self.factor >= SMALLEST_SIDE:
            x = avg_pool2d(x, self.factor)
        x = self.out(self.spatial(self.frequency(self.features(x))))
        return x if x.shape[-2:] == size else interpolate(x, size=size, mode="bilinear")


class MFMSA(nn.Module):
    """x + the mean of the scale branches; (B, C, N, N) -> (B, C, N, N), C a multiple of 32, N >= 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ScaleBranch(channels, scale) for scale in range(SCALES))

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(branch(x) for branch in self.branches) / SCALES
