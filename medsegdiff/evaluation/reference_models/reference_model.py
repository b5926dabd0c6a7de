"""A learned reference model, and how well it does on real pictures that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from medsegdiff.statistics.interval import Interval, number


@dataclass(frozen=True)
class ReferenceModel:
    """A network trained on the real train split, whose predictions on synthetic pairs count while it is good enough."""

    name: str  # "segmenter", "classifier", "embedding"
    model: nn.Module  # in evaluation mode, on its device
    settings: dict[str, Any]  # of its file: "mean" and "std" of grey values in [0, 1], "config", ...
    measure: str  # what `quality` is: "Dice", "AUC", "share of altered copies found"
    quality: Interval  # on held-out real pictures
    minimum: float  # of `quality.value`; below it, its predictions are withheld

    @property
    def trusted(self) -> bool:
        """Whether its figures may be shown."""
        return self.quality.value >= self.minimum

    def withheld(self) -> str:
        """Why its figures are not shown."""
        return (
            f"withheld: the {self.name}'s {self.measure} on held-out real pictures is {number(self.quality.value)}, "
            f"below the {number(self.minimum)} that make its predictions worth using"
        )


@dataclass(frozen=True)
class ReferenceModels:
    """The reference models of a real set; one that could not be trained is None, and `missing` says why."""

    segmenter: ReferenceModel | None
    classifier: ReferenceModel | None
    embedding: ReferenceModel | None
    missing: dict[str, str]  # name -> why there is none

    @property
    def present(self) -> list[ReferenceModel]:
        """Those that there are."""
        return [model for model in (self.segmenter, self.classifier, self.embedding) if model is not None]
