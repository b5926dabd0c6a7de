"""MedSegDiff-V2 in joint form: an image stream and a mask stream, each noisy at its own level, that inform each other.

Wu et al., "MedSegDiff-V2: Diffusion-based medical image segmentation with transformer", AAAI 2024 (arXiv 2301.11798),
has a condition network on the clean image and a diffusion network on the noisy mask; the first informs the second
through an anchor (U-SA) in the encoder and through SS-Former, with its neural band-pass filter, at the bottleneck.
Here both streams are noisy and each informs the other by the same two ways, so that one network samples pairs, images
of masks and masks of images. The published code never held these modules; they are built from the paper. What differs
from it: the anchor is the other stream's feature of the same stage, as its decoder comes too late to inform an encoder
that it depends on itself; the network works on patches; a small output stage sees both streams at full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)

from medsegdiff.conditioning.base import Condition, Conditions
from medsegdiff.errors import require
from medsegdiff.generators.joint_diffusion.backbones import Inputs
from medsegdiff.generators.joint_diffusion.backbones.blocks import (
    ConditionEmbedding,
    OutputRefiner,
    TransformerBlock,
    closed_linear,
    decoder_stages,
    encoder_stages,
    feed_forward,
    group_norm,
    positions_at,
    run_stage,
)
from medsegdiff.generators.joint_diffusion.backbones.config import ModelConfig

KERNEL = 5  # pixels of the anchor's Gaussian kernel
REFINER_FEATURES = (4, 2)  # channels that image and mask stream hand to the output stage
STREAMS = 2


@dataclass(frozen=True)
class Settings(ModelConfig):
    """Settings of this network: those of every U-Net, the mask stream, and parts to leave out."""

    mask_share: float = 0.5  # width of the mask stream, share of the image stream's
    use_anchor: bool = True  # streams gate each other in the encoder, U-SA
    use_spectrum: bool = True  # SS-Former at the bottleneck; false: plain attention there
    use_band_pass: bool = True  # neural band-pass filter in SS-Former

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.mask_share <= 1, "--model.mask_share", self.mask_share, "above 0 and up to 1")
        for part, used in (
            ("use_spectrum", self.use_transformer),
            ("use_band_pass", self.use_transformer and self.use_spectrum),
        ):
            expected = "True, as medsegdiff_v2 has no use for it with these settings"
            require(used or getattr(self, part), f"--model.{part}", False, expected, "Leave it out.")


def build(inputs: Inputs, settings: Settings) -> MedSegDiffV2:
    """The network of these settings; image channels come first, as `PairCodec` has them."""
    images, masks = (inputs.modality.count(modality) for modality in range(STREAMS))
    return MedSegDiffV2(inputs.img_size, images, masks, inputs.conditions, **settings.own)


class Anchor(nn.Module):
    """U-SA: f' = f + sigmoid(conv1x1(f_anc)) f, with f_anc = max(g * k_Gauss, g) of the other stream's feature g.

    The kernel's width is learnt, one a channel: what one stream is unsure about reaches the other blurred.
    """

    def __init__(self, other: int, channels: int) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.zeros(other))  # ln of the Gaussian's standard deviation, pixels
        self.gate = nn.Conv2d(other, channels, 1)

    def kernel(self) -> Tensor:
        """(C, 1, K, K) Gaussians that sum to 1."""
        at = torch.arange(KERNEL, device=self.log_width.device) - KERNEL // 2
        line = torch.softmax(-0.5 * (at / self.log_width.exp()[:, None]) ** 2, dim=1)  # the same as normalising
        return (line[:, :, None] * line[:, None, :])[:, None]

    def anchor(self, other: Tensor) -> Tensor:
        """f_anc (B, C, *S) of the other stream's feature: nowhere below it."""
        padded = F.pad(other, [KERNEL // 2] * 4, mode="replicate")
        return torch.maximum(F.conv2d(padded, self.kernel().to(other.dtype), groups=other.shape[1]), other)

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        return h + torch.sigmoid(self.gate(self.anchor(other))) * h


class SpectralAttention(nn.Module):
    """Cross-attention in Fourier space: A = F^-1(sin(M)), M = (F(e) W_q) (F(c) W_k)^H, result A (c W_v).

    F is the unitary 2-D Fourier transform over token positions, and sin acts on real and imaginary parts, which keeps
    A real. Without sin, A would be the product of queries and keys in space.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)

    def affinity(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, N, N) float32 weights of queries and keys (B, H, N, D)."""
        q, k = (self._transform(t.float()) for t in (q, k))
        m = q @ k.mH / q.shape[-1] ** 0.5
        m = torch.complex(m.real.sin(), m.imag.sin())
        shape = (
            *m.shape[:-2],
            *[math.isqrt(m.shape[-1])] * 4,
        )  # rows of queries, columns of keys, each a picture of tokens
        back = torch.fft.ifft2(m.view(shape), dim=(-4, -3), norm="ortho")
        back = torch.fft.fft2(back, dim=(-2, -1), norm="ortho")  # the keys' side stands conjugated
        return back.real.reshape(m.shape) / m.shape[-1] ** 0.5

    def _transform(self, t: Tensor) -> Tensor:
        grid = rearrange(t, "b heads (y x) d -> b heads y x d", y=math.isqrt(t.shape[2]))
        return torch.fft.fft2(grid, dim=(-3, -2), norm="ortho").flatten(2, 3)

    def forward(self, e: Tensor, c: Tensor) -> Tensor:
        """(B, N, C) tokens e that ask and c that answer -> (B, N, C)."""
        q = rearrange(self.query(e), "b n (heads d) -> b heads n d", heads=self.heads)
        k, v = rearrange(self.key_value(c), "b n (two heads d) -> two b heads n d", two=2, heads=self.heads)
        with torch.autocast(e.device.type, enabled=False):  # transforms exist in fp32 everywhere, in bf16 nowhere
            weights = self.affinity(q, k)
        return rearrange(weights.to(v.dtype) @ v, "b heads n d -> b n (heads d)")


class BandPass(nn.Module):
    """Neural band-pass filter: a learnt gain a frequency and channel, modulated by the embedding (AdaIN-like)."""

    def __init__(self, channels: int, side: int, embedding: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(side, side // 2 + 1, channels))
        self.modulation = closed_linear(embedding, 2 * channels)  # starts as the identity

    def gain_at(self, side: int) -> Tensor:
        """(side, side // 2 + 1, C) gains of a grid as coarse or coarser, which has the low ones of the frequencies."""
        if side == len(self.gain):
            return self.gain
        rows = torch.fft.fftfreq(side, 1 / side, device=self.gain.device).long()  # cycles a picture; -1 is the last
        return self.gain[rows, : side // 2 + 1]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, C) tokens -> (B, N, C)."""
        scale, shift = self.modulation(embedding).float()[:, None, None].chunk(2, dim=-1)
        side = math.isqrt(x.shape[1])
        grid = rearrange(x.float(), "b (y x) c -> b y x c", y=side)
        spectrum = torch.fft.rfft2(grid, dim=(1, 2), norm="ortho") * (self.gain_at(side) * (1 + scale) + shift)
        back = torch.fft.irfft2(spectrum, s=(side, side), dim=(1, 2), norm="ortho")
        return back.flatten(1, 2).to(x.dtype)


class HalfBlock(nn.Module):
    """One direction of an SS-Former block: tokens that ask the other stream, filter what it says, then think alone."""

    def __init__(self, channels: int, side: int, heads: int, embedding: int, dropout: float, band_pass: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, elementwise_affine=False)
        self.attention = SpectralAttention(channels, heads)
        self.filter = BandPass(channels, side, embedding) if band_pass else None
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False)
        self.mlp = feed_forward(channels, dropout)
        self.modulation = closed_linear(embedding, 6 * channels)  # closed gates: the block starts as the identity

    def forward(self, own: Tensor, other: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, C) tokens of the own and the other stream -> those of the own."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        attended = self.attention(self.norm1(own) * (1 + scale1) + shift1, self.norm1(other))
        if self.filter is not None:
            attended = self.filter(attended, embedding)
        own = own + gate1 * self.out(attended)
        h = self.norm2(own) * (1 + scale2) + shift2
        return own + gate2 * self.mlp(h)


class SSFormerBlock(nn.Module):
    """Two mirrored cross-attentions: the image asks the mask, and the mask asks the image."""

    checkpointable = True

    def __init__(self, channels: int, side: int, heads: int, embedding: int, dropout: float, band_pass: bool) -> None:
        super().__init__()
        halves = (HalfBlock(channels, side, heads, embedding, dropout, band_pass) for _ in range(STREAMS))
        self.halves = nn.ModuleList(halves)

    def forward(self, image: Tensor, mask: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) tokens of both streams -> both. Swapping roles (and halves) swaps the result."""
        return self.halves[0](image, mask, embedding), self.halves[1](mask, image, embedding)


class JointBlock(nn.Module):
    """What SS-Former is compared with: self-attention over the tokens of both streams, as any transformer has it."""

    def __init__(self, channels: int, heads: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.block = TransformerBlock(channels, heads, embedding, dropout)

    def forward(self, image: Tensor, mask: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) tokens of both streams -> both."""
        first, second = self.block(torch.cat([image, mask], dim=1), embedding).chunk(2, dim=1)
        return first, second


class Exchange(nn.Module):
    """The bottleneck: both streams as tokens of one width through transformer blocks, added to what they were."""

    def __init__(self, widths: Sequence[int], channels: int, side: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inward = nn.ModuleList(nn.Linear(width, channels) for width in widths)
        self.position = nn.Parameter(torch.randn(len(widths), side * side, channels) * 0.02)
        self.blocks = nn.ModuleList(blocks)
        self.outward = nn.ModuleList(nn.Linear(channels, width) for width in widths)
        # SS-Former's spectra are complex numbers, of which torch.compile makes no kernels. All of this is left out with
        # them: between such blocks it would make many small graphs
        self.eager = any(isinstance(block, SSFormerBlock) for block in self.blocks)

    def forward(self, image: Tensor, mask: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W, s, s) features of each stream -> the same shapes."""
        side = image.shape[2]
        e, c = (
            enter(rearrange(h, "b c y x -> b (y x) c")) + place
            for enter, h, place in zip(self.inward, (image, mask), positions_at(self.position, side), strict=True)
        )
        for block in self.blocks:
            e, c = block(e, c, embedding)
        e, c = (leave(t) for leave, t in zip(self.outward, (e, c), strict=True))
        updates = (rearrange(t, "b (y x) c -> b c y x", y=side) for t in (e, c))
        return image + next(updates), mask + next(updates)


class Stream(nn.Module):
    """The U-Net of one modality, without the bottleneck."""

    def __init__(
        self, channels: int, features: int, widths: list[int], patch: int, blocks: int, embedding: int, dropout: float
    ) -> None:
        super().__init__()
        self.patch = patch
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down = encoder_stages(widths, blocks, embedding, dropout)
        self.up = decoder_stages(widths, blocks, embedding, dropout)
        self.out_norm = group_norm(widths[0])
        self.out = nn.Conv2d(widths[0], features * patch**2, 3, padding=1)

    def start(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, W, S / patch, S / patch)."""
        h: Tensor = self.stem(F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last))
        return h

    def finish(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """The decoder: (B, W', s, s) -> (B, F, S, S)."""
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            h = run_stage(stage, h, embedding, skip)
        return F.pixel_shuffle(self.out(F.silu(self.out_norm(h))), self.patch)


class MedSegDiffV2(ConditionEmbedding):
    """The joint denoising network of image and mask, (B, C, S, S) -> (B, C, S, S), image channels first.

    `img_size` must be a multiple of patch_size * 2^(levels - 1); smaller pictures of such sizes may come too. The mask
    stream has `mask_share` of the image stream's width, since a mask holds less. `use_transformer` False leaves the
    exchange at the bottleneck out; `use_spectrum` False puts plain self-attention over both in SS-Former's place.
    """

    def __init__(
        self,
        img_size: int,
        in_channels: int = 1,
        out_channels: int = 1,
        conditions: Sequence[Condition] = (),
        model_channels: int = 96,
        transformer_depth: int = 4,
        num_heads: int = 4,
        use_transformer: bool = True,
        *,
        patch_size: int = 4,
        channel_mult: Sequence[int] = (1, 2, 3),
        num_res_blocks: int = 1,
        dropout: float = 0.1,
        mask_share: float = 0.5,
        use_anchor: bool = True,
        use_spectrum: bool = True,
        use_band_pass: bool = True,
    ) -> None:
        embedding = 4 * model_channels
        super().__init__(STREAMS, conditions, embedding)
        self.channels = (in_channels, out_channels)
        bases = (model_channels, max(8, round(model_channels * mask_share / 8) * 8))
        widths = [[base * m for m in channel_mult] for base in bases]
        image, mask = (
            Stream(channels, features, w, patch_size, num_res_blocks, embedding, dropout)
            for channels, features, w in zip(self.channels, REFINER_FEATURES, widths, strict=True)
        )
        self.image, self.mask = image, mask
        levels = len(widths[0]) if use_anchor else 0
        self.image_anchors = nn.ModuleList(Anchor(widths[1][i], widths[0][i]) for i in range(levels))
        self.mask_anchors = nn.ModuleList(Anchor(widths[0][i], widths[1][i]) for i in range(levels))
        self.exchange: Exchange | None = None
        if use_transformer:
            side, width = img_size // (patch_size * 2 ** (len(widths[0]) - 1)), widths[0][-1]
            blocks: list[nn.Module] = [
                SSFormerBlock(width, side, num_heads, embedding, dropout, use_band_pass)
                if use_spectrum
                else JointBlock(width, num_heads, embedding, dropout)
                for _ in range(transformer_depth)
            ]
            self.exchange = Exchange([w[-1] for w in widths], width, side, blocks)
        modality = [0] * in_channels + [1] * out_channels
        self.refiner = OutputRefiner(sum(REFINER_FEATURES), modality, embedding)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditions) -> Tensor:
        embedding = self.embedding(c_noise, cond)
        parts = x.split(self.channels, dim=1)
        image, mask = self.image.start(parts[0]), self.mask.start(parts[1])
        image_skips, mask_skips = [], []
        for level in range(len(self.image.down)):
            image = run_stage(self.image.down[level], image, embedding)
            mask = run_stage(self.mask.down[level], mask, embedding)
            if len(self.image_anchors):
                image, mask = self.image_anchors[level](image, mask), self.mask_anchors[level](mask, image)
            image_skips.append(image)
            mask_skips.append(mask)
        if self.exchange is not None:
            image, mask = self.exchange(image, mask, embedding)
        image, mask = self.image.finish(image, image_skips, embedding), self.mask.finish(mask, mask_skips, embedding)
        result: Tensor = self.refiner(torch.cat([image, mask], dim=1), x, c_noise, embedding)
        return result
