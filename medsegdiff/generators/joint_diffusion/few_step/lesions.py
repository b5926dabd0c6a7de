"""Sizes, outlines and edges of lesions as a distribution: generated ones should be spread as real ones of their kind.

Discriminators judge picture by picture, and a size or an edge that becomes rare looks no less real to them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

LEAST = 8.0  # pixels; of a smaller lesion nothing is said
NEAR, AROUND, FAR = 1.0, 2.0, 4.0  # widths at which grey values beside an edge are averaged, pixels
EXACT = "donot_use_mm_for_euclid_dist"  # the quick way rounds small distances


def shapes(covered: Tensor) -> Tensor:
    """(B, 3) logarithms of area, of spread and of outline of masks (B, K, S, S), shares of pixels, none of them empty.

    Spread is the mean squared distance from the middle over the area, large where a lesion is long or there are two of
    them; outline is the squared perimeter over the area, large where it is irregular.
    """
    mask = covered.amax(dim=1)
    side = torch.arange(mask.shape[-1], device=mask.device, dtype=mask.dtype)
    area = mask.sum(dim=(1, 2))
    spread = torch.zeros_like(area)
    for profile in (mask.sum(dim=1), mask.sum(dim=2)):
        middle = (profile * side).sum(dim=1) / area
        spread = spread + (profile * (side - middle[:, None]).square()).sum(dim=1) / area
    framed = pad(mask, (1, 1, 1, 1))
    across, down = framed[:, 1:, 1:] - framed[:, 1:, :-1], framed[:, 1:, 1:] - framed[:, :-1, 1:]
    outline = (across.square() + down.square() + 1e-8).sqrt().sum(dim=(1, 2))
    return torch.stack([area, spread / area, outline.square() / area], dim=1).log()


def edges(image: Tensor, covered: Tensor) -> Tensor:
    """(B, 3) of images (B, C, S, S) in [0, 1] along the outlines of masks (B, K, S, S): step, its spread, line.

    Step is how much brighter it is outside than inside, as a mean over the outline; its spread along the outline is
    small where the edge is as clear everywhere; line is how much brighter it is just outside than farther
    off, a little below 0 without one, since pixels on the edge are of both sides.
    """
    mask, grey = covered.amax(dim=1, keepdim=True), image.mean(dim=1, keepdim=True)
    outside = {width: _averaged(grey, 1 - mask, width) for width in (NEAR, AROUND, FAR)}
    step = outside[AROUND] - _averaged(grey, mask, AROUND)
    blurred = _blur(mask, AROUND)
    place = blurred * (1 - blurred)
    place = place / place.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    mean = (place * step).sum(dim=(2, 3), keepdim=True)
    spread = ((place * (step - mean).square()).sum(dim=(1, 2, 3)) + 1e-6).sqrt()
    line = (place * (outside[NEAR] - outside[FAR])).sum(dim=(1, 2, 3))
    return torch.stack([mean.flatten(), spread, line], dim=1)


def _averaged(grey: Tensor, where: Tensor, width: float) -> Tensor:
    """Grey values averaged around every pixel over places that count."""
    return _blur(grey * where, width) / _blur(where, width).clamp(min=1e-2)


def _blur(x: Tensor, width: float) -> Tensor:
    """Maps (B, 1, S, S) under a Gaussian."""
    reach = round(3 * width)
    weights = (-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / width).square()).exp()
    weights = weights / weights.sum()
    x = conv2d(pad(x, (reach, reach, 0, 0), "replicate"), weights.view(1, 1, 1, -1))
    return conv2d(pad(x, (0, 0, reach, reach), "replicate"), weights.view(1, 1, -1, 1))


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Between what x (n, d) and y (m, d) were drawn from: 0 where it is the same, without bias however few x are.

    Szekely and Rizzo 2013. So it can be asked of a batch. n and m are 2 or more.
    """
    within = sum(torch.cdist(own, own, compute_mode=EXACT).sum() / (len(own) * (len(own) - 1)) for own in (x, y))
    return 2 * torch.cdist(x, y, compute_mode=EXACT).mean() - within


class RealLesions:
    """Real lesions of each kind, and how far generated ones are from them.

    `of_kind`: (images (n, C, S, S) in [0, 1], masks (n, K, S, S) as shares of pixels), kind by kind; `device`: where
    generated ones are.
    """

    def __init__(self, of_kind: list[tuple[Tensor, Tensor]], device: torch.device | str = "cpu") -> None:
        found = [_described(images, masks)[0].to(device) for images, masks in of_kind]
        every = torch.cat(found)
        self.scale = every.std(dim=0).clamp(min=1e-3) if len(every) > 1 else every.new_ones(every.shape[1])
        self.of_kind = [kind / self.scale for kind in found]

    def apart(self, images: Tensor, masks: Tensor, kind: Tensor) -> Tensor:
        """Mean over the kinds (B,) of the energy distance of pairs as above; 0 where there are too few lesions."""
        given, lesion = _described(images, masks)
        given, kind = given / self.scale, kind[lesion]
        found = []
        for number in kind.unique().tolist():
            own, real = given[kind == number], self.of_kind[number]
            if len(own) > 1 and len(real) > 1:
                found.append(energy_distance(own, real))
        return torch.stack(found).mean() if found else masks.new_zeros(())


def _described(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 6) shape and edge of the n lesions that are large enough to speak of, and (B,) which those are."""
    lesion = masks.detach().amax(dim=1).sum(dim=(1, 2)) >= LEAST
    return torch.cat([shapes(masks[lesion]), edges(images[lesion], masks[lesion])], dim=1), lesion
