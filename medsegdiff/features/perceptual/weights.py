"""Weights as other projects publish them: a file of safetensors or a state dict of torch, or a download."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.hub import load_state_dict_from_url

from medsegdiff.errors import UserError

DOWNLOAD = "download"
EXPECTED = "a .safetensors file, or a .pth file with a state dict"


def weights_of(value: str, setting: str, url: str, network: str) -> dict[str, Tensor]:
    """The tensors of the file `value`, or of `url` where `value` is "download"; downloads are kept by torch.hub.

    Nothing but tensors is unpickled. Raises `UserError`, naming the `setting`, for a file or a download that cannot
    be had.
    """
    if value != DOWNLOAD:
        return read_weights(Path(value), setting, named=DOWNLOAD)
    try:
        found: dict[str, Tensor] = load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except (OSError, RuntimeError, HTTPException) as error:  # no network; a download that was cut; a broken answer
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{setting} {value}",
            f"a download that failed ({reason})",
            f"the weights of {network}",
            f"Connect to the network, or give a file fetched from {url}, or leave the setting out.",
        ) from error
    return found


def another_network(value: str, setting: str, network: str, error: Exception, otherwise: str = DOWNLOAD) -> UserError:
    """The one line for tensors that do not fit; `otherwise` is what the setting takes beside files."""
    lines = str(error).splitlines() or [type(error).__name__]
    reason = " ".join(line.strip() for line in lines[:2])[:200]
    hint = f"Give the weights of {network}, or {otherwise}, or leave the setting out."
    return UserError(f"{setting} {value}", f"weights of another network ({reason})", f"those of {network}", hint)


def read_weights(path: Path, setting: str = "--encoder_weights", named: str = "imagenet") -> dict[str, Tensor]:
    """The tensors of a file, by name, on the CPU. Nothing else is unpickled (`weights_only=True`).

    A state dict may lie within another dictionary, as training scripts save it ({"epoch": ..., "state_dict": ...}); the
    one with the most tensors is taken. Raises `UserError` where the file is missing, broken or without tensors: it
    says the `setting`, and what that takes beside files (`named`).
    """
    where = f"{setting} {path}"
    if not path.is_file():
        raise UserError(where, "no such file", f"{named}, or {EXPECTED}", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(where, f"a file that cannot be read ({reason})", EXPECTED, "Fetch it anew.") from error
    tensors = max(_state_dicts(content), key=len, default={})
    if not tensors:
        raise UserError(where, f"no tensor in a {type(content).__name__}", EXPECTED, "Save model.state_dict().")
    return tensors


def _state_dicts(content: Any) -> list[dict[str, Tensor]]:
    """The tensors of a dictionary, and of each dictionary within it, however deep."""
    if not isinstance(content, Mapping):
        return []
    here = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return [here, *(part for value in content.values() for part in _state_dicts(value))]
