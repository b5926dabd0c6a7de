"""Denoising under conditions, guided within an interval of noise levels, or without any condition.

Guidance steers away from what a worse network says: the network without a condition (classifier-free guidance, Ho and
Salimans 2022), a less trained network with it (autoguidance, Karras et al. 2024, "Guiding a diffusion model with a
bad version of itself", which keeps variety better), or, of the image, the network that does not see the mask. The last
one is the same idea between the two modalities of one network (Bao et al. 2023, UniDiffuser, section 3.3, where a text
takes the mask's place): what a network that underfits shows too faintly, the lesion within the mask, it brings out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medsegdiff.conditioning.base import Conditions, hide
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK
from medsegdiff.generators.joint_diffusion.samplers import Denoise


@dataclass(frozen=True)
class Guidance:
    """What guides, and how far; a weight of 1 does not guide and costs no network call."""

    weights: Mapping[str, float] = field(default_factory=dict)  # by condition: D_without + weight (D - D_without)
    guidance_model: Denoiser | None = None  # a less trained network ...
    model_weight: float = 1.0  # ... and its weight: D_worse + weight (D - D_worse)
    mask_weight: float = 1.0  # of the mask, likewise, for the image alone; D_worse does not see the mask
    interval: tuple[float, float] = (0.0, math.inf)  # of the image's noise level, without the lower end; what is asked
    # for beside the class guides above it too, where size and place are decided
    avoided: Conditions = field(default_factory=dict)  # values that guidance by a condition steers away from; what is
    # missing or not given is as without the condition

    @property
    def guided(self) -> dict[str, float]:
        """The conditions that guide, with their weights."""
        return {name: weight for name, weight in self.weights.items() if weight != 1}

    def weights_at(self, sigma: Tensor) -> dict[str, float]:
        """The conditions that guide at levels (M,), with their weights."""
        low, high = self.interval
        level = float(sigma[IMAGE])
        return {n: w for n, w in self.guided.items() if low < level and (level <= high or n != CLASS)}

    def within(self, sigma: Tensor) -> bool:
        """Whether what is no condition guides at levels (M,)."""
        low, high = self.interval
        return low < float(sigma[IMAGE]) <= high

    def extra_calls(self, sigma: Tensor) -> int:
        """Network calls a pair beside the plain one at levels (M,)."""
        others = (self.model_weight != 1) + (self.mask_weight != 1)
        return len(self.weights_at(sigma)) + (others if self.within(sigma) else 0)

    def calls(self, sigmas: Tensor) -> int:
        """Network calls a pair at the rows of `sigmas` (T + 1, M) but the last, one a row where nothing guides."""
        return len(sigmas) - 1 + sum(self.extra_calls(row) for row in sigmas[:-1])


NONE = Guidance()
CLASS = "label"
FINE = 0.3  # image levels below this decide the grain of the picture, hardly its content


def guided_denoise(
    denoiser: Denoiser,
    cond: Conditions,
    n: int,
    guidance: Guidance = NONE,
    hidden: tuple[Tensor, float] | None = None,
    sigma_scale: float = 1.0,
) -> Denoise:
    """denoise(x, sigma (M,)) for n pairs under `cond`, guided as `guidance` says, with levels as `scaled_levels`.

    Outside the interval of the image's levels nothing guides, which saves network calls (Kynkaanniemi et al. 2024:
    guidance at very high levels narrows the variety, at very low ones it does nothing). `hidden`, which a mask weight
    needs: standard normal numbers (B, C, *S), and the level at which they hide a mask.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = scaled_levels(sigma.to(x), sigma_scale).expand(n, -1)
        if not guidance.extra_calls(sigma):
            plain: Tensor = denoiser(x, levels, cond)
            return plain
        weights, within = guidance.weights_at(sigma), guidance.within(sigma)
        better, *without = _with_and_without(denoiser, x, levels, cond, list(weights), guidance.avoided)
        worse = list(zip(weights.values(), without, strict=True))
        if guidance.guidance_model is not None and guidance.model_weight != 1 and within:
            worse.append((guidance.model_weight, guidance.guidance_model(x, levels, cond)))
        guided = better
        for number, (weight, estimate) in enumerate(worse):
            step = better - estimate
            guided = guided + (weight - 1) * step if number else estimate + weight * step
        if guidance.mask_weight != 1 and within:
            assert hidden is not None
            step = better - _without_mask(denoiser, x, levels, cond, hidden)
            guided = guided + (guidance.mask_weight - 1) * step * (1 - _of_mask(denoiser, x))
        return guided

    return denoise


def _without_mask(
    denoiser: Denoiser, x: Tensor, levels: Tensor, cond: Conditions, hidden: tuple[Tensor, float]
) -> Tensor:
    """What the network says where noise stands in the mask's place."""
    noise, level = hidden
    unseen = levels.clone()
    unseen[:, MASK] = level
    result: Tensor = denoiser(torch.where(_of_mask(denoiser, x) > 0, level * noise, x), unseen, cond)
    return result


def _of_mask(denoiser: Denoiser, x: Tensor) -> Tensor:
    """(1, C, 1, ...): 1 for channels of the mask, else 0."""
    return (denoiser.modality == MASK).to(x).view(1, -1, *[1] * (x.ndim - 2))


def scaled_levels(sigma: Tensor, share: float) -> Tensor:
    """Levels (M,) as the network gets them: of the image's only `share` where it is below `FINE`.

    A network that underfits takes too much for noise, step by step, and pictures come out smoother than real ones.
    Given a lower level it leaves more standing (exposure bias: Ning et al. 2024, "Elucidating the exposure bias in
    diffusion models"; Li et al. 2024, "Alleviating exposure bias in diffusion models through sampling with shifted time
    steps").
    """
    scaled = sigma.clone()
    scaled[IMAGE] = torch.where(sigma[IMAGE] < FINE, share * sigma[IMAGE], sigma[IMAGE])
    return scaled


def _with_and_without(
    denoiser: Denoiser, x: Tensor, levels: Tensor, cond: Conditions, names: Sequence[str], avoided: Conditions
) -> list[Tensor]:
    """What the network says under all conditions, and then without each of `names`, in one call.

    Values that are `avoided` stand where a condition is left out (negative prompts).
    """
    if not names:
        return [denoiser(x, levels, cond)]
    copies, several = 1 + len(names), {}
    unasked = {n: hide(v, torch.zeros(len(v), dtype=torch.bool)).to(x.device) for n, v in avoided.items() if n in names}
    for name, values in (unasked | dict(cond)).items():
        keep = torch.ones(copies, len(values), dtype=torch.bool, device=values.device)
        if name in names:
            keep[1 + names.index(name)] = False
        several[name] = hide(values.repeat(copies, *[1] * (values.ndim - 1)), keep.flatten())
        if name in names and name in avoided:
            rows = slice((1 + names.index(name)) * len(values), (2 + names.index(name)) * len(values))
            several[name][rows] = avoided[name].to(values.device)
    return list(denoiser(torch.cat([x] * copies), torch.cat([levels] * copies), several).chunk(copies))
