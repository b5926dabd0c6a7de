"""Do synthetic lesions have the characteristics of real ones, and do classes differ in them as they really do?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.evaluation.context import SETS, TITLES, Context, Metric
from medsegdiff.evaluation.drawing import png
from medsegdiff.evaluation.metrics.distributions import (
    MIN_PICTURES,
    column,
    column_distances,
    excess,
    missing,
    preserved,
    spread,
    together,
)
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, cells
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.lesion_shape import DESCRIPTORS, NAMES, Descriptor, descriptor_matrix
from medsegdiff.statistics.comparisons import Comparison, Sample, difference_of_means, holm, same_distribution
from medsegdiff.statistics.interval import Interval, number

NAMED = 3  # characteristics that the text names as the farthest off
OUTCOMES = ("kept (weaker)", "lost", "reversed", "too few pictures to decide")  # that the text says by name


@dataclass
class _Line:
    """One characteristic of one class."""

    label: str
    descriptor: Descriptor
    real: float  # mean of train
    synthetic: float  # mean
    shift: float  # synthetic minus real mean, in real standard deviations
    comparison: Comparison | None
    p: float  # of the Kolmogorov-Smirnov test, corrected


def run(context: Context) -> Section:
    """Every characteristic per class beside its baseline, and the differences between classes."""
    section = Section("Lesion characteristics")
    if why := context.unfit("binary"):
        section.skipped.append(f"Lesion characteristics: {why}.")
        return section
    section.text.append(
        "Each lesion was measured in image and mask in the terms of the BI-RADS lexicon, in true geometry. Distances "
        "between synthetic and real lesions of a class are in standard deviations of real ones, beside the distance "
        "that real lesions not used for training keep from the same train pictures (baseline)."
    )
    samples = {label: _samples(context, label) for label in context.sets.classes}
    _without(context, section)
    lines = _lines(context, section, samples)
    _tables(section, lines, samples)
    _farthest(section, lines)
    _specks(context, section)
    _class_differences(context, section, samples)
    section.figures += [_histograms(label, *samples[label]) for label in dict.fromkeys(line.label for line in lines)]
    found = context.features("lesions", _space, "synthetic")
    section.per_pair = {f"lesion_{name}": cells(found[:, i]) for i, name in enumerate(NAMES)}
    return section


def _space(_: Context, pairs: Pairs) -> np.ndarray:
    return descriptor_matrix(pairs.images, pairs.masks, pairs.aspects)


def _samples(context: Context, label: str) -> list[Sample]:
    """Train, held-out and synthetic lesions of a class."""
    return [context.sample("lesions", _space, which, label) for which in SETS]


def _without(context: Context, section: Section) -> None:
    """Say which pictures have no value."""
    for which in SETS:
        found, pairs = context.features("lesions", _space, which), getattr(context.sets, which)
        empty = ~pairs.masks.any(axis=(1, 2))
        if empty.any():
            reported = f"{empty.sum()} of {len(pairs)} {TITLES[which]} pairs have an empty mask"
            section.skipped.append(f"{reported}: only area and number of parts were measured of them.")
        lacking = (np.isnan(found) & ~empty[:, None]).sum(axis=0)
        counts = ((d.title, f"{n} of {len(pairs)}" if n else None) for d, n in zip(DESCRIPTORS, lacking, strict=True))
        section.skipped += [
            f"{titles[0].upper()}{titles[1:]}: not measured for {n} {TITLES[which]} lesions, which are too small or at "
            "the edge of the picture."
            for n, titles in together(counts).items()
        ]


def _lines(context: Context, section: Section, samples: dict[str, list[Sample]]) -> list[_Line]:
    """Every characteristic of every class that has enough pictures."""
    scale = spread(context.features("lesions", _space, "train"))  # of all classes: one unit for the whole table
    lines = []
    for label, sets in samples.items():
        if section.too_few(f"Lesions, {label}", context.counts(label), MIN_PICTURES):
            continue
        found = column_distances(sets, NAMES, scale, **context.resampling)
        reasons = together((d.title, missing(sets, i, scale)) for i, d in enumerate(DESCRIPTORS))
        section.skipped += [f"No distance for {label} lesions of {t}: {why}." for why, t in reasons.items()]
        for i, descriptor in enumerate(DESCRIPTORS):
            real, _, synthetic = (column(s, i) for s in sets)
            if min(len(real.features), len(synthetic.features)) < MIN_PICTURES:
                continue
            means = float(real.features.mean()), float(synthetic.features.mean())
            shift = (means[1] - means[0]) / max(float(scale[i]), 1e-9)
            p = same_distribution(real, synthetic)
            lines.append(_Line(label, descriptor, *means, shift, found.get(descriptor.name), p))
    for line, p in zip(lines, holm([line.p for line in lines]), strict=True):
        line.p = p
    return lines


def _tables(section: Section, lines: list[_Line], samples: dict[str, list[Sample]]) -> None:
    """A table and the numbers of every class."""
    columns = ["characteristic", "real mean", "synthetic mean", "distance", "baseline", "p"]
    note = (
        "distance: Wasserstein distance from real train lesions in standard deviations of all of them, with a 95 % "
        "bootstrap interval; baseline: that of held-out real lesions, in equal number. p: Kolmogorov-Smirnov test of "
        f"real train against synthetic lesions, one picture per group, corrected for {len(lines)} tests (Holm). With "
        "many pictures a small p only says that a difference is not chance; the distance says how large it is."
    )
    section.values["per_class"] = {}
    for label, own in itertools.groupby(lines, key=lambda line: line.label):
        of_class = list(own)
        counts = ", ".join(f"{len(s.features)} {t}" for s, t in zip(samples[label], TITLES.values(), strict=True))
        section.tables.append(Table(f"Lesions, {label} ({counts})", columns, [_row(x) for x in of_class], note))
        section.values["per_class"][label] = {line.descriptor.name: _values(line) for line in of_class}


def _row(line: _Line) -> list[Cell | Interval]:
    found = line.comparison
    distances = [found.synthetic, found.baseline] if found else [None, None]
    p = "< 0.001" if line.p < 0.001 else number(line.p)
    return [f"{line.descriptor.title} ({line.descriptor.unit})", line.real, line.synthetic, *distances, p]


def _values(line: _Line) -> dict[str, Any]:
    found = line.comparison
    return {
        "real_mean": line.real,
        "synthetic_mean": line.synthetic,
        "distance": found.synthetic.to_json() if found else None,
        "baseline": found.baseline.to_json() if found else None,
        "n": found.n if found else None,
        "ks_p_holm": line.p,
    }


def _farthest(section: Section, lines: list[_Line]) -> None:
    """Say in words which characteristics are farthest from real, the worse class of each."""
    beyond = [(e, x) for x in lines if x.comparison and (e := excess(x.comparison)) is not None]
    worst: dict[str, _Line] = {}
    for _, line in sorted(beyond, key=lambda found: -found[0]):
        worst.setdefault(line.descriptor.name, line)
    named = list(worst.values())[:NAMED]
    section.values["farthest"] = [{"class": x.label, "characteristic": x.descriptor.name} for x in named]
    if named:
        section.text.append("Farthest from real lesions: " + "; ".join(_words(line) for line in named) + ".")
    elif lines:
        section.text.append("No characteristic lies clearly farther from real train lesions than real lesions do.")


def _specks(context: Context, section: Section) -> None:
    """Say how many masks hold specks: a failing of masks that is no characteristic of lesions."""
    found = {which: context.features("lesions", _space, which)[:, NAMES.index("specks")] > 0 for which in SETS}
    shares = {which: float(has.mean()) for which, has in found.items() if len(has)}
    section.values["with_specks"] = shares
    reported = ", ".join(f"{share:.0%} of {TITLES[which]} ones" for which, share in shares.items())
    section.text.append(f"Masks that hold specks too small for a lesion: {reported}.")


def _words(line: _Line) -> str:
    found = line.comparison
    assert found is not None
    # where means explain less than half of the distance, distributions differ in width or form
    alike = abs(line.shift) < 0.5 * found.synthetic.value
    how = "spread differently" if alike else line.descriptor.more if line.shift > 0 else line.descriptor.less
    means = f"mean {number(line.synthetic)} against {number(line.real)}"
    sizes = f"distance {number(found.synthetic.value)}, baseline {number(found.baseline.value)}"
    return f"{line.descriptor.title} ({line.label}: {how} than real ones, {means}; {sizes})"


def _class_differences(context: Context, section: Section, samples: dict[str, list[Sample]]) -> None:
    """Whether every two classes differ among synthetic lesions as they do among real ones."""
    if len(samples) < 2:
        section.skipped.append("Differences between classes: one class alone was compared, two are needed.")
    section.values["class_difference"] = {}
    for first, second in itertools.combinations(samples, 2):
        rows: list[list[Cell | Interval]] = []
        reported: dict[str, Any] = {}
        for i, descriptor in enumerate(DESCRIPTORS):
            sides = [[column(samples[label][which], i) for label in (second, first)] for which in (0, 2)]
            if min(len(sample.features) for side in sides for sample in side) < MIN_PICTURES:
                continue
            real, synthetic = (difference_of_means(one, other, **context.resampling) for one, other in sides)
            outcome = preserved(real, synthetic)
            rows.append([f"{descriptor.title} ({descriptor.unit})", real, synthetic, outcome])
            reported[descriptor.name] = {"real": real.to_json(), "synthetic": synthetic.to_json(), "outcome": outcome}
        if not rows:
            section.skipped.append(f"Difference of {second} and {first}: fewer than {MIN_PICTURES} pictures of one.")
            continue
        title = f"Difference of means, {second} minus {first}"
        section.tables.append(Table(title, ["characteristic", "real train", "synthetic", "difference"], rows))
        section.values["class_difference"][f"{second} - {first}"] = reported
        section.text.append(_differences_in_words(first, second, reported))


def _differences_in_words(first: str, second: str, reported: dict[str, Any]) -> str:
    titles = {d.name: d.title for d in DESCRIPTORS}
    real = [name for name, t in reported.items() if t["outcome"] != "none in real"]
    if not real:
        return f"Real {first} and {second} lesions differ in none of the characteristics, as far as can be said."
    kept = sum(reported[name]["outcome"].startswith("kept") for name in real)
    by = {o: [titles[n] for n in real if reported[n]["outcome"] == o] for o in OUTCOMES}
    rest = "".join(f" {outcome[0].upper()}{outcome[1:]}: {', '.join(names)}." for outcome, names in by.items() if names)
    return (
        f"Real {second} and {first} lesions differ in {len(real)} characteristics; synthetic ones differ likewise in "
        f"{kept} of these.{rest}"
    )


def _histograms(label: str, train: Sample, held_out: Sample, synthetic: Sample) -> Figure:
    """Histograms of the main characteristics, real (train and held-out) against synthetic."""
    main = [(i, d) for i, d in enumerate(DESCRIPTORS) if d.main]
    plot = Plot(figsize=(10, 4.6), layout="constrained")
    for axes, (i, descriptor) in zip(plot.subplots(2, len(main) // 2).flat, main, strict=True):
        real = np.concatenate([column(train, i).features, column(held_out, i).features])
        other = column(synthetic, i).features
        axes.set_title(descriptor.title, fontsize=10)
        axes.set_xlabel(descriptor.unit, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        if not len(real) or not len(other):
            continue
        low, high = np.percentile(np.concatenate([real, other]), [0.5, 99.5])
        bins = np.linspace(low, high if high > low else low + 1, 25)
        for values, style in ((real, {"color": "0.7"}), (other, {"histtype": "step", "color": "C3", "linewidth": 1.6})):
            share = np.full(len(values), 1 / len(values))
            axes.hist(values.clip(bins[0], bins[-1]), bins, weights=share, **style)
    plot.suptitle(f"{label}: real (grey) and synthetic (red outline)", fontsize=11)
    return Figure(
        png(plot),
        f"Lesions, {label}: how often real (grey) and synthetic (red) lesions have a value.",
    )


METRIC = Metric("lesions", 40, run)
