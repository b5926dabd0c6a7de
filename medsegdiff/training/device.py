"""Where to compute, and in which number type: the `device` and `precision` settings of every phase with a network."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch

from medsegdiff.errors import UserError

Config = TypeVar("Config", bound=Any)


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
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch tells this by no public name
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def settle_precision(config: Config) -> Config:
    """`config` with `precision` "auto" replaced by what it means here: bf16 where the device has it, else fp32.

    What was settled decides the numbers, so it stands in the identity of a run: one that began in bf16 is not gone on
    with in fp32 unnoticed.
    """
    if config.precision != "auto":
        return config
    precision = "bf16" if has_fast_bf16(choose_device(config.device)) else "fp32"
    return dataclasses.replace(config, precision=precision)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast on `device`, or none for fp32, which then is fp32 in convolutions on a GPU too (not TF32)."""
    if device.type == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
