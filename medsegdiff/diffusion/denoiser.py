"""Preconditioning around a backbone: the network sees unit-variance inputs and has unit-variance targets.

Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", eq. 7 and table 1, applied to
each modality at its own noise level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsegdiff.diffusion.condition import Condition

LOG_FLOOR = 1e-3  # levels below this are given to the network as this one, since log 0 is -inf


def expand_levels(sigma: Tensor, modality: Tensor, ndim: int) -> Tensor:
    """(B, C, 1, ...) levels of the channels from (B, M) levels of the modalities."""
    by_channel = sigma[:, modality]
    return by_channel.view(*by_channel.shape, *[1] * (ndim - 2))


class Denoiser(nn.Module):
    """D(x, sigma, cond) = c_skip x + c_out F(c_in x, c_noise, cond): the expected clean channels.

    `backbone` maps (B, C, *S), (B, M), `Condition` to (B, C, *S); `modality` (C,) says which modality a channel
    belongs to. A clean channel (sigma = 0) comes back unchanged, to the bit.
    """

    modality: Tensor

    def __init__(self, backbone: nn.Module, modality: Tensor, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.sigma_data = sigma_data
        self.register_buffer("modality", modality, persistent=False)
        self.modalities = int(modality.max()) + 1
        for m in range(self.modalities):  # found once: asking a GPU for them would wait for it
            self.register_buffer(f"channels_{m}", torch.nonzero(modality == m).flatten(), persistent=False)

    def channels_of(self) -> list[Tensor]:
        """The channel numbers of each modality."""
        return [self.get_buffer(f"channels_{m}") for m in range(self.modalities)]

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise at levels `sigma`, each of its shape."""
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = sigma * self.sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        c_noise = sigma.clamp(min=LOG_FLOOR).log() / 4
        return c_skip, c_out, c_in, c_noise

    def forward(self, x: Tensor, sigma: Tensor, cond: Condition) -> Tensor:
        """(B, C, *S) denoised estimate of noisy channels x at levels sigma (B, M)."""
        levels = expand_levels(sigma, self.modality, x.ndim)
        c_skip, c_out, c_in, _ = self.coefficients(levels)
        c_noise = self.coefficients(sigma)[3]
        output: Tensor = self.backbone(c_in * x, c_noise, cond)
        return c_skip * x + c_out * output.to(x.dtype)
