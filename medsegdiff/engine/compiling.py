"""torch.compile for a network in training: where it works, and what of the network it is for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn

from medsegdiff.errors import UserError

OLDEST_GPU = (7, 0)  # compute capability that triton makes kernels for


def missing_for_compile(device: torch.device) -> str | None:
    """What torch.compile does not find here to build kernels for `device` with; None where nothing is missing."""
    # As torch looks for it
    if not shutil.which(os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")):
        return "a C++ compiler"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "the header Python.h (on Debian and Ubuntu the package python3-dev)"
    if device.type == "cpu":
        return None
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST_GPU:
        return f"a GPU of compute capability {OLDEST_GPU[0]}.{OLDEST_GPU[1]} or above"
    return None


def compiles(setting: bool | str, device: torch.device) -> bool:
    """What a `compile` setting means on `device`; auto: on a GPU, where nothing is missing for it.

    Raises `UserError` where it is asked for and cannot work.
    """
    if setting is False or (setting == "auto" and device.type != "cuda"):
        return False
    missing = missing_for_compile(device)
    if setting is True and missing:
        raise UserError("--compile", f"true without {missing}", f"{missing} to build with", "Use --compile false.")
    return missing is None


def compile_network(network: nn.Module, spread: bool, sizes: bool) -> None:
    """Have `network` built into kernels, in place: its weights keep their names.

    `spread`: its gradients are averaged over processes. `sizes`: its inputs have a few sizes, each with a graph of its
    own, in numbers that differ from step to step. Layers that say `eager = True` stay as they are.
    """
    if spread:
        # Else dynamo cuts the graph at DDP's buckets, which some versions of torch cannot with checkpointed blocks
        torch._dynamo.config.optimize_ddp = False
    for layer in network.modules():
        if getattr(layer, "eager", False):
            layer.forward = torch.compiler.disable(layer.forward)
    network.compile(dynamic=None if sizes else False)
