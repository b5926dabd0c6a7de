"""Preconditioning around a backbone: the network sees unit-variance inputs and has unit-variance targets.

Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", eq. 7 and table 1, applied to
each modality at its own noise level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the field's usual name)

from medsegdiff.conditioning.base import Conditions, rows_of

LOG_FLOOR = 1e-3  # levels below this are given to the network as this one, since log 0 is -inf


def expand_levels(sigma: Tensor, modality: Tensor, ndim: int) -> Tensor:
    """(B, C, 1, ...) levels of the channels from (B, M) levels of the modalities."""
    by_channel = sigma[:, modality]
    return by_channel.view(*by_channel.shape, *[1] * (ndim - 2))


@dataclass(frozen=True)
class LowRes:
    """High noise is taken off pictures `factor` times smaller, since there is no finer detail to see.

    Averaging squares of factor x factor pixels divides the noise by `factor` and hardly touches what can be made out
    beneath it, so that D(x, sigma) is about the enlarged D(averaged x, sigma / factor), at a fraction of the cost. A
    clean modality beside a noisy one is averaged with it, so that its finest detail does not speak here. In the manner
    of cascades (Ho et al. 2022, "Cascaded diffusion models"; Gu et al. 2022, "f-DM"), but within one network:
    samplers, guidance and losses see pictures of full size only.
    """

    factor: int
    sigma: float  # level from which it is done

    def reduced(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, C, S / factor, S / factor)."""
        return F.avg_pool2d(x, self.factor)

    def enlarged(self, y: Tensor) -> Tensor:
        """(B, C, s, s) -> (B, C, s factor, s factor): smooth, and `reduced` gives y again."""
        smooth = F.interpolate(y, scale_factor=self.factor, mode="bilinear")
        return smooth + F.interpolate(y - self.reduced(smooth), scale_factor=self.factor, mode="nearest")

    def serves(self, sigma: Tensor) -> Tensor:
        """(B,) of levels (B, M): whether every level that is not 0 is high, and not all are 0."""
        noisy = sigma > 0
        return noisy.any(dim=1) & ((sigma >= self.sigma) | ~noisy).all(dim=1)


class Denoiser(nn.Module):
    """D(x, sigma, cond) = c_skip x + c_out F(c_in x, c_noise, cond): the expected clean channels.

    `backbone` maps (B, C, *S), (B, M), `Conditions` to (B, C, *S); `modality` (C,) says which modality a channel
    belongs to. A clean channel (sigma = 0) comes back unchanged, to the bit. Pairs that `low_res` serves are
    seen smaller than they are.
    """

    modality: Tensor

    def __init__(
        self, backbone: nn.Module, modality: Tensor, sigma_data: float = 0.5, low_res: LowRes | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.low_res = low_res
        self.sigma_data = sigma_data
        self.sizes_stand = False  # whether torch.compile makes a graph for each size of pictures, not one for all
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

    def forward(self, x: Tensor, sigma: Tensor, cond: Conditions, high: int | None = None) -> Tensor:
        """(B, C, *S) denoised estimate of noisy channels x at levels sigma (B, M).

        `high`: how many pairs `low_res` serves, where they are known to come first (`by_size`); a GPU need not be asked
        then. With 0 all pairs are seen at their size.
        """
        if self.low_res is None or high == 0:
            return self._estimate(x, sigma, cond)
        if high is not None:
            parts = [self._at_low_res(self.low_res, x[:high], sigma[:high], rows_of(cond, slice(high)))]
            if high < len(x):
                parts.append(self._estimate(x[high:], sigma[high:], rows_of(cond, slice(high, None))))
            return torch.cat(parts)
        order, high = self.by_size(sigma)
        if high in (0, len(x)):
            return self.forward(x, sigma, cond, high)
        return self.forward(x[order], sigma[order], rows_of(cond, order), high)[order.argsort()]

    def by_size(self, sigma: Tensor) -> tuple[Tensor, int]:
        """Of levels (B, M), the order (B,) that brings first what `low_res` serves, and how many pairs these are."""
        if self.low_res is None:
            return torch.arange(len(sigma), device=sigma.device), 0
        served = self.low_res.serves(sigma)
        return served.int().argsort(descending=True, stable=True), int(served.sum())

    def _estimate(self, x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        levels = expand_levels(sigma, self.modality, x.ndim)
        c_skip, c_out, c_in, _ = self.coefficients(levels)
        c_noise = self.coefficients(sigma)[3]
        scaled = c_in * x
        if self.sizes_stand:
            torch._dynamo.mark_static(scaled, list(range(2, x.ndim)))
        output: Tensor = self.backbone(scaled, c_noise, cond)
        return c_skip * x + c_out * output.to(x.dtype)

    def _at_low_res(self, low_res: LowRes, x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        small = self._estimate(low_res.reduced(x), sigma / low_res.factor, cond)
        return torch.where(expand_levels(sigma, self.modality, x.ndim) > 0, low_res.enlarged(small), x)
