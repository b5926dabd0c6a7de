"""Scores of repeated training runs in short: means with intervals for every subgroup, comparisons, and text tables.

A run is the rows of its test pictures, dataclasses with at least `id` and `group` (the cluster of near-duplicates or
of one patient); several runs are scored on the same pictures. A subgroup is a part of the pictures: its name, and their
indices in the rows of the first run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medsegdiff.downstream.rows import columns
from medsegdiff.statistics.runs import Columns, Measure, contrast, interval

ALL = "all"  # the subgroup of all pictures
MANY_UNDEFINED = 0.05  # an interval that leaves out more than this share of its resamples is marked in tables
PIXEL_METRICS = {"hd95"}  # one decimal; all others are shares
RATIO = "ratio"  # of run and baseline, a share whatever the metric
CELL = 23  # characters a column of a table

Run = Sequence[Any]  # rows


def label_subgroups(labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Indices of all pictures, and of those of each class in alphabetical order; "" is no class."""
    found = np.asarray(labels)
    parts = {str(label): np.flatnonzero(found == label) for label in np.unique(found) if label}
    return {ALL: np.arange(len(found)), **parts}


def summarise(
    runs: Sequence[Run],
    measures: Mapping[str, Measure],
    subgroups: Mapping[str, np.ndarray],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """{subgroup: {metric: {value, low, high, n, runs, undefined}}}: the fields of `Interval`.

    A metric that some run has no value of in a subgroup (AUC of one class) is left out there. Raises `ValueError` where
    runs were not scored on the same pictures.
    """
    tables = _aligned(runs)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for subgroup, index in subgroups.items():
        part = _select(tables, index)
        found = {name: interval(part, m, part[0]["group"].tolist(), resamples, seed) for name, m in measures.items()}
        result[subgroup] = {name: f.to_json() for name, f in found.items() if not math.isnan(f.value)}
    return result


def per_run_means(
    runs: Sequence[Run], measures: Mapping[str, Measure], subgroups: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """{subgroup: {metric: one value a run}}, with the metrics that `summarise` has. Raises `ValueError` as it does."""
    tables = _aligned(runs)
    found = {
        subgroup: {name: [measure(table, index) for table in tables] for name, measure in measures.items()}
        for subgroup, index in subgroups.items()
    }
    return {s: {n: v for n, v in metrics.items() if not np.isnan(v).any()} for s, metrics in found.items()}


def compare(
    runs: Sequence[Run],
    baseline: Sequence[Run],
    measures: Mapping[str, Measure],
    subgroups: Mapping[str, np.ndarray],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """{subgroup: {metric: {run, baseline, difference, ratio}}}: run minus baseline, and run over baseline (relative
    Dice).

    Both are {value, low, high, n, runs, undefined}, paired by the id of the picture; subgroups and groups are those of
    `runs`. Metrics without a value are left out, and ratios where the baseline is 0.
    Raises `ValueError` where the runs were not all scored on the same pictures.
    """
    tables = _aligned([*runs, *baseline])
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for subgroup, index in subgroups.items():
        part = _select(tables, index)
        ours, others, clusters = part[: len(runs)], part[len(runs) :], part[0]["group"].tolist()
        everything = np.arange(len(index))
        result[subgroup] = {}
        for name, measure in measures.items():
            found, share = contrast(ours, others, measure, clusters, resamples, seed)
            if not math.isnan(found.value):
                result[subgroup][name] = {
                    "run": float(np.mean([measure(table, everything) for table in ours])),
                    "baseline": float(np.mean([measure(table, everything) for table in others])),
                    "difference": found.to_json(),
                } | ({} if math.isnan(share.value) else {RATIO: share.to_json()})
    return result


def _aligned(runs: Sequence[Run]) -> list[Columns]:
    """The columns of every run, with its pictures in the order of the first one."""
    tables = [columns(run) for run in runs]
    places = [{id: place for place, id in enumerate(table["id"].tolist())} for table in tables]
    for table, place in zip(tables, places, strict=True):
        if len(place) != len(table["id"]):
            raise ValueError("the same id on two pictures of one run")
        if place.keys() != places[0].keys():
            raise ValueError(f"runs on other pictures: {sorted(place.keys() ^ places[0].keys())[0]!r} is in one only")
    order = tables[0]["id"].tolist()
    return [_rows_at(t, np.array([p[id] for id in order])) for t, p in zip(tables, places, strict=True)]


def _rows_at(table: Columns, index: np.ndarray) -> Columns:
    return {name: column[index] for name, column in table.items()}


def _select(tables: Sequence[Columns], index: np.ndarray) -> list[Columns]:
    return [_rows_at(table, index) for table in tables]


def summary_lines(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]],
    means: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    names: Sequence[str] = (),
) -> list[str]:
    """A text table of `summarise`'s result: one subgroup a line, one metric a column, `mean [low, high]`.

    Given `means` (of `per_run_means`) and the `names` of several runs, the lines of the runs follow each subgroup's
    own.
    """
    metrics = list(dict.fromkeys(metric for cells in summary.values() for metric in cells))
    wide = max(10, *(len(text) for text in (*summary, *(f"  {name}" for name in names)))) + 2
    lines = [f"{'':<{wide}}{'n':>5}  " + "".join(f"{metric:<{CELL}}" for metric in metrics)]
    for subgroup, cells in summary.items():
        count = str(next((cell["n"] for cell in cells.values()), ""))
        lines.append(f"{subgroup:<{wide}}{count:>5}  " + "".join(f"{_cell(m, cells.get(m)):<{CELL}}" for m in metrics))
        for number, name in enumerate(names if means is not None and len(names) > 1 else ()):
            values = {m: f"{v[number]:.{_digits(m)}f}" for m, v in (means or {}).get(subgroup, {}).items()}
            text = "".join(f"{values.get(m, '-'):<{CELL}}" for m in metrics)
            lines.append(f"{'  ' + name:<{wide}}{'':>5}  {text}")
    return [line.rstrip() for line in lines] + _footnote("*" in "".join(lines[1:]))


def comparison_lines(subgroups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A text table of `compare`'s result: one subgroup and metric a line."""
    wide = max(10, *(len(subgroup) for subgroup in subgroups)) + 2
    tall = max(11, *(len(metric) for cells in subgroups.values() for metric in cells)) + 2
    lines = [f"{'':<{wide}}{'metric':<{tall}}{'this run':>9}{'baseline':>10}  {'difference [95 % interval]':<28}ratio"]
    for subgroup, cells in subgroups.items():
        for metric, cell in cells.items():
            run, baseline = (f"{cell[key]:.{_digits(metric)}f}" for key in ("run", "baseline"))
            change = _cell(metric, cell["difference"], sign="+")
            share = _cell(RATIO, cell.get(RATIO))
            lines.append(f"{subgroup:<{wide}}{metric:<{tall}}{run:>9}{baseline:>10}  {change:<28}{share}")
    return lines + _footnote("*" in "".join(lines[1:]))


def _footnote(needed: bool) -> list[str]:
    text = f"* more than {MANY_UNDEFINED:.0%} of the resamples have no value; the interval leaves them out"
    return [text] if needed else []


def _digits(metric: str) -> int:
    return 1 if metric in PIXEL_METRICS else 3


def _cell(metric: str, found: Mapping[str, Any] | None, sign: str = "") -> str:
    if found is None:
        return "-"
    value, low, high = (f"{found[key]:{sign}.{_digits(metric)}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]{'*' if found['undefined'] > MANY_UNDEFINED else ''}"
