"""Where to compute, and in which number type: the `device` and `precision` settings of every phase with a network."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=Any)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
READ_EVERY = {"cuda": 10}  # steps between two readings of loss and gradient norm, for which the host has to wait


def choose_device(name: str) -> torch.device:
    """The device of a `device` setting; `UserError` where a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device", "cuda, but torch sees no GPU", "a device that exists", "Use --device cpu or auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` computes with bf16 itself.

    A processor without such instructions emulates them: on one with AVX2 alone a bf16 matrix product was 370 times
    slower than fp32.
    """
    if device.type == "cuda":
        # is_bf16_supported says yes to emulation as well
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch says this by no public name
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def settle_precision(config: Config, device: torch.device | None = None) -> Config:
    """`config` with `precision` replaced by what it means on its device, or on `device` where that is given.

    What was settled decides the numbers, so it stands in the fingerprint of a run: one that began in bf16 is not gone
    on with in fp32 unnoticed. Raises as `settle` does.
    """
    return dataclasses.replace(config, precision=settle(config.precision, device or choose_device(config.device)))


def settle(precision: str, device: torch.device) -> str:
    """What a `precision` setting means on a device.

    auto is bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU. bf16 on a GPU without it becomes fp16,
    which is said. Raises `UserError` for fp16 on a CPU.
    """
    if device.type == "cpu":
        if precision == "fp16":
            raise UserError("--precision", "fp16 on a CPU", "bf16, fp32 or auto there", "Leave it out.")
        return precision if precision != "auto" else "bf16" if has_fast_bf16(device) else "fp32"
    if precision in ("auto", "bf16") and not has_fast_bf16(device):
        level = logging.INFO if precision == "auto" else logging.WARNING
        logger.log(level, "this GPU has no bf16: computing in fp16 (--precision fp32 is slower and more exact)")
        return "fp16"
    return "bf16" if precision == "auto" else precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 or fp16 autocast on `device`; none for fp32, which then is fp32 in a GPU's convolutions too (not TF32)."""
    if device.type == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False
    number = TYPES.get(precision, torch.bfloat16)  # switched off, it still wants a type that can be cast to
    return torch.autocast(device.type, dtype=number, enabled=precision in TYPES)


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose small gradients would vanish; one that does nothing for other types."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def clip_gradients(
    scaler: torch.amp.GradScaler, optimiser: torch.optim.Optimizer, network: nn.Module, largest: float
) -> Tensor:
    """Clip the norm of the gradients, once what the scaler did to them is undone; returns it as it was, on the device.

    Gradients that a scaler made too large for fp16 are no failure: it leaves such a step out and halves its scale.
    Their norm is reported as 0 then. Only at a scale of 1, where scaling is not to blame, it is reported as it is.
    """
    scaler.unscale_(optimiser)
    norm = clip_grad_norm_(network.parameters(), largest)
    scale = getattr(scaler, "_scale", None)  # get_scale waits for the device
    if scale is None:
        return norm
    return torch.where(torch.isfinite(norm) | (scale <= 1), norm, 0.0)


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` (from the CPU) on `device`; a GPU copies them by itself, from pinned memory, without a wait for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
