"""A learned judge, and how well it judges real pictures that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from medsegdiff.evaluation.section import Interval, number


@dataclass(frozen=True)
class Judge:
    """A network trained on the real train split, whose opinion on synthetic pairs counts while it is good enough."""

    name: str  # "segmenter", "classifier", "embedding"
    model: nn.Module  # in evaluation mode, on its device
    settings: dict[str, Any]  # of its file: "mean" and "std" of grey values in [0, 1], "config", ...
    measure: str  # what `quality` is: "Dice", "AUC", "share of altered copies found"
    quality: Interval  # on held-out real pictures
    minimum: float  # of `quality.value`; below it, what the judge says is withheld

    @property
    def trusted(self) -> bool:
        """Whether its figures may be shown."""
        return self.quality.value >= self.minimum

    def withheld(self) -> str:
        """Why its figures are not shown."""
        return (
            f"withheld: the {self.name}'s {self.measure} on held-out real pictures is {number(self.quality.value)}, "
            f"below the {number(self.minimum)} that make its opinion worth having"
        )


@dataclass(frozen=True)
class Judges:
    """The judges of a real set; one that could not be trained is None, and `missing` says why."""

    segmenter: Judge | None
    classifier: Judge | None
    embedding: Judge | None
    missing: dict[str, str]  # name -> why there is none
