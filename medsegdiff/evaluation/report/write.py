"""The files of an evaluation: report.html, which needs no other file, report.json, per_pair.csv."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medsegdiff import __version__
from medsegdiff.engine.files import REPORT_FILE, write_bytes, write_json
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.report.grids import mixed_grids
from medsegdiff.evaluation.section import Section
from medsegdiff.statistics.interval import Interval, number

PAGE_FILE, TABLE_FILE = "report.html", "per_pair.csv"


def write_report(
    output: Path, context: Context, sections: Mapping[str, Section], result: dict[str, Any]
) -> dict[str, Any]:
    """Write the three files, report.json last; returns what it holds beside `result`."""
    verdicts = [
        {"metric": name, "outcome": section.verdict.outcome, "sentence": section.verdict.sentence}
        for name, section in sections.items()
        if section.verdict is not None
    ]
    reported = {name: section.values | {"skipped": section.skipped} for name, section in sections.items()}
    more = {"verdicts": verdicts, "metrics": reported, "made_by": {"medsegdiff": __version__}}
    report = result | more
    json.dumps(report, allow_nan=False)  # a figure that is none has no place in it
    write_bytes(output / TABLE_FILE, _table(context, sections).encode())
    write_bytes(output / PAGE_FILE, page(context, sections, report).encode())
    write_json(output / REPORT_FILE, report)
    return more


def page(context: Context, sections: Mapping[str, Section], report: Mapping[str, Any]) -> str:
    """The page, with every picture in it."""
    environment = Environment(
        loader=PackageLoader("medsegdiff.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
    environment.filters["cell"] = _cell
    template = environment.get_template("page.html.j2")
    real_pictures = context.config.real_pictures
    copied = any(v["metric"] == "privacy" and v["outcome"] == "fail" for v in report.get("verdicts", []))
    if copied and not real_pictures:  # then synthetic pictures may show patients
        grids: list[Any] = []
        sections = {name: dataclasses.replace(section, figures=[]) for name, section in sections.items()}
    else:
        grids = mixed_grids(context.sets, context.config.seed, real=real_pictures)
    return template.render(
        sections=sections,
        report=report,
        grids=grids,
        reference_models=context.reference_models.present,
        missing=context.reference_models.missing,
        sets=context.sets,
        binary=context.sets.train.spec.is_binary,
        real_pictures=real_pictures,
        resamples=context.config.bootstrap,
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001 (a dash is what stands in an empty cell)
    if isinstance(value, bool | str | int | Interval):
        return str(value)
    return number(float(value))


def _table(context: Context, sections: Mapping[str, Section]) -> str:
    """per_pair.csv: a row a synthetic pair. Raises `ValueError` for a number that is not finite."""
    pairs = context.sets.synthetic
    columns: dict[str, Any] = {"id": pairs.ids, "label": list(pairs.labels)}
    for section in sections.values():
        columns |= section.per_pair
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        if any(isinstance(v, float) and not math.isfinite(v) for v in row):
            raise ValueError(f"{TABLE_FILE}: {row} has a number that is not finite")
        writer.writerow("" if value is None else value for value in row)
    return text.getvalue()
