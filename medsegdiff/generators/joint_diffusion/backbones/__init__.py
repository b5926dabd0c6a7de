"""The backbones there are, by the name of their file: `Settings` and `build` in a new file here add one."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from medsegdiff.conditioning.base import Condition
from medsegdiff.errors import require
from medsegdiff.generators.joint_diffusion.backbones.config import NetworkConfig


@dataclass(frozen=True)
class Inputs:
    """What a network is given and has to return: known from the data, not a matter of settings."""

    img_size: int  # side of the pictures, pixels
    modality: tuple[int, ...]  # (C,) which of the M noise levels is that of each channel
    conditions: tuple[Condition, ...] = ()  # that it takes


def backbones() -> dict[str, ModuleType]:
    """Every module of this folder with `Settings`, a dataclass, and `build(inputs, settings)`, by its name."""
    names = [info.name for info in pkgutil.iter_modules(__path__)]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "build")}


def settings_of(name: str) -> type[NetworkConfig]:
    """The settings of a backbone. Raises `UserError` for a name that none has."""
    known = backbones()
    require(name in known, "--backbone", name, f"one of {', '.join(known)}")
    settings: type[NetworkConfig] = known[name].Settings
    return settings


def settle_settings(name: str, settings: NetworkConfig) -> NetworkConfig:
    """`settings` as those of the backbone `name`, with its defaults for what they lack.

    Raises `UserError` for those of another backbone.
    """
    own = settings_of(name)
    if type(settings) is own:
        return settings
    values: dict[str, Any] = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    strange = sorted(values.keys() - {f.name for f in dataclasses.fields(own)})
    require(not strange, "--model", f"{', '.join(strange)}, of another backbone", f"settings of {name}")
    return own(**values)


def build_backbone(name: str, inputs: Inputs, settings: NetworkConfig) -> nn.Module:
    """A fresh network (B, C, S, S), (B, M), Conditions -> (B, C, S, S)."""
    network: nn.Module = backbones()[name].build(inputs, settle_settings(name, settings))
    return network
