"""MADGNet, a network that finds lesions by three tasks at four scales (Nam et al., CVPR 2024, arXiv 2405.06284).

Encoder -> four up blocks, each with attention to scales and frequencies (`mfmsa`) -> at each of them an ensemble
sub-decoding module (`EnsembleHead`) for map, distance and boundary of the lesion. Training sums the losses of all four;
the finest map is the prediction.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    interpolate,
    mse_loss,
)

from medsegdiff.downstream.names import IMAGENET, check_timm_name
from medsegdiff.downstream.pretrained import failed_download
from medsegdiff.downstream.segmentation.mfmsa import MFMSA, conv_norm
from medsegdiff.errors import UserError

SKIP_CHANNELS = 64  # of every skip connection
DECODER_CHANNELS = (256, 128, 64, 32)  # of the up blocks, coarse to fine
REDUCTIONS = (2, 4, 8, 16, 32)  # sides of a picture against those of the encoder's features
SMALLEST_PICTURE = 64  # pixels a side: the coarsest up block then has the 4 pixels that its DCT needs
FITTING = "resnest50d, resnest26d, resnest14d, resnet50, resnet18, res2net50_26w_4s"  # encoders, for messages
EDGE_WINDOW = 31 / 352  # window of the structure loss against the side of the picture
EDGE_WEIGHT = 5.0  # of pixels whose surroundings are all of the other kind, beside 1 inside and outside


class UpBlock(nn.Module):
    """(B, C, N, N) and a skip (B, K, 2 N, 2 N) -> (B, `channels`, 2 N, 2 N)."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.skip = conv_norm(skip_channels, SKIP_CHANNELS, kernel=1)
        self.merge = conv_norm(in_channels + SKIP_CHANNELS, channels)
        self.attention = MFMSA(channels)
        self.out = conv_norm(channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = interpolate(x, size=skip.shape[-2:], mode="bilinear")
        return self.out(self.attention(self.merge(torch.cat([x, self.skip(skip)], dim=1))))


class EnsembleHead(nn.Module):
    """Ensemble sub-decoding module: features (B, C, N, N) -> map, distance and boundary, each (B, 1, S, S), float32.

    At the size of the features, sub-tasks follow the core task,
        map = c1(x),  distance = c2(x) sigmoid(map),  boundary = c3(x) sigmoid(distance),
    and at the size of the picture they mend it,
        distance = up(distance) + sigmoid(up(boundary)),  map = up(map) + sigmoid(distance).
    Map and boundary are logits. The distance is a value to be compared with a target in [0, 1] as it is: it tends to 0
    where the map says background, which for a logit would mean one half.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(channels, 3, 1)  # c1, c2 and c3

    def forward(self, x: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        lesion, distance, boundary = self.conv(self.dropout(x)).float().chunk(3, dim=1)
        distance = distance * torch.sigmoid(lesion)
        boundary = boundary * torch.sigmoid(distance)
        tasks = interpolate(torch.cat([lesion, distance, boundary], dim=1), size=size, mode="bilinear")
        lesion, distance, boundary = tasks.chunk(3, dim=1)
        distance = distance + torch.sigmoid(boundary)
        return lesion + torch.sigmoid(distance), distance, boundary


class MADGNet(nn.Module):
    """(B, C, S, S) standardised pictures -> (B, 1, S, S) float32 logits of the lesion; S = 64, 96, 128, ...

    `encoder`: a timm network whose five features have 1/2 ... 1/32 of the side of the picture; `encoder_weights`: None
    starts from scratch, "imagenet" downloads them. For grey pictures their stem for colours is summed
    to one channel, which is the same as showing it the grey picture in all three. `dropout`: share of channels dropped
    before the last layers.
    Raises `UserError` for encoders and weights that there are not or that do not fit.

    Pictures may change their size from batch to batch. Encoders that normalise pooled features (ResNeSt) cannot be
    trained with batches of one picture.
    """

    def __init__(
        self, encoder: str, encoder_weights: str | None = None, dropout: float = 0.0, channels: int = 1
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, encoder_weights, channels)
        info: Any = self.encoder.feature_info
        *skips, bottom = info.channels()
        inputs = (bottom, *DECODER_CHANNELS)
        self.blocks = nn.ModuleList(map(UpBlock, inputs, reversed(skips), DECODER_CHANNELS))
        self.heads = nn.ModuleList(EnsembleHead(channels, dropout) for channels in DECODER_CHANNELS)

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of the four up blocks, coarse to fine: (B, C, N, N) with N = S / 16 ... S / 2."""
        if x.shape[-1] != x.shape[-2] or x.shape[-1] % REDUCTIONS[-1] or x.shape[-1] < SMALLEST_PICTURE:
            raise ValueError(f"pictures of {tuple(x.shape[-2:])} pixels, not squares of 64, 96, 128, ...")
        *skips, x = self.encoder(x)
        found = []
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.heads[-1](self.features(x)[-1], x.shape[-1])[0]
        return logits

    def training_loss(self, x: Tensor, masks: Tensor, smoothing: float = 0.0) -> Tensor:
        """Sum over the stages of structure loss (map), squared error (distance), cross-entropy (boundary); a scalar.

        x and `masks` (B, 1, S, S), masks soft in [0, 1]; `smoothing` of labels concerns the map only.
        """
        targets = [target.expand(-1, len(self.heads), -1, -1) for target in distance_and_boundary(masks)]
        stages = [head(found, x.shape[-1]) for head, found in zip(self.heads, self.features(x), strict=True)]
        lesion, distance, boundary = (torch.cat(maps, dim=1) for maps in zip(*stages, strict=True))  # (B, 4, S, S)
        mean = structure_loss(lesion, masks.float(), smoothing) + mse_loss(distance, targets[0])
        return len(self.heads) * (mean + binary_cross_entropy_with_logits(boundary, targets[1]))


def build_encoder(name: str, weights: str | None = None, channels: int = 1) -> nn.Module:
    """A timm network for pictures of that many channels that returns its five features.

    Raises `UserError` where timm has no such network or weights, its features have other sizes, or a download fails.
    """
    check_timm_name(name, weights, "--encoder", FITTING)
    expected = f"an encoder with features at 1/{', 1/'.join(map(str, REDUCTIONS))} of the side"
    try:
        encoder: nn.Module = timm.create_model(
            name, pretrained=weights == IMAGENET, features_only=True, in_chans=channels
        )
    except OSError as error:
        raise failed_download(IMAGENET, name, error) from error
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            "--encoder", f"{name}, which timm refuses ({reason})", expected, f"Such as {FITTING}."
        ) from error
    info: Any = encoder.feature_info
    found = info.reduction()
    if tuple(found) != REDUCTIONS:
        fractions = ", ".join(f"1/{reduction}" for reduction in found)
        raise UserError("--encoder", f"{name}, with features at {fractions}", expected, f"Such as {FITTING}.")
    return encoder


def structure_loss(logits: Tensor, masks: Tensor, smoothing: float = 0.0) -> Tensor:
    """Weighted cross-entropy + weighted IoU loss (F3Net, Wei et al., AAAI 2020), the mean over all maps; a scalar.

    `logits` (B, K, S, S) of K predictions, `masks` (B, 1, S, S), both float32. Pixels weigh
    1 + 5 |mean of the mask around - mask|, so that edges count most. The window, 31 of 352 pixels, keeps its share of
    the picture: 11 of 128, 5 of 64. `smoothing` concerns the cross-entropy only, whose targets run from half of it to
    1 minus half of it.
    """
    half = round((EDGE_WINDOW * masks.shape[-1] - 1) / 2)
    around = avg_pool2d(masks, 2 * half + 1, stride=1, padding=half)
    weights = 1 + EDGE_WEIGHT * (around - masks).abs()
    targets = (masks * (1 - smoothing) + smoothing / 2).expand_as(logits)
    entropy = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = torch.sigmoid(logits)
    both = (weights * probability * masks).sum(dim=(2, 3))
    either = (weights * (probability + masks)).sum(dim=(2, 3)) - both
    weighted_entropy = (weights * entropy).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
    return (weighted_entropy + 1 - (both + 1) / (either + 1)).mean()


def distance_and_boundary(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of the sub-tasks, float32 and shaped like `masks` (B, 1, S, S), of the pixels above one half.

    Distance: Euclidean, from a lesion pixel to the nearest one outside, over the largest of the picture; 0 outside.
    Boundary: 1 where the 3 x 3 pixels around are not all of one kind (morphological gradient), 2 pixels wide.
    Beyond the edges of the picture is outside. An empty mask has neither.
    """
    lesions = np.pad((masks > 0.5).cpu().numpy().astype(np.uint8)[:, 0], ((0, 0), (1, 1), (1, 1)))
    inside = (slice(1, -1), slice(1, -1))
    square = np.ones((3, 3), np.uint8)
    distances, boundaries = [], []
    for lesion in lesions:
        distance = cv2.distanceTransform(lesion, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[inside]
        distances.append(distance / max(float(distance.max()), 1.0))
        boundaries.append(cv2.morphologyEx(lesion, cv2.MORPH_GRADIENT, square)[inside])
    found = np.stack([np.stack(distances), np.stack(boundaries).astype(np.float32)])[:, :, None]
    distance, boundary = torch.from_numpy(found).to(masks.device)
    return distance, boundary
