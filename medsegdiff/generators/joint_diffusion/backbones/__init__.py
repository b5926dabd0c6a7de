"""The backbones there are, by the name of their file: `build` and `ignored` in a new file here add one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from torch import nn

import medsegdiff.generators.joint_diffusion.backbones
from medsegdiff.conditioning.base import Condition
from medsegdiff.errors import require
from medsegdiff.generators.joint_diffusion.config import ModelConfig


def backbones() -> dict[str, ModuleType]:
    """Every module of this folder with a `build(img_size, modality, conditions, settings)`, by its name."""
    found = {}
    for info in pkgutil.iter_modules(medsegdiff.generators.joint_diffusion.backbones.__path__):
        if info.name != __name__.rpartition(".")[2]:
            module = importlib.import_module(f"medsegdiff.generators.joint_diffusion.backbones.{info.name}")
            if hasattr(module, "build"):
                found[info.name] = module
    return found


def check_backbone(name: str, settings: ModelConfig) -> None:
    """Raise `UserError` for a name that no backbone has, and for settings that it has no use for."""
    known = backbones()
    require(name in known, "--backbone", name, f"one of {', '.join(known)}")
    default = ModelConfig()
    for key in known[name].ignored(settings):
        value, plain = getattr(settings, key), getattr(default, key)
        expected = f"{plain}, as {name} has no use for it with these settings"
        require(value == plain, f"--model.{key}", value, expected, "Leave it out.")


def build_backbone(
    name: str, img_size: int, modality: Sequence[int], conditions: Sequence[Condition], settings: ModelConfig
) -> nn.Module:
    """A fresh network (B, C, S, S), (B, M), Conditions -> (B, C, S, S); `modality` (C,) maps channels to noise levels.

    Raises `ValueError` for a name that no backbone has.
    """
    known = backbones()
    if name not in known:
        raise ValueError(f"backbone {name!r}; known: {', '.join(known)}")
    network: nn.Module = known[name].build(img_size, modality, conditions, settings)
    return network
