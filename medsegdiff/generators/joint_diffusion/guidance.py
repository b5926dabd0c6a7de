"""Denoising with a class, guided within an interval of noise levels, or without a class.

Guidance steers away from what a worse network says: the network without the class (classifier-free guidance, Ho and
Salimans 2022), a less trained network with it (autoguidance, Karras et al. 2024, "Guiding a diffusion model with a
bad version of itself", which keeps variety better), or, of the image, the network that does not see the mask. The last
one is the same idea between the two modalities of one network (Bao et al. 2023, UniDiffuser, section 3.3, where a text
takes the mask's place): what a network that underfits shows too faintly, the lesion within the mask, it brings out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medsegdiff.conditioning.condition import Condition
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK
from medsegdiff.generators.joint_diffusion.samplers import Denoise


@dataclass(frozen=True)
class Guidance:
    """What guides, and how far; a weight of 1 does not guide and costs no network call."""

    weight: float = 1.0  # of the class: D_worse + weight (D - D_worse), D_worse without it, or as `guidance_model` says
    guidance_model: Denoiser | None = None  # a less trained network, in place of the one without the class
    mask_weight: float = 1.0  # of the mask, likewise, for the image alone; D_worse does not see the mask
    interval: tuple[float, float] = (0.0, math.inf)  # of the image's noise level, without the lower end

    def calls(self, sigmas: Tensor) -> int:
        """Network calls a pair at the rows of `sigmas` (T + 1, M) but the last, one a row where nothing guides."""
        guided = sum(self.acts_at(row) for row in sigmas[:-1])
        return len(sigmas) - 1 + guided * ((self.weight != 1) + (self.mask_weight != 1))

    def acts_at(self, sigma: Tensor) -> bool:
        """Whether anything guides at levels (M,)."""
        low, high = self.interval
        return (self.weight != 1 or self.mask_weight != 1) and low < float(sigma[IMAGE]) <= high


NONE = Guidance()
FINE = 0.3  # image levels below this decide the grain of the picture, hardly its content


def guided_denoise(
    denoiser: Denoiser,
    label: Tensor,
    guidance: Guidance = NONE,
    hidden: tuple[Tensor, float] | None = None,
    sigma_scale: float = 1.0,
) -> Denoise:
    """denoise(x, sigma (M,)) for classes `label` (B,), guided as `guidance` says, with levels as `scaled_levels`.

    Outside the interval of the image's levels nothing guides, which saves network calls (Kynkaanniemi et al. 2024:
    guidance at very high levels narrows the variety, at very low ones it does nothing). `hidden`, which a mask weight
    needs: standard normal numbers (B, C, *S), and the level at which they hide a mask.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = scaled_levels(sigma.to(x), sigma_scale).expand(len(label), -1)
        acts = guidance.acts_at(sigma)
        if not acts or guidance.weight == 1:
            better: Tensor = denoiser(x, levels, Condition(label))
            guided = better
        else:
            better, guided = _guided_by_class(denoiser, x, levels, label, guidance)
        if acts and guidance.mask_weight != 1:
            assert hidden is not None
            step = better - _without_mask(denoiser, x, levels, label, hidden)
            guided = guided + (guidance.mask_weight - 1) * step * (1 - _of_mask(denoiser, x))
        return guided

    return denoise


def _guided_by_class(
    denoiser: Denoiser, x: Tensor, levels: Tensor, label: Tensor, guidance: Guidance
) -> tuple[Tensor, Tensor]:
    """What the network says of the class, and the same steered away from what its guidance model says, or it without
    the class."""
    if guidance.guidance_model is None:
        better, worse = _with_and_without(denoiser, x, levels, label)
    else:
        better, worse = denoiser(x, levels, Condition(label)), guidance.guidance_model(x, levels, Condition(label))
    return better, worse + guidance.weight * (better - worse)


def _without_mask(denoiser: Denoiser, x: Tensor, levels: Tensor, label: Tensor, hidden: tuple[Tensor, float]) -> Tensor:
    """What the network says where noise stands in the mask's place."""
    noise, level = hidden
    unseen = levels.clone()
    unseen[:, MASK] = level
    result: Tensor = denoiser(torch.where(_of_mask(denoiser, x) > 0, level * noise, x), unseen, Condition(label))
    return result


def _of_mask(denoiser: Denoiser, x: Tensor) -> Tensor:
    """(1, C, 1, ...): 1 for channels of the mask, else 0."""
    return (denoiser.modality == MASK).to(x).view(1, -1, *[1] * (x.ndim - 2))


def scaled_levels(sigma: Tensor, share: float) -> Tensor:
    """Levels (M,) as the network is passed them: of the image's only `share` where it is below `FINE`.

    A network that underfits takes too much for noise, step by step, and pictures come out smoother than real ones.
    Passed less noise it leaves more standing (exposure bias: Ning et al. 2024, "Elucidating the exposure bias in
    diffusion models"; Li et al. 2024, "Alleviating exposure bias in diffusion models through sampling with shifted time
    steps").
    """
    scaled = sigma.clone()
    scaled[IMAGE] = torch.where(sigma[IMAGE] < FINE, share * sigma[IMAGE], sigma[IMAGE])
    return scaled


def _with_and_without(denoiser: Denoiser, x: Tensor, levels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """What the network says with the class and without it, in one call."""
    keep = torch.arange(2 * len(label), device=label.device) < len(label)
    both = Condition(label=label.repeat(2), keep_label=keep)
    better, worse = denoiser(torch.cat([x, x]), torch.cat([levels, levels]), both).chunk(2)
    return better, worse


def classless_denoise(denoiser: Denoiser, n: int) -> Denoise:
    """denoise(x, sigma (M,)) for n pairs whose class is not given (the null embedding)."""
    device = denoiser.modality.device
    hidden = Condition(
        label=torch.zeros(n, dtype=torch.long, device=device),
        keep_label=torch.zeros(n, dtype=torch.bool, device=device),
    )

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        result: Tensor = denoiser(x, sigma.to(x).expand(n, -1), hidden)
        return result

    return denoise
