"""Exponential moving average of weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """An averaged copy of a network, `model`, for evaluation and for the checkpoint.

    The decay at step t (counted from 0) is min(decay, (1 + t) / (10 + t)): short while the weights still move fast.
    Buffers (batch-normalisation statistics) are averaged like weights; integer buffers are copied.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards `model` after optimiser step number `step`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        new = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(new[name], weight)
            else:
                average.copy_(new[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put averaged weights back."""
        self.model.load_state_dict(state)
