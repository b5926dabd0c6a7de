"""What every metric is handed, and what it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from medsegdiff.evaluation.section import Section
from medsegdiff.evaluation.sets import Pairs, Sets
from medsegdiff.statistics.comparisons import Sample

if TYPE_CHECKING:
    from medsegdiff.data.records import SampleSet
    from medsegdiff.evaluation.config import EvaluateConfig
    from medsegdiff.evaluation.reference_models.reference_model import ReferenceModels

TITLES = {"train": "real train", "held_out": "real held-out", "synthetic": "synthetic"}  # what the page calls the sets
SETS = tuple(TITLES)
# What turns N pairs into (N, F) float64 features
Space = Callable[["Context", Pairs], np.ndarray]


@dataclass(frozen=True)
class Context:
    """The sets, the reference models and the settings; features are computed once and kept."""

    sets: Sets
    real: SampleSet  # the whole real sample folder: masks to compare images sampled for them, for example
    synthetic: SampleSet  # the whole synthetic one: what its dataset.json says of the generator
    reference_models: ReferenceModels
    config: EvaluateConfig
    _kept: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path | None:
        """The generative checkpoint, where one was given."""
        path = self.config.checkpoint_path
        return None if path is None else Path(path)

    @property
    def resampling(self) -> dict[str, int]:
        """How intervals are sampled: keywords of the functions that make them."""
        return {"resamples": self.config.bootstrap, "seed": self.config.seed}

    def features(self, name: str, space: Space, which: str) -> np.ndarray:
        """(N, F) features of one of `SETS` in the space called `name`."""
        if (name, which) not in self._kept:
            self._kept[name, which] = space(self, getattr(self.sets, which))
        return self._kept[name, which]

    def sample(self, name: str, space: Space, which: str, label: str | None) -> Sample:
        """Features and groups of the pictures of a class (None: of all) in one of `SETS`."""
        pairs: Pairs = getattr(self.sets, which)
        rows = pairs.of(label)
        return Sample(self.features(name, space, which)[rows], pairs.groups[rows])

    def counts(self, label: str | None, which: Sequence[str] = SETS) -> dict[str, int]:
        """Pictures of a class (None: of all) in these of `SETS`, by what the page calls them."""
        return {TITLES[name]: len(getattr(self.sets, name).of(label)) for name in which}

    def unfit(self, *needed: Literal["grey", "binary"]) -> str | None:
        """Why the arrays do not suit what needs grey pictures or binary masks; None where they do."""
        spec = self.sets.train.spec
        if "binary" in needed and not spec.is_binary:
            return "not for label maps, of which no class is the lesion" if spec.foreground else "needs masks"
        return "needs grey pictures" if "grey" in needed and spec.channels > 1 else None

    def subgroups(self) -> dict[str, str | None]:
        """What is distinguished: {"all": None, "benign": "benign", ...}."""
        several = self.sets.classes if len(self.sets.classes) > 1 else ()
        return {"all": None, **{label: label for label in several}}


@dataclass(frozen=True)
class Metric:
    """A metric: one module of `medsegdiff.evaluation.sections` with this under the name METRIC."""

    name: str  # of its part of report.json
    order: int  # place on the page
    run: Callable[[Context], Section | None]  # None: does not apply to what was given
    # Raises `UserError` for settings that cannot work, given the real set; called before anything is trained
    check: Callable[[EvaluateConfig, SampleSet], object] = lambda config, real: None


def all_metrics() -> list[Metric]:
    """The metric of every module of `medsegdiff.evaluation.sections`, in the order of the page."""
    package = importlib.import_module("medsegdiff.evaluation.sections")
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    return sorted((m.METRIC for m in modules), key=lambda metric: metric.order)
