"""Settings of sampling from the joint diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from medsegdiff.errors import require
from medsegdiff.generators.base import parse_weights
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance
from medsegdiff.generators.joint_diffusion.samplers import FEW_STEP, SAMPLERS

SAMPLER, STEPS = "dpmpp_2m", 15  # where nothing else is set
MASK_GUIDANCE = 2.0  # where nothing else is set: masks then fit images as real ones do (docs/results/sampling.md)


@dataclass(frozen=True)
class SamplingSettings:
    """How samples are drawn; `settled` for a network before use."""

    sampler: str | None = None  # update rule, of `SAMPLERS`; None: dpmpp_2m, or renoise after few-step training
    steps: int | None = None  # noise levels that a modality goes through; mask_first takes so many twice; None: 15, or
    # those of few-step training
    mask_guidance: float | None = None  # how strongly images follow masks; 1: as learnt; None: 2 where it was learnt
    guidance: float = 1.0  # weight, away from the network without the class; 1: none
    condition_guidance: list[str] | None = None  # weights of further conditions, such as attributes=2
    guidance_checkpoint: str | None = None  # ... or away from this one, less trained on the same data
    guidance_low: float = 0.3  # guidance acts where the image's noise level is above this ...
    guidance_high: float = 5.0  # ... and up to this
    text_encoder: str | None = None  # where the encoder of encoded_text is; None: where it was in training
    sigma_scale: float = 1.0  # share of the image's noise level below 0.3 that the network gets; less: finer grain

    def __post_init__(self) -> None:
        known = self.sampler is None or self.sampler in SAMPLERS
        require(known, "--sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        require(self.steps is None or self.steps >= 2, "--steps", self.steps, "2 or more")
        require(self.guidance >= 0, "--guidance", self.guidance, "0 or more")
        parse_weights(self.condition_guidance)
        require(0 < self.sigma_scale <= 1, "--sigma_scale", self.sigma_scale, "above 0, at most 1")
        weight = 1.0 if self.mask_guidance is None else self.mask_guidance
        require(weight >= 0, "--mask_guidance", weight, "0 or more")
        alone = self.guidance_checkpoint is not None and self.guidance == 1
        hint = "Give a weight such as 2, or leave --guidance_checkpoint out."
        require(not alone, "--guidance_checkpoint", "--guidance 1, which is none", "another --guidance", hint)
        ascending, expected = self.guidance_low < self.guidance_high, f"less than --guidance_high {self.guidance_high}"
        require(ascending, "--guidance_low", self.guidance_low, expected)

    def settled(self, diffusion: DiffusionConfig, few_step: Sequence[float] = ()) -> Self:
        """With sampler, steps and the weight of the mask settled, for a network trained so.

        Nothing steers away from an image alone that was never learnt. After few-step training (`few_step`: its noise
        levels) there is one way to sample, without guidance.
        """
        if few_step:
            return self._few_step(len(few_step))
        knows = diffusion.share_marginal > 0
        weight = self.mask_guidance
        if weight is None:
            weight = MASK_GUIDANCE if knows else 1.0
        found = f"{weight} with a checkpoint that was trained with --diffusion.share_marginal 0"
        hint = "Leave it out, or train with a share above 0."
        require(knows or weight == 1, "--mask_guidance", found, "1: it knows no image without its mask", hint)
        found, hint = f"{FEW_STEP} with a checkpoint that did not learn few-step sampling", "Leave it out."
        solvers = ", ".join(name for name in SAMPLERS if name != FEW_STEP)
        require(self.sampler != FEW_STEP, "--sampler", found, f"one of {solvers}", hint)
        sampler, steps = self.sampler or SAMPLER, self.steps or STEPS
        return dataclasses.replace(self, sampler=sampler, steps=steps, mask_guidance=weight)

    def _few_step(self, steps: int) -> Self:
        only = dataclasses.replace(
            type(self)(), sampler=FEW_STEP, steps=steps, mask_guidance=1.0, text_encoder=self.text_encoder
        )
        for field in dataclasses.fields(self):
            own, plain, fixed = (getattr(s, field.name) for s in (self, type(self)(), only))
            hint = "Leave it out, or use the checkpoint that few-step training began with."
            found = f"{own} with a checkpoint of few-step training"
            require(own in (plain, fixed), f"--{field.name}", found, f"{fixed}, the one it learnt", hint)
        return only

    def guide(self, guidance_model: Denoiser | None = None) -> Guidance:
        """What guides sampling of pairs, by settled settings."""
        assert self.mask_guidance is not None
        interval = (self.guidance_low, self.guidance_high)
        weights = parse_weights(self.condition_guidance)
        if guidance_model is None:
            weights = {"label": self.guidance, **weights}
        model_weight = self.guidance if guidance_model is not None else 1.0
        return Guidance(weights, guidance_model, model_weight, self.mask_guidance, interval)


def default_guidance(diffusion: DiffusionConfig) -> Guidance:
    """What guides sampling where no settings are given, for a network trained so."""
    return SamplingSettings().settled(diffusion).guide()
