"""The class of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import Condition, Embedder, Sample
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.errors import require


@dataclass(frozen=True, kw_only=True)
class Label(Condition):
    """One of some classes."""

    name: ClassVar[str] = "label"
    kind: ClassVar[str] = "class"
    classes: list[str]  # in the order of their numbers

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        return cls(drop_rate=drop_rate, classes=list(classes))

    def encode(self, samples: Sequence[Sample]) -> Tensor:
        labels = [sample.get(self.name) or None for sample in samples]
        for label in labels:
            require(label is None or label in self.classes, self.name, label, f"one of {', '.join(self.classes)}")
        return torch.tensor([-1 if label is None else self.classes.index(label) for label in labels])

    def embedder(self, width: int) -> Embedder:
        return LabelEmbedder(len(self.classes), width)


class LabelEmbedder(Embedder):
    """A learnt vector a class; the last one is the null."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def null(self) -> Tensor:
        return self.table.weight[self.classes]

    def forward(self, values: Tensor) -> Tensor:
        vectors: Tensor = self.table(torch.where(values < 0, self.classes, values))
        return vectors
