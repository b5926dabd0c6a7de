"""How well a generator does what it is asked: each attribute swept at fixed noise, asked against obtained."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from medsegdiff.data.attributes import MEASURED
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.device import choose_device, settle_precision
from medsegdiff.engine.files import make_folder, write_bytes, write_json, write_png
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import Device, Precision, expand_home
from medsegdiff.errors import require, require_positive
from medsegdiff.generators.base import GeneratorCard, load_generator
from medsegdiff.statistics.bootstrap import statistic_interval
from medsegdiff.statistics.interval import Interval
from medsegdiff.synthesis import samples
from medsegdiff.synthesis.plan import Chunk, Item, batched, chunk_size_on, pair_item, run_pending
from medsegdiff.synthesis.requests import asked_of, attributes_of, with_attributes

logger = logging.getLogger(__name__)

QUANTILES = (2, 5, 8, 11, 14)  # which knots of an attribute are asked for: an eighth to seven eighths
SHEET_ROWS = 6
FIGURES_FILE, TABLE_FILE = "control.json", "control.csv"


@dataclass(frozen=True)
class ControlConfig:
    """Subcommand control: does a checkpoint do what it is asked? Each attribute swept, asked against obtained."""

    checkpoint_path: str  # of a generator that takes attributes
    output_dir: str = "./control"  # samples, control.json, control.csv, a sheet for each attribute, crosstalk.png
    names: list[str] | None = None  # attributes that are swept; default: all that can be measured
    condition_guidance: list[str] | None = None  # weights of guidance, such as attributes=2; default: none
    num_seeds: int = 16  # noises for each attribute, each with five values of it
    bootstrap: int = 1000  # resamples of the intervals, over noises
    max_redraws: int = 20  # further samples of a pair whose lesion mask is empty or degenerate before giving up
    precision: Precision = "auto"  # autocast type; auto: bf16 where the device has it, else fp16 (GPU) or fp32 (CPU)
    device: Device = "auto"  # auto: a GPU where there is one
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(num_seeds=self.num_seeds, bootstrap=self.bootstrap)
        for name in ("seed", "max_redraws"):
            require(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class Control:
    """What came of asking for one attribute."""

    name: str
    rank_correlation: Interval  # of asked and obtained values (Spearman)
    slope: float  # of obtained over asked values
    crosstalk: dict[str, float]  # by other attribute: rank correlation of the asked values with it


def control(config: ControlConfig) -> list[Control]:
    """Sweep attributes and measure what came of it.

    Writes a sample folder of all pairs with control.csv (asked and obtained), control.json (figures),
    sheets/<attribute>.png (one noise a row) and crosstalk.png. Raises `UserError` for a generator that takes no
    attributes, and for names that it does not take.
    """
    config, device = settle_precision(config), choose_device(config.device)
    size = chunk_size_on(device)
    generator = load_generator(
        Path(config.checkpoint_path),
        {"condition_guidance": config.condition_guidance},
        device=device,
        precision=config.precision,
        batch_size=size,
    )
    card = generator.card
    known = attributes_of(card, "--checkpoint_path").names
    measurable = [name for name in known if name in MEASURED]
    names = config.names or measurable
    expected = f"some of {', '.join(measurable)}, which can be measured in what was sampled"
    for name in names:
        require(name in measurable, "--names", name, expected)
    fingerprint = {
        "phase": "control", "checkpoint_sha256": card.digest, "names": names, "num_seeds": config.num_seeds,
        "seed": config.seed, "precision": config.precision, "bootstrap": config.bootstrap, "chunk_size": size,
    }  # fmt: skip
    run = RunFolder(config.output_dir, DATA_SET, fingerprint | generator.settings("joint"))
    items = _items(config, card, names)
    if run.is_finished():
        found = _figures(config, items, read_samples(run.path), names)
    else:
        chunks = [Chunk(f"control_{n:05d}", some) for n, some in enumerate(batched(items, size))]
        with run.staged(keep_partial=True) as folder:
            run_pending(chunks, folder, lambda c: samples.run_chunk(generator, c, folder, config.max_redraws), "pair")
            classes = [c for c in card.classes if any(item.label == c for item in items)]
            pairs = samples.gather(card, chunks, folder, classes, run.fingerprint)
            found = _figures(config, items, pairs, names)
            _write(folder, items, pairs, found)
    for one in found:
        logger.info("%s: rank correlation %s, slope %.2f", one.name, one.rank_correlation, one.slope)
    logger.info("pictures: %s; figures: %s", run.path / "sheets", run.path / FIGURES_FILE)
    return found


def _items(config: ControlConfig, card: GeneratorCard, names: Sequence[str]) -> list[Item]:
    """For each attribute and noise an item for each value; the classes in turn."""
    condition, found = attributes_of(card, "--checkpoint_path"), []
    for name in names:
        knots = condition.knots[condition.names.index(name)]
        values = sorted({knots[quantile * (len(knots) - 1) // 16] for quantile in QUANTILES})
        for number in range(config.num_seeds):
            label = card.classes[number % len(card.classes)]
            item = pair_item("joint", label, card.classes, number, config.seed)
            for step, value in enumerate(values):
                asked = with_attributes(item, {name: (value, value)}, card)
                request = dataclasses.replace(asked.request, id=f"{name}_{number:03d}_{step}")
                found.append(dataclasses.replace(asked, request=request))
    return found


def _figures(config: ControlConfig, items: Sequence[Item], pairs: SampleSet, names: Sequence[str]) -> list[Control]:
    obtained = {record.id: record.attributes for record in pairs.records}
    found = []
    for name in names:
        own = [item for item in items if name in asked_of(item)]
        asked = np.array([asked_of(item)[name] for item in own])
        columns = {n: np.array([obtained[i.request.id].get(n, math.nan) for i in own]) for n in names}
        groups = np.array([str(item.request.seed) for item in own])  # of one noise

        def correlation(rows: np.ndarray, x: np.ndarray = asked, y: np.ndarray = columns[name]) -> float:
            return _spearman(x[rows], y[rows])

        known = ~np.isnan(columns[name])
        slope = float(np.polyfit(asked[known], columns[name][known], 1)[0])
        others = {n: _spearman(asked, column) for n, column in columns.items() if n != name}
        interval = statistic_interval(correlation, groups, config.bootstrap, config.seed)
        found.append(Control(name, interval, slope, others))
    return found


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of asked values x and obtained ones y; 0 where these do not move, NaN where nothing is known."""
    known = ~(np.isnan(x) | np.isnan(y))
    if len(np.unique(x[known])) < 2:
        return math.nan
    if len(np.unique(y[known])) < 2:
        return 0.0
    return float(spearmanr(x[known], y[known]).statistic)


def _write(folder: Path, items: Sequence[Item], pairs: SampleSet, found: Sequence[Control]) -> None:
    by_id = {record.id: record for record in pairs.records}
    names = [one.name for one in found]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "attribute", "asked", *(f"obtained:{name}" for name in names)])
    for item in items:
        ((name, value),) = asked_of(item).items()
        row = by_id[item.request.id].attributes
        writer.writerow([item.request.id, item.label, name, value, *(row.get(n, "") for n in names)])
    write_bytes(folder / TABLE_FILE, text.getvalue().encode())
    write_json(folder / FIGURES_FILE, {one.name: _json(one) for one in found})
    for name in names:
        own = [item for item in items if name in asked_of(item)]
        values = len({asked_of(item)[name] for item in own})
        own = own[: SHEET_ROWS * values]
        records = [by_id[item.request.id] for item in own]
        images, masks = [pairs.read_image(r) for r in records], [pairs.read_mask(r) for r in records]
        wanted = [asked_of(item)[name] for item in own]
        came = [record.attributes.get(name, math.nan) for record in records]
        titles = [f"{first:.3g} > {second:.3g}" for first, second in zip(wanted, came, strict=True)]
        sheet = contact_sheet(images, masks, titles, columns=values, spec=pairs.arrays)
        write_png(make_folder(folder / "sheets") / f"{name}.png", sheet)
    write_bytes(folder / "crosstalk.png", _matrix(found))


def _json(one: Control) -> dict[str, Any]:
    crosstalk = {name: None if math.isnan(value) else value for name, value in one.crosstalk.items()}
    return {"rank_correlation": one.rank_correlation.to_json(), "slope": one.slope, "crosstalk": crosstalk}


def _matrix(found: Sequence[Control]) -> bytes:
    """A picture of what moves, column by column, when a row is asked for."""
    names = [one.name for one in found]
    values = [[o.rank_correlation.value if n == o.name else o.crosstalk[n] for n in names] for o in found]
    figure = Figure(figsize=(1.6 + 0.75 * len(names), 1.4 + 0.6 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(values), cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="obtained", ylabel="asked for", title="rank correlation")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            shown = "" if math.isnan(value) else f"{value:.2f}"
            axes.text(column, row, shown, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()
