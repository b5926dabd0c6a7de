"""How the picture of a sample was moved in training, so that sampled pictures are not (augmentation conditioning).

Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", appendix F.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import Condition, Embedder, Sample
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.transforms import MOVE_UNITS


@dataclass(frozen=True, kw_only=True)
class Augmentation(Condition):
    """Numbers that `augment_conditioned` returns; 0 for a picture that lies as pictures may."""

    name: ClassVar[str] = "augmentation"
    kind: ClassVar[str] = "numbers"
    drop_rate: float = 0.0  # its null, not moved, is what most samples show
    units: list[float]  # of each number, as `MOVE_UNITS` has them

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        return cls(units=list(MOVE_UNITS))

    def encode(self, samples: Sequence[Sample]) -> Tensor:
        nothing = [0.0] * len(self.units)
        return torch.tensor([list(sample.get(self.name) or nothing) for sample in samples])

    def embedder(self, width: int) -> Embedder:
        return AugmentationEmbedder(len(self.units), width)


class AugmentationEmbedder(Embedder):
    """Linear and without a bias: nothing for a picture that was not moved, which is the null."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(numbers, width, bias=False)

    def null(self) -> Tensor:
        return self.linear.weight.new_zeros(self.linear.out_features)

    def forward(self, values: Tensor) -> Tensor:
        # Zeros are put in afterwards: a copy of `values` would lie elsewhere in memory, which shows in last bits
        return torch.where(values.isnan().any(dim=1, keepdim=True), 0.0, self.linear(values))
