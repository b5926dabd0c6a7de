"""One optimiser step, the same for every trainer: learning rate, scaled gradients, clipping, update, average."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from medsegdiff.engine.device import clip_gradients, gradient_scaler
from medsegdiff.engine.ema import EMA, Averages

Around = Callable[[bool], AbstractContextManager[Any]]  # of one part of a step; whether that is the last one


class Optimisation:
    """The optimiser of a network, the scale of its gradients in fp16, and the average of its weights, if any."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: EMA[Any] | Averages[Any] | None = None,
        *,
        precision: str = "fp32",
        grad_clip: float | None = None,
    ) -> None:
        self.network, self.optimiser, self.average, self.grad_clip = network, optimiser, average, grad_clip
        device = next(network.parameters()).device
        self.scaler = gradient_scaler(device, precision)

    def step(
        self, step: int, lr: float, loss: Callable[[int], Tensor], parts: int = 1, around: Around = nullcontext
    ) -> Tensor | None:
        """Step number `step`, on the sum of `loss(0)`, `loss(1)`, ... of so many parts; returns the gradient's norm.

        The norm is that before clipping, None where nothing is clipped. Gradients are gone afterwards.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.network.train()
        for part in range(parts):
            with around(part == parts - 1):
                self.scaler.scale(loss(part)).backward()
        norm = None
        if self.grad_clip is not None:
            norm = clip_gradients(self.scaler, self.optimiser, self.network, self.grad_clip)
        self.scaler.step(self.optimiser)  # with a norm that is not finite the loop stops, and saves nothing of this
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network, step)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, scale, and average where there is one."""
        state = {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}
        return state if self.average is None else state | {"ema": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back from a state that holds these beside other things."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state.get("scaler", {}))  # older states were never in fp16
        if self.average is not None:
            self.average.load_state_dict(state["ema"])
