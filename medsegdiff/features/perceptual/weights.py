"""Weights of networks that are not part of this package: from a file, or downloaded where the user asks for it."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

from torch import Tensor
from torch.hub import load_state_dict_from_url

from medsegdiff.downstream.pretrained import read_weights
from medsegdiff.errors import UserError

DOWNLOAD = "download"


def weights_of(value: str, setting: str, url: str, network: str) -> dict[str, Tensor]:
    """The tensors of the file `value`, or of `url` where `value` is "download"; downloads are kept by torch.hub.

    Nothing but tensors is unpickled. Raises `UserError`, reporting the `setting`, for a file or a download that cannot
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


def another_network(value: str, setting: str, network: str, error: Exception) -> UserError:
    """The one line for tensors that do not fit."""
    lines = str(error).splitlines() or [type(error).__name__]
    reason = " ".join(line.strip() for line in lines[:2])[:200]
    hint = f"Give the weights of {network}, or {DOWNLOAD}, or leave the setting out."
    return UserError(f"{setting} {value}", f"weights of another network ({reason})", f"those of {network}", hint)
