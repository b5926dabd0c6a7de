"""The phases as functions, with results that a notebook shows.

Each takes the settings of its command line as keywords, over those of a configuration or a YAML file where one is given
first, and goes on where an interrupted call stopped. Progress is shown by tqdm; what happens is said to the logger
"medsegdiff" (`logging.basicConfig(level="INFO")` prints it).
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medsegdiff.api.dataset import SampleDataset
from medsegdiff.api.generator import LoadedGenerator, load_generator
from medsegdiff.data.config import CombineConfig, PrepareConfig
from medsegdiff.data.records import SampleSet
from medsegdiff.downstream.config import PredictConfig, SegmentConfig
from medsegdiff.engine.packages import load
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.flags import from_keywords
from medsegdiff.generators.base import BEST_FILE
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.synthesis.config import GenerateConfig

if TYPE_CHECKING:
    from medsegdiff.api.segmenter import Segmenter

Config = TypeVar("Config")
SHEETS = ("contact_sheet.png", "overview.png")  # what phases draw of samples


@dataclass(frozen=True, eq=False)
class SamplesResult:
    """Samples that `prepare`, `generate` or `combine` wrote."""

    path: Path
    dataset: SampleDataset

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Samples by split and class."""
        return self.dataset.counts

    def __repr__(self) -> str:
        return f"SamplesResult({self.path}, {self.counts})"

    def _repr_html_(self) -> str:
        labels = self.dataset.classes
        rows = [[split, *(by.get(label, 0) for label in labels)] for split, by in self.counts.items()]
        sheet = next((self.path / name for name in SHEETS if (self.path / name).is_file()), None)
        return _title(self.path) + _table(["split", *labels], rows) + ("" if sheet is None else _picture(sheet))


@dataclass(frozen=True, eq=False)
class MasksResult:
    """Masks that `generate` or `predict` found for images."""

    path: Path
    rows: list[dict[str, Any]]  # one an image

    def __repr__(self) -> str:
        return f"MasksResult({self.path}, {len(self.rows)} images)"

    def _repr_html_(self) -> str:
        return _title(self.path) + _picture(self.path / SHEETS[0])


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A checkpoint that `train` or `few_step` wrote."""

    path: Path
    summary: dict[str, Any]  # content of summary.json

    @property
    def checkpoint(self) -> Path:
        """The best weights."""
        return self.path / BEST_FILE

    def load(self, **settings: Any) -> LoadedGenerator:
        """The generator, ready to sample; `settings` are those of `load_generator`."""
        return load_generator(self.checkpoint, **settings)

    def __repr__(self) -> str:
        return f"TrainingResult({self.checkpoint})"

    def _repr_html_(self) -> str:
        shown = [[key, _number(value)] for key, value in self.summary.items() if isinstance(value, (int, float, str))]
        sheets = sorted((self.path / "samples").glob("*.png"))
        return _title(self.checkpoint) + _table(["", ""], shown) + (_picture(sheets[-1]) if sheets else "")


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """Networks that `train_segmentation` trained, and their scores on real test pictures."""

    path: Path
    scores: dict[str, Any]  # content of scores.json

    @property
    def dice(self) -> float:
        """Mean Dice over the test pictures (and seeds). Raises `KeyError` for a classifier."""
        return float(self.scores["test"]["all"]["dice"]["value"])

    def load(self, seed: int | None = None) -> Segmenter:
        """The network, ready to predict; `seed` names one of several."""
        path = self.path if seed is None else self.path / f"seed_{seed}"
        found: Segmenter = load("medsegdiff.api.segmenter:load_segmenter")(path)
        return found

    def __repr__(self) -> str:
        return f"SegmentationResult({self.path})"

    def _repr_html_(self) -> str:
        parts = [("test", self.scores["test"])]
        parts += [(name, found["test"]) for name, found in self.scores.get("external", {}).items()]
        if "comparison" in self.scores:
            compared = self.scores["comparison"]["subgroups"]
            parts.append(("difference", {g: {k: v["difference"] for k, v in m.items()} for g, m in compared.items()}))
        return _title(self.path) + "".join(_scores(name, by) for name, by in parts)


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What `evaluate` found out about synthetic samples."""

    path: Path
    report: dict[str, Any]  # content of report.json

    @property
    def verdicts(self) -> dict[str, str]:
        """Outcome of each part of the report: {"privacy": "pass", ...}."""
        return {line["metric"]: line["outcome"] for line in self.report["verdicts"]}

    def __repr__(self) -> str:
        return f"EvaluationResult({self.path}, {self.verdicts})"

    def _repr_html_(self) -> str:
        rows = [[line["metric"], line["outcome"], line["sentence"]] for line in self.report["verdicts"]]
        return _title(self.path / "report.html") + _table(["part", "verdict", "what was found"], rows)


def prepare(config: PrepareConfig | str | Path | None = None, **settings: Any) -> SamplesResult:
    """Phase 1: `prepare(input_dir=..., output_dir=...)`. Raises `UserError` as the command line reports it."""
    run = load("medsegdiff.data.prepare:prepare")
    return _samples(run(_settled("prepare", PrepareConfig, config, settings)))


def train(config: TrainConfig | str | Path | None = None, **settings: Any) -> TrainingResult:
    """Phase 2: `train(data_dir=..., output_dir=..., num_epochs=...)`. Raises `UserError`."""
    run = load("medsegdiff.generators.joint_diffusion.trainer:train")
    found = _settled("train", TrainConfig, config, settings)
    return TrainingResult(Path(found.output_dir), run(found))


def generate(config: GenerateConfig | str | Path | None = None, **settings: Any) -> SamplesResult | MasksResult:
    """Phase 3: `generate(checkpoint_path=..., num_samples_per_class=..., output_dir=...)`. Raises `UserError`.

    To a folder, and resumable. `load_generator` samples in memory.
    """
    run = load("medsegdiff.synthesis.run:generate")
    found = _settled("generate", GenerateConfig, config, settings)
    result = run(found)
    return _samples(result) if isinstance(result, SampleSet) else MasksResult(Path(found.output_dir), result)


def combine(config: CombineConfig | str | Path | None = None, **settings: Any) -> SamplesResult:
    """Phase 4: `combine(real_data=..., synthetic_data=..., output_dir=...)`. Raises `UserError`."""
    run = load("medsegdiff.data.combine:combine")
    return _samples(run(_settled("combine", CombineConfig, config, settings)))


def train_segmentation(config: SegmentConfig | str | Path | None = None, **settings: Any) -> SegmentationResult:
    """Phase 5: `train_segmentation(data_dir=..., output_dir=..., seeds=[0, 1, 2])`. Raises `UserError`."""
    run = load("medsegdiff.downstream.benchmark:segment")
    found = _settled("segment", SegmentConfig, config, settings)
    return SegmentationResult(Path(found.output_dir), run(found))


def predict(config: PredictConfig | str | Path | None = None, **settings: Any) -> MasksResult:
    """A network of phase 5 on a folder of pictures: `predict(model_path=..., images=...)`. Raises `UserError`.

    `load_segmenter` predicts in memory.
    """
    run = load("medsegdiff.downstream.predict:predict_pictures")
    found = _settled("predict", PredictConfig, config, settings)
    return MasksResult(Path(found.output_dir), run(found))


def evaluate(config: EvaluateConfig | str | Path | None = None, **settings: Any) -> EvaluationResult:
    """How good, varied and private samples are: `evaluate(real_data=..., synthetic_data=...)`. Raises `UserError`."""
    run = load("medsegdiff.evaluation.run:evaluate")
    found = _settled("evaluate", EvaluateConfig, config, settings)
    return EvaluationResult(Path(found.output_dir), run(found))


def _settled(name: str, kind: type[Config], config: Config | str | Path | None, settings: dict[str, Any]) -> Config:
    """The configuration: `config` itself, or `settings` over those of the YAML file that it names."""
    if config is None or isinstance(config, str | Path):
        found: Config = from_keywords(name, kind, settings, None if config is None else str(config))
        return found
    return dataclasses.replace(config, **settings) if settings else config  # type: ignore[type-var]


def _samples(found: SampleSet) -> SamplesResult:
    return SamplesResult(found.root, SampleDataset(found))


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(name: str, by_group: dict[str, Any]) -> str:
    """A table of scores with their intervals, subgroups as rows."""
    measures = list(next(iter(by_group.values()), {}))
    rows = [[group, *(_interval(by.get(m)) for m in measures)] for group, by in by_group.items()]
    return _table([name, *measures], rows)


def _interval(cell: Any) -> str:
    if not isinstance(cell, dict) or cell.get("value") is None:
        return ""
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" if "low" in cell else f"{cell['value']:.3f}"


def _title(path: Path) -> str:
    return f"<p><code>{html.escape(str(path))}</code></p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.name)}" src="data:image/png;base64,{data}">'
