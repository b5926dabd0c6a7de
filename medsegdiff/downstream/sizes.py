"""Which sizes of pictures a network takes; networks do not say so, and fail each in its own way."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn


def output_shapes(model: nn.Module, sizes: Iterable[int], channels: int = 1) -> dict[int, tuple[int, ...]]:
    """Those of `sizes` that the network takes as (1, `channels`, S, S) pictures, with the shape of what it gives.

    Asked of a copy on torch's meta device, so that nothing is computed.
    """
    probe = copy.deepcopy(model).eval().to("meta")
    found = {}
    for size in sizes:
        try:
            with torch.no_grad():
                found[size] = tuple(probe(torch.zeros(1, channels, size, size, device="meta")).shape)
        except (RuntimeError, AssertionError, ValueError):  # of torch, timm, and our own
            continue
    return found
