"""A learned reference model, and how well it does on real pictures that it has not seen."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medsegdiff.engine.locks import lock_file, locked
from medsegdiff.engine.state import STATE_FOLDER
from medsegdiff.errors import UserError
from medsegdiff.statistics.interval import Interval, number


@dataclass(frozen=True)
class ReferenceModel:
    """A network trained on the real train split, whose prediction on synthetic pairs counts while it is good enough."""

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
            f"below the {number(self.minimum)} that make its prediction worth having"
        )


@dataclass(frozen=True)
class ReferenceModels:
    """The reference models of a real set; one that could not be trained is None, and `missing` says why."""

    segmenter: ReferenceModel | None
    classifier: ReferenceModel | None
    embedding: ReferenceModel | None
    missing: dict[str, str]  # name -> why there is none


def clear_leftovers_of(folder: Path) -> None:
    """Remove what a training that was killed after its end left beside a finished reference model, if that may be
    done here."""
    if (folder / STATE_FOLDER).exists() or lock_file(folder, beside=False).exists():
        with suppress(UserError, OSError), locked(folder):  # held: the process that trained it is clearing up
            shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
