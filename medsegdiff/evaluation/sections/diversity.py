"""Are pictures of one class as unlike each other as real ones are, or is one picture sampled again and again?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.data.hashing import content_hash
from medsegdiff.evaluation.context import SETS, TITLES, Context, Metric
from medsegdiff.evaluation.drawing import png, show
from medsegdiff.evaluation.metrics.similarity import ms_ssim, random_pairs
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, Verdict
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.bootstrap import pairs_interval
from medsegdiff.statistics.interval import Interval, number

PAIRS = 300  # random pairs of a class that are compared
MIN_PICTURES = 20  # of a class in each set; so many pairs as well
MIN_GROUPS = 5  # that these pairs are of: fewer say nothing of how much chance is in them
PAIRING = 3  # purpose of random numbers
ALIKE = 99  # percentile of real pairs beyond which a pair is reported as very alike
ALIKE_SHARE = 0.05  # share of such synthetic pairs above which the model has collapsed; among real ones it is 0.01
MARGIN = 0.05  # MS-SSIM by which synthetic pairs may be more alike than real ones
REPEATED_SHARE = 0.01  # share of pictures that may repeat another one to the pixel
SHOWN = 4
COLOURS = {"train": "0.5", "held_out": "C0", "synthetic": "C3"}


@dataclass(frozen=True)
class Similarity:
    """How alike random pairs of a class are."""

    values: np.ndarray  # (K,) MS-SSIM
    pairs: np.ndarray  # (K, 2) rows of the two pictures in their set
    groups: np.ndarray  # (K, 2) of these pictures

    @property
    def enough(self) -> bool:
        """Whether it can be reported with an interval."""
        return len(self.values) >= MIN_PICTURES and len(np.unique(self.groups)) >= MIN_GROUPS


def run(context: Context) -> Section:
    """MS-SSIM of random pairs of each class, synthetic beside real, and repeated pictures."""
    section = Section("As varied as real pictures?")
    section.text.append(
        "Two pictures of the same class were sampled at random, several hundred times, and compared by MS-SSIM on grey "
        "values: 1 for the same picture, near 0 for pictures that share nothing. Synthetic pairs that are more alike "
        "than real pairs mean less variety than in real patients. Two real pictures of one patient were never paired."
    )
    reported: dict[str, dict[str, Similarity]] = {}
    for label in context.sets.classes:
        if section.too_few(f"Variety of {label} pictures", context.counts(label), MIN_PICTURES):
            continue
        found = {which: _similarity(context, which, label) for which in SETS}
        if few := [TITLES[which] for which, similarity in found.items() if not similarity.enough]:
            section.skipped.append(f"Variety of {label} pictures: nearly all {few[0]} pictures are of few patients.")
            continue
        reported[label] = found
        section.values[label] = _figures(context, label, found)
    if reported:
        _report(section, reported)
        section.figures += [
            _distributions(reported),
            *(_most_alike(context, label, f) for label, f in reported.items()),
        ]
    return section


def repeated(pairs: Pairs, rows: np.ndarray) -> int:
    """How many of the pictures of these rows are, to the pixel, one that stands before."""
    return len(rows) - len({content_hash(pairs.images[row]) for row in rows})


def _similarity(context: Context, which: str, label: str) -> Similarity:
    pairs: Pairs = getattr(context.sets, which)
    rows = pairs.of(label)
    random = np.random.default_rng([context.config.seed, PAIRING, SETS.index(which)])
    chosen = rows[random_pairs(pairs.groups[rows], PAIRS, random)]
    values = ms_ssim(pairs.images[chosen[:, 0]], pairs.images[chosen[:, 1]]) if len(chosen) else np.zeros(0)
    return Similarity(values, chosen, pairs.groups[chosen])


def _figures(context: Context, label: str, found: dict[str, Similarity]) -> dict[str, Any]:
    """Means, share of very alike pairs, repeated pictures; for report.json."""
    real = np.concatenate([found["train"].values, found["held_out"].values])
    own = found["synthetic"]
    alike = (own.values > np.percentile(real, ALIKE)).astype(float)
    synthetic = context.sets.synthetic
    rows = synthetic.of(label)
    figures = {which: _mean(context, similarity.values, similarity).to_json() for which, similarity in found.items()}
    return {
        **figures,
        "very_alike": _mean(context, alike, own).to_json(),
        "pairs": len(own.values),
        "pictures": len(rows),
        "repeated": repeated(synthetic, rows),
    }


def _mean(context: Context, values: np.ndarray, similarity: Similarity) -> Interval:
    """Mean of one number a pair (K,), with an interval over the groups of the pictures."""
    return pairs_interval(values, similarity.groups, **context.resampling)


def _report(section: Section, reported: dict[str, dict[str, Similarity]]) -> None:
    """Table and verdict."""
    rows: list[list[Cell | Interval]] = []
    for label in reported:
        v = section.values[label]
        means = [Interval(**v[which]) for which in ("synthetic", "train", "held_out", "very_alike")]
        rows.append([label, *means, v["pairs"], f"{v['repeated']} of {v['pictures']}"])
    columns = ["class", "synthetic", *(f"{TITLES[w]} (baseline)" for w in SETS[:2]), "very alike", "pairs", "repeats"]
    note = (
        "Mean MS-SSIM of random pairs, the lower the more varied, with an interval over pictures (their groups), each "
        "of which stands in several pairs; lower than of real pairs is no merit, as noise lowers it, and so does a "
        "lack of the layers that all breasts have. very alike: share of synthetic pairs that are more alike than "
        f"{ALIKE} % of real pairs (real pictures have {1 - ALIKE / 100:.2f}). repeats: synthetic pictures that are "
        "another one to the pixel."
    )
    section.tables.append(Table("MS-SSIM between pictures of a class", columns, rows, note))
    section.verdict = _verdict({label: section.values[label] for label in reported})


def _verdict(reported: dict[str, dict[str, Any]]) -> Verdict:
    """Whether the model samples the same again and again; the worst class decides."""
    collapsed, less, unclear = [], [], []
    for label, v in reported.items():
        synthetic, real = v["synthetic"], max((v[w] for w in ("train", "held_out")), key=lambda i: i["value"])
        size = f"{label}: MS-SSIM {number(synthetic['value'])} against {number(real['value'])} of real pairs"
        if v["very_alike"]["low"] > ALIKE_SHARE or v["repeated"] > REPEATED_SHARE * v["pictures"]:
            share, same = v["very_alike"]["value"], v["repeated"]
            collapsed.append(f"{size}, {share:.0%} of pairs very alike, {same} of {v['pictures']} pictures repeated")
        elif synthetic["low"] > real["value"] + MARGIN:
            less.append(size)
        elif synthetic["high"] > real["value"] + MARGIN or v["very_alike"]["high"] > ALIKE_SHARE:
            unclear.append(size)
    if collapsed:
        return Verdict(
            "fail", f"MODE COLLAPSE: the same pictures are sampled again and again ({'; '.join(collapsed)})."
        )
    if less:
        return Verdict("fail", f"Synthetic pictures are less varied than real ones ({'; '.join(less)}).")
    if unclear:
        return Verdict("too few pictures to decide", f"Whether pictures are as varied is open ({'; '.join(unclear)}).")
    named = ", ".join(reported)
    return Verdict("pass", f"No mode collapse: pictures of a class are no more alike than real ones ({named}).")


def _distributions(reported: dict[str, dict[str, Similarity]]) -> Figure:
    """Histograms of MS-SSIM by class."""
    plot = Plot(figsize=(4.5 * len(reported), 3.2), layout="constrained")
    bins = np.linspace(0, max(float(f.values.max()) for found in reported.values() for f in found.values()) + 1e-6, 31)
    for axes, (label, found) in zip(plot.subplots(1, len(reported), squeeze=False)[0], reported.items(), strict=True):
        for which, similarity in found.items():
            how = {"density": True, "histtype": "step", "linewidth": 1.6, "color": COLOURS[which]}
            axes.hist(similarity.values, bins=bins, label=TITLES[which], **how)
        axes.set_title(label)
        axes.set_xlabel("MS-SSIM of two pictures (1: the same)")
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8)
    return Figure(
        png(plot), "How alike two pictures of a class are: red to the right of the others means less variety."
    )


def _most_alike(context: Context, label: str, found: dict[str, Similarity]) -> Figure:
    """The synthetic pairs that are most alike, one above the other."""
    pairs, similarity = context.sets.synthetic, found["synthetic"]
    order = np.argsort(-similarity.values, kind="stable")[:SHOWN]
    plot = Plot(figsize=(2.2 * len(order), 4.2), layout="constrained")
    for column, i in zip(plot.subplots(2, len(order), squeeze=False).T, order, strict=True):
        for axes, row in zip(column, similarity.pairs[i], strict=True):
            show(axes, pairs.pictures[row], pairs.pixels[row])
            axes.set_title(pairs.records[row].id, fontsize=7)
        column[0].set_title(
            f"MS-SSIM {similarity.values[i]:.2f}\n{pairs.records[similarity.pairs[i][0]].id}", fontsize=7
        )
    return Figure(png(plot), f"The {len(order)} most alike of the random pairs of synthetic {label} pictures.")


METRIC = Metric("diversity", 15, run)
