"""Samplers: pure functions that walk a table of noise levels, one column a modality.

    sampler(denoise, x, sigmas, modality, noise=None) -> x at the last row

`denoise(x, sigma)` gives the denoised estimate of x (B, C, *S) at levels sigma (M,); `sigmas` is (T + 1, M), never
increasing in either column; `modality` (C,) maps channels to columns; x starts at sigmas[0] times standard normal
noise. A column that stands still in a step is copied, so a conditioning modality (0 in every row) stays bit-identical.
Stochastic samplers get `noise(step)`, a standard normal tensor like x.

With s, s' the levels before and after a step and D the denoised estimate, everything is written with
lambda = -log s, the (half) log signal-to-noise ratio of a variance-exploding process.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]
Sampler = Callable[..., Tensor]


def _columns(row: Tensor, modality: Tensor, x: Tensor) -> Tensor:
    """(1, C, 1, ...) levels of the channels of x from one row (M,) of the table."""
    return row[modality].view(1, -1, *[1] * (x.ndim - 2)).to(x)


def _ratio(s: Tensor, s_next: Tensor) -> Tensor:
    """s' / s, and 1 where the column stands still (also at 0 / 0)."""
    return torch.where(s_next < s, s_next / torch.where(s > 0, s, 1.0), 1.0)


def _check_table(sigmas: Tensor) -> None:
    if bool((sigmas.diff(dim=0) > 0).any()) or bool((sigmas < 0).any()):
        raise ValueError("the noise levels of a sampler must not be negative and never increase")


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, modality: Tensor, noise: Noise | None = None) -> Tensor:
    """First-order exponential integrator (Song et al. 2021, DDIM, eta = 0): x' = a x + (1 - a) D with a = s' / s."""
    _check_table(sigmas)
    for row, row_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        s, s_next = _columns(row, modality, x), _columns(row_next, modality, x)
        a = _ratio(s, s_next)
        x = torch.where(s_next < s, a * x + (1 - a) * denoise(x, row), x)
    return x


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, modality: Tensor, noise: Noise | None = None) -> Tensor:
    """Ancestral sampling (Ho et al. 2020) with the posterior's own, smaller variance.

    x' = a^2 x + (1 - a^2) D + s' sqrt(1 - a^2) z, with a = s' / s; no noise where s' = 0.
    """
    _check_table(sigmas)
    if noise is None:
        raise ValueError("ddpm is stochastic: give it noise(step)")
    for step, (row, row_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        s, s_next = _columns(row, modality, x), _columns(row_next, modality, x)
        a2 = _ratio(s, s_next) ** 2
        moved = a2 * x + (1 - a2) * denoise(x, row) + s_next * (1 - a2).sqrt() * noise(step)
        x = torch.where(s_next < s, moved, x)
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, modality: Tensor, noise: Noise | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the DDIM step with an extrapolated estimate.

    Dt = (1 + c) D - c D_prev, c = h / (2 h_prev), h = log(s / s'). First order (c = 0) on the first step, on the
    step to 0, and where a column has just begun to move, since there is no earlier estimate to extrapolate from.
    """
    _check_table(sigmas)
    previous, h_previous = x, torch.zeros_like(_columns(sigmas[0], modality, x))
    for row, row_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        s, s_next = _columns(row, modality, x), _columns(row_next, modality, x)
        a = _ratio(s, s_next)
        estimate = denoise(x, row)
        h = torch.where((s_next > 0) & (s_next < s), -a.clamp(min=1e-30).log(), 0.0)
        c = torch.where(h_previous > 0, h / (2 * torch.where(h_previous > 0, h_previous, 1.0)), 0.0)
        mixed = (1 + c) * estimate - c * previous
        x = torch.where(s_next < s, a * x + (1 - a) * mixed, x)
        previous, h_previous = estimate, h
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, modality: Tensor, noise: Noise | None = None) -> Tensor:
    """Second-order Heun steps on dx/ds = (x - D) / s (Karras et al. 2022, algorithm 1, deterministic).

    Two network calls a step. A column that reaches 0 takes the Euler step; the others still get their correction.
    """
    _check_table(sigmas)
    for row, row_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        s, s_next = _columns(row, modality, x), _columns(row_next, modality, x)
        moving = s_next < s
        slope = (x - denoise(x, row)) / torch.where(s > 0, s, 1.0)
        euler = torch.where(moving, x + (s_next - s) * slope, x)
        corrected = moving & (s_next > 0)
        if bool(corrected.any()):
            slope_next = (euler - denoise(euler, row_next)) / torch.where(s_next > 0, s_next, 1.0)
            mean_slope = (slope + slope_next) / 2
            euler = torch.where(corrected, x + (s_next - s) * mean_slope, euler)
        x = euler
    return x


def renoise(denoise: Denoise, x: Tensor, sigmas: Tensor, modality: Tensor, noise: Noise | None = None) -> Tensor:
    """x' = D + s' z: the estimate with fresh noise, for networks that learnt to sample in few steps.

    Multistep sampling of consistency models (Song et al. 2023, algorithm 1). A column that stands still is copied.
    """
    _check_table(sigmas)
    if noise is None:
        raise ValueError("renoise is stochastic: give it noise(step)")
    for step, (row, row_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        s, s_next = _columns(row, modality, x), _columns(row_next, modality, x)
        x = torch.where(s_next < s, denoise(x, row) + s_next * noise(step), x)
    return x


FEW_STEP = "renoise"  # of networks that learnt few-step sampling
SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m, "heun": heun, FEW_STEP: renoise}
