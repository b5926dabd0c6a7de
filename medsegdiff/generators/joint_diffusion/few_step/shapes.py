"""Sizes and shapes of lesions as a distribution: generated ones should be spread as real ones of their kind are.

Discriminators judge picture by picture, and a size or an outline that becomes rare looks no less real to them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

LEAST = 8.0  # pixels; of a smaller lesion nothing is said
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


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Between what x (n, d) and y (m, d) were drawn from: 0 where it is the same, without bias however few x are.

    Szekely and Rizzo 2013. So it can be asked of a batch. n and m are 2 or more.
    """
    within = sum(torch.cdist(own, own, compute_mode=EXACT).sum() / (len(own) * (len(own) - 1)) for own in (x, y))
    return 2 * torch.cdist(x, y, compute_mode=EXACT).mean() - within


class RealShapes:
    """Shapes of real lesions of each kind, and how far generated ones are from them.

    `of_kind`: their masks (n, K, S, S), as shares of pixels, kind by kind.
    """

    def __init__(self, of_kind: list[Tensor]) -> None:
        found = [shapes(masks[_lesion(masks)]) for masks in of_kind]
        count = sum(map(len, found))
        self.scale = torch.cat(found).std(dim=0).clamp(min=1e-3) if count > 1 else torch.ones(3)
        self.of_kind = [kind / self.scale for kind in found]

    def apart(self, masks: Tensor, kind: Tensor) -> Tensor:
        """Mean over the kinds of the energy distance of masks (B, K, S, S) of kinds (B,); 0 where there are too few."""
        lesion = _lesion(masks)
        given, kind = shapes(masks[lesion]) / self.scale.to(masks.device), kind[lesion]
        found = []
        for number in kind.unique().tolist():
            own, real = given[kind == number], self.of_kind[number].to(masks.device)
            if len(own) > 1 and len(real) > 1:
                found.append(energy_distance(own, real))
        return torch.stack(found).mean() if found else masks.new_zeros(())


def _lesion(masks: Tensor) -> Tensor:
    """(B,) whether there is one to speak of."""
    return masks.detach().amax(dim=1).sum(dim=(1, 2)) >= LEAST
