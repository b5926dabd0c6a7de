"""Joint augmentation of images and masks, batched, with all chance from one generator.

`AugmentConfig` says how strong: mild for the generative model, whose samples show what it saw (a rotation with filled
corners would come back as filled corners), strong for segmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from medsegdiff.engine.device import send


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each joint augmentation; 0 switches it off."""

    mirror: float = 0.5  # probability of left-right mirroring
    zoom_out: float = 0.0  # largest relative shrinking
    zoom_in: float = 0.12  # largest relative enlarging
    aspect: float = 0.0  # largest relative change of width against height
    rotate: float = 0.0  # largest rotation, degrees
    shift: float = 0.0  # largest shift beyond what zooming in leaves room for, share of the picture
    gamma: float = 0.15  # largest |ln gamma| of the grey curve
    gain: float = 0.1  # largest relative change of brightness
    speckle: float = 0.0  # largest standard deviation of multiplicative noise
    blur: float = 0.0  # probability of a 3 x 3 box blur
    shadow: float = 0.0  # probability of a dark vertical band (acoustic shadow)
    interpolation: str = "bilinear"  # or bicubic, which keeps more of the detail


# Moved at twice its size and averaged down, a picture has the detail of one that was read at that zoom
GENERATIVE = AugmentConfig(interpolation="bicubic")
SEGMENTATION = AugmentConfig(
    zoom_out=0.2,
    zoom_in=0.25,
    aspect=0.15,
    rotate=20.0,
    shift=0.1,
    gamma=0.4,
    gain=0.25,
    speckle=0.2,
    blur=0.2,
    shadow=0.2,
)
STRONG = AugmentConfig(
    zoom_out=0.3,
    zoom_in=0.5,
    aspect=0.25,
    rotate=30.0,
    shift=0.15,
    gamma=0.6,
    gain=0.4,
    speckle=0.4,
    blur=0.3,
    shadow=0.3,
)
# For pictures whose augmentation the network is conditioned on: how far is in MOVE_UNITS
CONDITIONED_AUGMENT = AugmentConfig(zoom_out=0.15, zoom_in=0.3, aspect=0.15, rotate=10.0, shift=0.1)
MOVE_UNITS = (1.0, 0.2, 0.1, math.radians(10), 0.3, 0.3)  # of: moved at all, ln zoom, ln aspect, angle, shifts
SEGMENTATION_LEVELS = {"standard": SEGMENTATION, "strong": STRONG}  # by the name of the setting


def augment(images: Tensor, masks: Tensor, config: AugmentConfig, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment images (B, C, S, S) and masks (B, K, S, S) in [0, 1] alike; grey-value changes touch the images only.

    All channels of an image are changed alike, so that colours keep their hue.

    Mirroring is left-right only: beams run downwards, so an ultrasound picture has no other symmetry.
    """
    images, masks = _moved(images, masks, _moves(len(images), config, random), config.interpolation)
    return _grey_values(images, config, random).clamp(0, 1), masks.clamp(0, 1)


def augment_conditioned(
    images: Tensor, masks: Tensor, config: AugmentConfig, share: float, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment images and masks as `augment` does, a `share` of them as `CONDITIONED_AUGMENT` says; return how, (B, 6).

    What is returned is in `MOVE_UNITS`, and 0 for pictures that lie as pictures may: a network that learnt with it and
    samples with 0 makes such, and shows no turned or stretched picture (non-leaking augmentation, Karras et al. 2022,
    "Elucidating the design space of diffusion-based generative models", appendix F.2).
    """
    n = len(images)
    mild, further = _moves(n, config, random), _moves(n, CONDITIONED_AUGMENT, random)
    chosen = torch.rand(n, generator=random) < share
    moves = torch.where(chosen, further, mild)
    scale, stretch, angle, flip, x, y = moves  # pictures are mirrored first, so shifts are those of what is seen
    conditioning = torch.stack([torch.ones(n), scale.log(), stretch.log(), angle, flip * x, y])
    images, masks = _moved(images, masks, moves, config.interpolation)
    images = _grey_values(images, config, random)
    return images.clamp(0, 1), masks.clamp(0, 1), (conditioning * chosen / torch.tensor(MOVE_UNITS)[:, None]).T


def _moved(images: Tensor, masks: Tensor, moves: Tensor, interpolation: str) -> tuple[Tensor, Tensor]:
    theta = send(_affine(moves), images.device).to(images.dtype)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    both = torch.cat([images, masks], dim=1)
    moved = grid_sample(both, grid, mode=interpolation, padding_mode="reflection", align_corners=False)
    channels = images.shape[1]
    return moved[:, :channels], moved[:, channels:]


def _uniform(n: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(n, generator=random) * (high - low) + low


def _moves(n: int, config: AugmentConfig, random: torch.Generator) -> Tensor:
    """(6, n): scale and aspect (factors), angle (radians), mirroring (-1: yes), shifts (half sides) of n pictures."""
    scale = 1 / (1 + _uniform(n, -config.zoom_out, config.zoom_in, random))
    stretch = torch.exp(_uniform(n, -config.aspect, config.aspect, random) / 2)
    angle = torch.deg2rad(_uniform(n, -config.rotate, config.rotate, random))
    flip = torch.where(torch.rand(n, generator=random) < config.mirror, -1.0, 1.0)
    room = (1 - scale).clamp(min=0) + 2 * config.shift
    shift_x, shift_y = (_uniform(n, -1, 1, random) * room for _ in range(2))
    return torch.stack([scale, stretch, angle, flip, shift_x, shift_y])


def _affine(moves: Tensor) -> Tensor:
    """(n, 2, 3) matrices from output to input coordinates in [-1, 1], of moves (6, n)."""
    scale, stretch, angle, flip, shift_x, shift_y = moves
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y = scale * stretch, scale / stretch
    rows = [torch.stack([flip * cos * x, -flip * sin * x, shift_x], 1), torch.stack([sin * y, cos * y, shift_y], 1)]
    return torch.stack(rows, dim=1)


def _grey_values(images: Tensor, config: AugmentConfig, random: torch.Generator) -> Tensor:
    n, size = len(images), images.shape[-1]

    def per_image(values: Tensor) -> Tensor:
        return send(values.view(n, 1, 1, 1), images.device).to(images.dtype)

    gamma = torch.exp(_uniform(n, -config.gamma, config.gamma, random))
    gain = 1 + _uniform(n, -config.gain, config.gain, random)
    images = images.clamp(min=0) ** per_image(gamma) * per_image(gain)
    if config.blur:
        chosen = per_image((torch.rand(n, generator=random) < config.blur).float())
        images = images + chosen * (avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False) - images)
    if config.speckle:
        strength = per_image(_uniform(n, 0, config.speckle, random))
        grain = send(torch.randn(n, 1, size // 2, size // 2, generator=random), images.device).to(images.dtype)
        images = images * (1 + strength * interpolate(grain, size=(size, size), mode="bilinear"))
    if config.shadow:
        images = images * send(_shadow(n, size, config.shadow, random), images.device).to(images.dtype)
    return images


def _shadow(n: int, size: int, probability: float, random: torch.Generator) -> Tensor:
    """(n, 1, S, S) factors: one soft dark band a chosen picture, deepening downwards."""
    across = torch.linspace(0, 1, size).view(1, 1, 1, size)
    down = torch.linspace(0, 1, size).view(1, 1, size, 1)
    centre = _uniform(n, 0, 1, random).view(n, 1, 1, 1)
    width = _uniform(n, 0.04, 0.15, random).view(n, 1, 1, 1)
    top = _uniform(n, 0, 0.8, random).view(n, 1, 1, 1)
    depth = _uniform(n, 0.3, 0.8, random) * (torch.rand(n, generator=random) < probability)
    band = torch.exp(-0.5 * ((across - centre) / width) ** 2) * torch.sigmoid((down - top) * 4 * math.pi)
    return 1 - depth.view(n, 1, 1, 1) * band
