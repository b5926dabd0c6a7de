"""Moving averages of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
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


def exponent(length: float) -> float:
    """gamma of the average whose weights t^gamma have a standard deviation of `length` times the training so far.

    Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", eq. 123-126: it solves
    length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)). `length` is above 0 and below 0.288, that of a plain mean.
    """
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots[np.isreal(roots)].real.max())


class Averages(Generic[Network]):
    """Averages of several lengths, each a share of the training so far; one of them, `model`, is evaluated and saved.

    Power-function averages (Karras et al. 2024, section 3): w' = b w' + (1 - b) w with b = (1 - 1 / t)^(gamma + 1)
    after step t = 1, 2, ..., which forget the start of training whatever its length. Which one is best is known after
    training only; until `choose` is called it is the middle one.
    """

    def __init__(self, model: Network, lengths: Sequence[float]) -> None:
        self.lengths = list(lengths)
        self.exponents = [exponent(length) for length in lengths]
        self.models = [copy.deepcopy(model).eval().requires_grad_(False) for _ in lengths]
        self.chosen = len(self.lengths) // 2

    @property
    def model(self) -> Network:
        """The average that is used."""
        return self.models[self.chosen]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move all averages towards `model` after optimiser step number `step`, counted from 0."""
        new: list[Tensor] = list(model.parameters())
        for average, gamma in zip(self.models, self.exponents, strict=True):
            weight = 1 - (1 - 1 / (step + 1)) ** (gamma + 1)
            old: list[Tensor] = list(average.parameters())
            torch._foreach_lerp_(old, new, weight)

    def choose(self, score: Callable[[Network], float]) -> dict[float, float]:
        """Use the average with the lowest score from now on; returns length -> score."""
        scores = [score(model) for model in self.models]
        self.chosen = min(range(len(scores)), key=scores.__getitem__)
        return dict(zip(self.lengths, scores, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """All averages, and which one is used."""
        return {"chosen": self.chosen, "averages": [model.state_dict() for model in self.models]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.chosen = state["chosen"]
        for model, weights in zip(self.models, state["averages"], strict=True):
            model.load_state_dict(weights)
