"""Muon: momentum whose steps are orthogonalised for every matrix within the network, AdamW for all other weights.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A gradient of a matrix has few large
directions, which Adam follows; with all singular values set to one the rare directions are learnt as fast. What it is
worth here beside AdamW is for benchmarks/recipe.py to measure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medsegdiff.config import TrainConfig

# Coefficients of the quintic iteration x (a + b xx' + c (xx')^2), which pulls singular values into about 0.7..1.2
# (Jordan et al. 2024)
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 4
# Parts of a backbone that are first or last layers, tables, or gains of single entries: no matrices from features to
# features. A transformer block's own `out` is one.
OUTER = {"stem", "out", "seam", "embed", "label", "moves", "position", "gain"}


def orthogonalised(matrix: Tensor, rounds: int = ROUNDS, dtype: torch.dtype = torch.float32) -> Tensor:
    """(R, C) matrix with about the singular vectors of the given one and singular values near 1; 0 stays 0.

    The products are computed in `dtype`: in bf16, as Jordan et al. do, they take a third of the time where the
    processor computes with it.
    """
    a, b, c = QUINTIC
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if turned else matrix
    x = (x / (x.norm() + 1e-12)).to(dtype)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if turned else x).to(matrix.dtype)


def is_inner_matrix(name: str, weight: Tensor) -> bool:
    """Whether a weight of a backbone maps features to features: not of a first or last layer, no bias, no table."""
    parts = set(name.split("."))
    return weight.ndim >= 2 and not parts & (OUTER - {"out"} if "blocks" in parts else OUTER)


class Muon(torch.optim.Optimizer):
    """Muon on inner matrices (convolutions as out x (in * kernel)), AdamW on what is left, one learning rate each.

    `lr` is AdamW's, `matrix_lr` Muon's, both as the trainer's schedule sets them. Weight decay is decoupled
    from the gradient in both. Steps are orthogonalised in `dtype`; weights and momentum keep theirs. The state can be
    saved and loaded as any optimiser's.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        matrix_lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        inner = [w for name, w in network.named_parameters() if is_inner_matrix(name, w)]
        outer = [w for name, w in network.named_parameters() if not is_inner_matrix(name, w)]
        groups = [
            {"params": inner, "lr": matrix_lr, "muon": True},
            {"params": outer, "lr": lr, "muon": False, "steps": 0},
        ]
        defaults = {"weight_decay": weight_decay, "betas": betas, "momentum": momentum}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if group["muon"]:
                for weight in weights:
                    self._muon(weight, group)
            elif weights:
                self._adamw(weights, group)

    def _muon(self, weight: Tensor, group: dict[str, Any]) -> None:
        """w -= lr s O(g + mu m), with Nesterov momentum m; s lets a step of any shape have the same size an entry."""
        assert weight.grad is not None
        state, mu = self.state[weight], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - mu)
        ahead = weight.grad.lerp(state["momentum"], mu).flatten(1)
        update = orthogonalised(ahead, dtype=self.dtype).view_as(weight)
        rows, columns = ahead.shape
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Loshchilov and Hutter 2019, for all weights at once."""
        (first, second), lr = group["betas"], group["lr"]
        for weight in weights:
            if not self.state[weight]:
                zeros = torch.zeros_like(weight)
                self.state[weight] = {"mean": zeros, "square": zeros.clone()}
        states = [self.state[weight] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        group["steps"] += 1  # one number for all of them, which no tensor has to be asked for
        count = group["steps"]
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        sizes = torch._foreach_sqrt(squares)
        torch._foreach_div_(sizes, (1 - second**count) ** 0.5)
        torch._foreach_add_(sizes, 1e-8)
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(weights, means, sizes, value=-lr / (1 - first**count))


def build_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of the settings, for all weights of a denoiser."""
    if config.optimizer == "muon":
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return Muon(network, config.lr, config.matrix_lr, config.weight_decay, dtype=dtype)
    return torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
