"""Is the grain of synthetic pictures that of real ones?"""

from __future__ import annotations

from collections.abc import Mapping
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
    spread,
    together,
)
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, cells
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.speckle import BANDS, FEATURES, NAMES, speckle_matrix
from medsegdiff.statistics.comparisons import Comparison, Sample, against_baseline, difference_of_means
from medsegdiff.statistics.interval import Interval, number

NAMED = 3  # features that the text names as the farthest off
FINE = NAMES.index("fine")
SEEN = 1.0  # dB: a smaller difference of the finest third is not reported in words


def run(context: Context) -> Section:
    """Envelope, grain size and spectrum, each beside its baseline, overall and per class."""
    section = Section("Speckle")
    if why := context.unfit("grey", "binary"):
        section.skipped.append(f"Speckle: {why}.")
        return section
    section.text.append(
        "Speckle, the grain of an ultrasound picture, was measured in tissue outside of the lesion. Distances are in "
        "standard deviations of real train pictures, beside the distance that real pictures not used for training "
        "keep from them (baseline); the spectra's distance is in dB."
    )
    scale = spread(context.features("speckle", _space, "train"))
    section.values["subgroups"] = {}
    for subgroup, label in context.subgroups().items():
        if section.too_few(f"Speckle, {subgroup}", context.counts(label), MIN_PICTURES):
            continue
        sets = [context.sample("speckle", _space, which, label) for which in SETS]
        _subgroup(context, section, subgroup, sets, scale)
        if label is None:
            _fine(context, section, sets)
            section.figures += _spectra(sets)
    _without(context, section)
    found = context.features("speckle", _space, "synthetic")
    section.per_pair = {f"speckle_{name}": cells(found[:, i]) for i, name in enumerate(NAMES)}
    return section


def _space(_: Context, pairs: Pairs) -> np.ndarray:
    return speckle_matrix(pairs.images, pairs.masks, pairs.aspects)


def _without(context: Context, section: Section) -> None:
    """Say which pictures have no value."""
    for which in SETS:
        found = context.features("speckle", _space, which)
        lacking = np.isnan(found).sum(axis=0)[: len(FEATURES)]
        counts = ((f.title, f"{n} of {len(found)}" if n else None) for f, n in zip(FEATURES, lacking, strict=True))
        section.skipped += [
            f"{titles[0].upper()}{titles[1:]}: not measured in {n} {TITLES[which]} pictures, which show too little of "
            "that tissue, or nothing that varies."
            for n, titles in together(counts).items()
        ]


def _subgroup(context: Context, section: Section, subgroup: str, sets: list[Sample], scale: np.ndarray) -> None:
    """The table of all pictures, or of those of a class."""
    found = column_distances(sets, NAMES, scale, **context.resampling)
    rows: list[list[Cell | Interval]] = []
    values: dict[str, Any] = {}
    reasons = together((f.title, missing(sets, i, scale)) for i, f in enumerate(FEATURES))
    section.skipped += [f"Not compared, {subgroup}: {titles} ({why})." for why, titles in reasons.items()]
    for i, feature in enumerate(FEATURES):
        if feature.name not in found:
            continue
        real, _, synthetic = (float(column(s, i).features.mean()) for s in sets)
        rows.append([f"{feature.title} ({feature.unit})", real, synthetic, *_cells_of(found[feature.name])])
        values[feature.name] = {"real_mean": real, "synthetic_mean": synthetic, **_values(found[feature.name])}
    if (distance := _spectral_distance(sets, context.resampling)) is not None:
        rows.append(["distance of the mean spectra (dB)", None, None, *_cells_of(distance)])
        values["log_spectral_distance"] = _values(distance)
    else:
        section.skipped.append(f"Distance of spectra, {subgroup}: fewer than {MIN_PICTURES} pictures have one.")
    section.values["subgroups"][subgroup] = values
    if rows:
        counts = ", ".join(f"{len(s.features)} {title}" for s, title in zip(sets, TITLES.values(), strict=True))
        columns = ["feature", "real mean", "synthetic mean", "distance", "baseline"]
        section.tables.append(Table(f"Speckle, {subgroup} ({counts})", columns, rows, NOTE))
    if subgroup == "all":
        _farthest(section, found, values)


NOTE = (
    "distance: Wasserstein distance from real train pictures in their standard deviations, with a 95 % bootstrap "
    "interval; of the spectra: root mean square difference of log power over frequencies. baseline: that of held-out "
    "real pictures, in equal number. Features of grey values are of the log-compressed picture as it is."
)


def _cells_of(found: Comparison) -> list[Interval]:
    return [found.synthetic, found.baseline]


def _values(found: Comparison) -> dict[str, Any]:
    return {"distance": found.synthetic.to_json(), "baseline": found.baseline.to_json(), "n": found.n}


def _spectral_distance(sets: list[Sample], bootstrap: Mapping[str, int]) -> Comparison | None:
    """Distance of mean log spectra (Gray and Markel, IEEE Trans. ASSP 24(5), 1976, eq. 6), in dB, beside its
    baseline."""
    bands = [_bands(s) for s in sets]
    if min(len(s.features) for s in bands) < MIN_PICTURES:
        return None

    def measure(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        return {"spectra": float(np.sqrt(np.mean((first.mean(axis=0) - second.mean(axis=0)) ** 2)))}

    return against_baseline(measure, bands[0], bands[1], bands[2], **bootstrap)["spectra"].within(0, np.inf)


def _bands(sample: Sample) -> Sample:
    """The (K, BANDS) spectra of the pictures that have one."""
    bands = sample.features[:, -BANDS:]
    has = ~np.isnan(bands).any(axis=1)
    return Sample(bands[has], sample.groups[has])


def _fine(context: Context, section: Section, sets: list[Sample]) -> None:
    """Say whether synthetic pictures are smoother or rougher than real ones."""
    train, held_out, synthetic = (column(s, FINE) for s in sets)
    if min(len(s.features) for s in (train, held_out, synthetic)) < MIN_PICTURES:
        return
    found = difference_of_means(synthetic, train, **context.resampling)
    baseline = difference_of_means(held_out, train, **context.resampling)
    section.values["fine_db"] = {"synthetic": found.to_json(), "held_out": baseline.to_json()}
    sizes = (
        f"{found.value:+.1f} dB [{found.low:+.1f}, {found.high:+.1f}] at the finest third of frequencies (held-out "
        f"real pictures: {baseline.value:+.1f} dB [{baseline.low:+.1f}, {baseline.high:+.1f}])"
    )
    if abs(found.value) < SEEN or found.low <= 0 <= found.high:
        section.text.append(f"Synthetic pictures are neither smoother nor rougher than real ones: {sizes}.")
    else:
        smoother = "smoother" if found.value < 0 else "rougher"
        section.text.append(f"Synthetic pictures are {smoother} than real ones: {sizes}.")


def _farthest(section: Section, found: Mapping[str, Comparison], values: dict[str, Any]) -> None:
    """Say in words which features are farthest from real."""
    beyond = {name: e for name, c in found.items() if (e := excess(c)) is not None}
    named = sorted(beyond, key=lambda name: -beyond[name])[:NAMED]
    titles = {f.name: f.title for f in FEATURES}
    section.values["farthest"] = named
    words = [
        f"{titles[n]} (mean {number(values[n]['synthetic_mean'])} against {number(values[n]['real_mean'])}; distance "
        f"{number(found[n].synthetic.value)}, baseline {number(found[n].baseline.value)})"
        for n in named
    ]
    if words:
        section.text.append(f"Farthest from real speckle: {'; '.join(words)}.")
    elif found:
        section.text.append("No feature of speckle lies clearly farther from real train pictures than real ones do.")


def _spectra(sets: list[Sample]) -> list[Figure]:
    """Mean radial power spectra, and the band that holds 90 % of pictures."""
    bands = [_bands(s).features for s in sets]
    if not all(map(len, bands)):
        return []
    plot = Plot(figsize=(7, 4.2), layout="constrained")
    axes = plot.subplots()
    frequency = 100 * (np.arange(BANDS) + 0.5) / BANDS
    for values, title, colour, line in zip(bands, TITLES.values(), ("0.3", "0.3", "C3"), "-:-", strict=True):
        axes.plot(frequency, values.mean(axis=0), line, color=colour, label=title)
        if line == "-":
            axes.fill_between(frequency, *np.percentile(values, [5, 95], axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("radial frequency, per cent of the highest (fine detail to the right)")
    axes.set_ylabel("power, dB above one squared grey level")
    axes.set_xlim(0, 100)
    axes.legend(frameon=False)
    caption = (
        "Mean power of tissue outside of the lesion by frequency, with the bands that hold 90 % of pictures: a red "
        "line below the grey ones to the right means synthetic pictures that are too smooth."
    )
    return [Figure(png(plot), caption)]


METRIC = Metric("speckle", 30, run)
