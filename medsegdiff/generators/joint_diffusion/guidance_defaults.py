"""What guides sampling: from the settings of `generate`, and by default. Training looks at its progress with the
latter."""

from __future__ import annotations

from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance
from medsegdiff.synthesis.config import GenerateConfig

MASK_GUIDANCE = 2.0  # where nothing else is set: masks then fit images as real ones do (docs/results/sampling.md)


def guidance_of(config: GenerateConfig, guidance_model: Denoiser | None = None) -> Guidance:
    """What guides sampling by settings whose mask guidance is settled."""
    assert config.mask_guidance is not None
    return Guidance(config.guidance, guidance_model, config.mask_guidance, (config.guidance_low, config.guidance_high))


def learnt_alone(diffusion: DiffusionConfig) -> bool:
    """Whether a network so trained knows images alone, which `mask_guidance` steers away from."""
    return diffusion.share_marginal > 0


def default_mask_guidance(diffusion: DiffusionConfig) -> float:
    """Weight of the mask where nothing else is set, for a network trained so."""
    return MASK_GUIDANCE if learnt_alone(diffusion) else 1.0


def default_guidance(diffusion: DiffusionConfig) -> Guidance:
    """What guides sampling where no settings are passed, for a network trained so."""
    return guidance_of(GenerateConfig("", "", mask_guidance=default_mask_guidance(diffusion)))
