"""Discriminators that look through a frozen network, at four scales, and on pixels: of pair, mask, lesion.

Projected GAN (Sauer et al., NeurIPS 2021): features of a network made for photographs, mixed by a fixed random
projection, are what small networks classify as real or not; hundreds of pictures are then enough. Beside them stands
the noisy pair that the estimate was made from, as in denoising diffusion GANs (Xiao et al., ICLR 2022), so that they
see whether the estimate fits it; from pixels its noise would only distract. All get the class (Miyato and Koyama, ICLR
2018, projection).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)
from torch.nn.utils.parametrizations import spectral_norm

from medsegdiff.features.perceptual.mobilenet import TAPS, FrozenFeatures

WIDTH = 64  # channels of a head
PIXEL_WIDTH = 16  # ... and of the first layer of the one on pixels


class Head(nn.Module):
    """Logits of one feature map, beside which stand mask and noisy pair, averaged to its size."""

    projection: Tensor

    def __init__(self, channels: int, beside: int, kinds: int, stride: int, random: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(WIDTH, channels, 1, 1, generator=random) / channels**0.5)
        self.first = spectral_norm(nn.Conv2d(WIDTH + beside, WIDTH, 3, stride=stride, padding=1))
        self.norm = _norm(WIDTH)
        self.second = spectral_norm(nn.Conv2d(WIDTH + 1, WIDTH, 3, padding=1))
        self.logit = Logit(WIDTH, kinds)

    def forward(self, features: Tensor, beside: Tensor, kinds: Tensor, level: Tensor) -> Tensor:
        """(k, B, n) logits of features (B, channels, h, h), maps (B, beside, S, S), kinds (k, B) and levels (B,)."""
        h = F.conv2d(features, self.projection)
        spread = _spread(h, level)
        h = torch.cat([h, F.adaptive_avg_pool2d(beside, (h.shape[-2], h.shape[-1]))], dim=1)
        h = F.leaky_relu(self.norm(self.first(h)), 0.2)
        h = torch.cat([h, spread.expand(-1, -1, *h.shape[-2:])], dim=1)
        h = F.leaky_relu(self.second(h), 0.2)
        logits: Tensor = self.logit(h, kinds)
        return logits


class Logit(nn.Module):
    """A logit at every position, with a term of its own for each kind of picture."""

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__()
        self.plain = spectral_norm(nn.Conv2d(width, 1, 1))
        self.by_kind = spectral_norm(nn.Embedding(kinds, width))

    def forward(self, h: Tensor, kinds: Tensor) -> Tensor:
        """(k, B, n) of maps (B, width, h, w), were they of the kinds (k, B)."""
        by_kind = torch.einsum("bchw,kbc->kbhw", h, self.by_kind(kinds))
        return (self.plain(h)[:, 0] + by_kind).flatten(2)


class OnPixels(nn.Module):
    """Logits of pixels themselves: of places 38 pixels wide, and from the whole picture."""

    def __init__(self, channels: int, kinds: int) -> None:
        super().__init__()
        width = 4 * PIXEL_WIDTH
        self.places = _halving(4, channels, PIXEL_WIDTH, 2 * PIXEL_WIDTH, width)
        self.whole = _halving(3, width, width, width)
        self.logits = nn.ModuleList(Logit(width, kinds) for _ in range(2))

    def forward(self, x: Tensor, kinds: Tensor) -> list[Tensor]:
        """(k, B, n) logits of places and of the whole, of maps (B, channels, S, S) and kinds (k, B)."""
        places = self.places(x)
        maps = (places, self.whole(places))
        return [logit(h, kinds) for logit, h in zip(self.logits, maps, strict=True)]


class OnLesions(nn.Module):
    """Logits of maps of the image inside a mask against outside, and along its outline against elsewhere.

    The maps never see the mask: a projection discriminator (Miyato and Koyama, ICLR 2018) whose condition is the mask,
    pixel by pixel. It has the form of the networks that will learn to segment the pairs, and so it finds what would
    teach them to know generated lesions only.
    """

    def __init__(self, image_channels: int, masks: int, kinds: int, radius: float) -> None:
        super().__init__()
        self.radius, self.maps = radius, 2 * masks
        widths = [PIXEL_WIDTH * k for k in (1, 2, 3, 4)]
        first = [_keeping(image_channels, widths[0], stride=2)]
        deeper = [
            nn.Sequential(_keeping(a, b, stride=2), _keeping(b, b)) for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.down = nn.ModuleList([*first, *deeper])
        back = widths[::-1]
        self.up = nn.ModuleList(_keeping(a + b, b) for a, b in zip(back, back[1:], strict=False))
        self.plain = spectral_norm(nn.Conv2d(widths[0], self.maps, 1))
        self.by_kind = spectral_norm(nn.Embedding(kinds, self.maps * widths[0]))

    def forward(self, image: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """(k, B, 2 K) logits of images (B, C, S, S), K masks (B, K, S, S) and kinds (k, B), all in [-1, 1]."""
        skipped, h = [], image
        for down in self.down:
            h = down(h)
            skipped.append(h)
        skipped.pop()
        for up in self.up:
            beside = skipped.pop()
            h = up(torch.cat([F.interpolate(h, size=beside.shape[-2:]), beside], dim=1))
        by_kind = self.by_kind(kinds).unflatten(-1, (self.maps, -1))
        maps = self.plain(h) + torch.einsum("bchw,kbmc->kbmhw", h, by_kind)
        inside = (torch.tanh(self.radius * mask) + 1) / 2
        outline = 1 - torch.tanh(self.radius * mask / 2).square()
        place = torch.cat([inside, outline], dim=1)
        place = F.adaptive_avg_pool2d(place, (h.shape[-2], h.shape[-1]))
        return _mean_over(maps, place) - _mean_over(maps, 1 - place)


def _mean_over(maps: Tensor, place: Tensor) -> Tensor:
    """(k, B, n) means of maps (k, B, n, h, w) over places (B, n, h, w), shares of each pixel."""
    return (maps * place).sum(dim=(-2, -1)) / place.sum(dim=(-2, -1)).clamp(min=1)


def _keeping(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A convolution of three pixels with its norm."""
    convolution = spectral_norm(nn.Conv2d(before, after, 3, stride=stride, padding=1))
    return nn.Sequential(convolution, _norm(after), nn.LeakyReLU(0.2))


def _norm(width: int) -> nn.Module:
    """Without it the spectral norms leave little of the signal, and discriminators hardly learn."""
    return nn.GroupNorm(max(width // 8, 1), width)


def _halving(kernel: int, *widths: int) -> nn.Sequential:
    """Convolutions that each halve the size, from width to width, and one that keeps it."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        convolution = spectral_norm(nn.Conv2d(before, after, kernel, stride=2, padding=1))
        layers += [convolution, _norm(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(after, after, 3, padding=1)), nn.LeakyReLU(0.2))


class Discriminator(nn.Module):
    """All of them. `kinds`: classes of pictures, twice, since pictures without their finest detail are others.

    `radius`: pixels at which distances of masks are cut. Outlines are shown as they are, and with edges a pixel wide:
    by them classes differ, and in the distances they hardly show.
    """

    def __init__(
        self, features: FrozenFeatures, channels: int, image_channels: int, kinds: int, radius: float, seed: int
    ) -> None:
        super().__init__()
        self.image_channels, self.radius = image_channels, max(radius, 1.0)
        random, beside = torch.Generator().manual_seed(seed), 2 * channels - image_channels
        self.heads = nn.ModuleList(
            Head(width, beside, kinds, 2 if number == 0 else 1, random) for number, width in enumerate(TAPS.values())
        )
        self.on_pairs = OnPixels(channels, kinds)
        self.on_masks = OnPixels(2 * (channels - image_channels), kinds)
        self.on_lesions = OnLesions(image_channels, channels - image_channels, kinds, self.radius)
        self.features = features

    def weights(self, on_masks: float, on_lesions: float) -> Tensor:
        """Shares, adding up to 1, of the logits that `forward` returns, beside 1 of each head and each one of pairs."""
        ones = [1.0] * (len(self.heads) + len(self.on_pairs.logits))
        found = torch.tensor([*ones, *[on_masks] * len(self.on_masks.logits), on_lesions])
        return found / found.sum()

    def forward(self, x: Tensor, noisy: Tensor, kinds: Tensor, level: Tensor) -> list[Tensor]:
        """[(k, B, n) logits of each discriminator] of pairs x and noisy ones (B, C, S, S), both of about unit variance.

        Images are in [-1, 1]. Every pair is looked at as if it were of each of its `kinds` (k, B).
        """
        image, mask = x[:, : self.image_channels] / 2 + 0.5, x[:, self.image_channels :]
        beside = torch.cat([mask, noisy], dim=1)
        maps: Sequence[Tensor] = self.features(image)
        found = [head(m, beside, kinds, level) for head, m in zip(self.heads, maps, strict=True)]
        outlines = torch.cat([mask, torch.tanh(self.radius * mask)], dim=1)
        on_lesions = self.on_lesions(x[:, : self.image_channels], mask, kinds)
        return [*found, *self.on_pairs(x, kinds), *self.on_masks(outlines, kinds), on_lesions]


def _spread(h: Tensor, level: Tensor) -> Tensor:
    """(B, 1, 1, 1) mean standard deviation over the pairs of the same level (Karras et al. 2018, progressive GANs)."""
    spread = h.new_zeros(len(h), 1, 1, 1)
    for number in level.unique():
        rows = level == number
        if int(rows.sum()) > 1:
            own = h[rows]  # `std` takes four times as long on the CPU
            variance = (own - own.mean(dim=0)).square().sum(dim=0) / (len(own) - 1)
            spread = torch.where(rows.view(-1, 1, 1, 1), (variance + 1e-8).sqrt().mean(), spread)
    return 2 * spread - 1


def moved(pairs: Tensor, random: torch.Generator) -> Tensor:
    """Pairs (B, C, S, S) shifted to the left or right by up to an eighth, each in its own way.

    What discriminators see of real and of generated pairs alike (Zhao et al., NeurIPS 2020, differentiable
    augmentation): they learn hundreds of pictures by heart otherwise. Grey values and depth stay: by them machines and
    settings differ, and where every picture is brightened by chance nobody sees that generated ones are all alike.
    """
    n, side = len(pairs), pairs.shape[-1]
    shift = torch.rand(n, generator=random).to(pairs.device) * 2 - 1
    theta = torch.zeros(n, 2, 3, device=pairs.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2] = (shift * side / 8).round() * 2 / side  # whole pixels: nothing is smoothed
    with torch.autocast(pairs.device.type, enabled=False):  # half precision misses the middles of pixels
        grid = F.affine_grid(theta, list(pairs.shape), align_corners=False)
    return F.grid_sample(pairs, grid, mode="nearest", padding_mode="reflection", align_corners=False)
