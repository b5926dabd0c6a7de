"""Do synthetic pictures look like real ones, and are they as varied? Distances between sets in spaces of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.data.records import SampleSet
from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import SETS, TITLES, Context, Metric, Space
from medsegdiff.evaluation.drawing import png
from medsegdiff.evaluation.encoder import encoder_features, encoder_missing
from medsegdiff.evaluation.metrics.set_distances import MIN_PICTURES, compared, scores_compared
from medsegdiff.evaluation.perceptual import TITLE, perceptual_missing, perceptual_weights, principal_components
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, Verdict
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.perceptual.efficientnet import load_efficientnet
from medsegdiff.features.perceptual.inception import POOLED, inception_features, load_inception
from medsegdiff.features.radiomics import NAMES, radiomics, standardised, without_lesion
from medsegdiff.statistics.comparisons import Comparison, Sample
from medsegdiff.statistics.interval import Interval, number

SHOWING = 4  # purpose of random numbers
OPEN: Literal["too few pictures to decide"] = "too few pictures to decide"
ENOUGH = 100  # pictures on each side below which a wide baseline would let anything pass
FARTHEST, SHIFTED = 5, 0.5  # radiomic features that the text names, and standard deviations that make them worth it
COLOURS = {"train": "0.7", "held_out": "C0", "synthetic": "C3"}
FIGURES = {
    "frechet": "Fréchet distance",
    "kid": "kernel distance (KID)",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
DISTANCES = ("frechet", "kid")  # the smaller the better; all others the larger the better
NOTE = (
    "Fréchet and kernel distance: 0 for sets that cannot be distinguished, the smaller the better. Precision: share of "
    "pictures that lie among real train ones (realistic). Recall: share of real train pictures that lie among the "
    "others (varied). Density: precision that counts among how many. Coverage: share of real train pictures with one "
    "of the others nearby. Each is of n pictures against n real train ones; baseline: of held-out real pictures."
)


@dataclass(frozen=True)
class Kind:
    """A space of features."""

    title: str
    compute: Space
    names: dict[str, str]  # what its figures are called


def run(context: Context) -> Section:
    """Every figure in every space, overall and by class, each beside its baseline."""
    section = Section("How far from real pictures?")
    section.text.append(
        "Every picture was turned into a list of features, and the cloud of the synthetic pictures was compared with "
        "that of the real train pictures. The baseline is what as many real pictures, not used for training, reach. "
        "Distances above the baseline, and precision or coverage below it, mean pictures unlike real ones; recall "
        "below it means that kinds of real pictures are missing. Distances clearly below the baseline mean copies. "
        "Radiomic features see grey values and texture. Those of a network made for photographs see anatomy "
        "too: layers, edges, layout; nothing here was trained with them. Those of the segmenter see "
        "what is shown and where, and hardly texture: pictures without any detail may do well there."
    )
    found: dict[str, dict[str, dict[str, Comparison]]] = {}
    spaces = _spaces(context, section)
    for name, kind in spaces.items():
        found[name] = _compare(context, section, name, kind)
        if found[name]:
            section.tables.append(_table(kind, found[name]))
        if "all" in found[name]:
            section.text.append(_in_words(kind, found[name]["all"]))
    section.values["spaces"] = {
        name: {"features": spaces[name].title, **{subgroup: _values(c) for subgroup, c in subgroups.items()}}
        for name, subgroups in found.items()
    }
    if "inception" in spaces:
        _score(context, section)
    if "all" in found["radiomics"]:
        anatomy = found.get("perceptual", {}).get("all")
        section.verdict = verdict_of(found["radiomics"]["all"], anatomy, perceptual_missing(context.config))
    _farthest(context, section)
    if why := context.unfit("binary"):
        section.skipped.append(f"Radiomic features of the lesion: {why}; the same value stands for all of them.")
    for which in SETS if why is None else ():
        if lacking := without_lesion((pairs := getattr(context.sets, which)).masks):
            section.skipped.append(
                f"Radiomic features of the lesion in {lacking} of {len(pairs)} {TITLES[which]} pictures, whose mask is "
                "empty or too small; the mean of real train pictures stands for them."
            )
    shown = {name: kind for name, kind in spaces.items() if "all" in found[name]}
    section.figures += [_picture(context, name, kind, found[name]["all"]) for name, kind in shown.items()]
    return section


def verdict_of(texture: dict[str, Comparison], anatomy: dict[str, Comparison] | None, missing: str | None) -> Verdict:
    """By radiomic features, which every set has, and by those made for photographs: a pass needs both."""
    outcomes = {"grey values and texture": _outcome(texture["frechet"], "Fréchet radiomics distance")}
    if anatomy is not None:
        outcomes["anatomy"] = _outcome(anatomy["frechet"], "Fréchet distance on features made for photographs")
    sizes = "; ".join(f"{what}: {found}" for what, (_, found) in outcomes.items())
    for wrong, says in (
        ("far", "Synthetic pictures differ from real ones in {}"),
        ("copies", "Synthetic pictures are nearer to train than other real ones are, in {}: copies?"),
    ):
        if where := [what for what, (outcome, _) in outcomes.items() if outcome == wrong]:
            return Verdict("fail", f"{says.format(' and '.join(where))} ({sizes}).")
    if anatomy is None:
        why = missing or "too few pictures, or all alike"
        return Verdict("not judged", f"Anatomy was not judged: {why} ({sizes}).")
    alike = [what for what, (outcome, _) in outcomes.items() if outcome == "pass"]
    if len(alike) == len(outcomes):
        return Verdict(
            "pass", f"Synthetic pictures cannot be distinguished from real ones by {' or '.join(alike)} ({sizes})."
        )
    unclear = " and ".join(what for what in outcomes if what not in alike)
    return Verdict(OPEN, f"Whether synthetic pictures are as real ones is open for {unclear} ({sizes}).")


def _outcome(distance: Comparison, name: str) -> tuple[str, str]:
    """("pass", "far", "copies" or "open", figures in words) of the distance in one space."""
    own, baseline = distance.synthetic, distance.baseline
    size = f"{name} {own}; real pictures among themselves: {baseline}"
    if own.low > baseline.high:
        return "far", size
    if own.high < baseline.low:
        return "copies", size
    return "pass" if own.value <= baseline.high and distance.n >= ENOUGH else "open", size


def _spaces(context: Context, section: Section) -> dict[str, Kind]:
    """The spaces of features there are; why there is no other goes to `section.skipped`."""
    spaces = {"radiomics": Kind(f"{len(NAMES)} radiomic features of picture and lesion", radiomic_features, FIGURES)}
    if (why := perceptual_missing(context.config)) is None:
        size = context.features("perceptual", principal_components, "train").shape[1]
        spaces["perceptual"] = Kind(f"{size} principal components of the {TITLE}", principal_components, FIGURES)
        if not size:
            section.skipped.append(f"Distances on {TITLE}: all real train pictures have the same.")
            del spaces["perceptual"]
    else:
        section.skipped.append(f"Distances on {TITLE}, which see anatomy: {why}.")
    if (why := encoder_missing(context)) is None:
        size = context.features("encoder", encoder_features, "train").shape[1]
        title = f"{size} principal components of the features of the segmenter's encoder"
        spaces["encoder"] = Kind(title, encoder_features, FIGURES)
        if not size:
            section.skipped.append("Distances on features of the encoder: all real train pictures have the same.")
            del spaces["encoder"]
    else:
        section.skipped.append(f"Distances on features of the segmenter's encoder: {why}.")
    if context.config.inception_weights is None:
        section.skipped.append("FID, KID on Inception features and Inception score: need --inception_weights.")
    else:
        names = FIGURES | {"frechet": "FID", "kid": "KID"}
        spaces["inception"] = Kind("2048 features of Inception v3, made for photographs", _pooled, names)
    return spaces


def radiomic_features(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, F) radiomic features in standard deviations of real train pictures from their mean."""
    train = context.features("radiomics, own units", lambda _, real: radiomics(real.images, real.masks), "train")
    return standardised(train if pairs is context.sets.train else radiomics(pairs.images, pairs.masks), train)


def _inception(context: Context, pairs: Pairs) -> np.ndarray:
    weights = context.config.inception_weights
    assert weights is not None
    return inception_features(pairs.images, weights, choose_device(context.config.device))


def _pooled(context: Context, pairs: Any) -> np.ndarray:
    """The features of Inception without its logits; `_inception` is kept for either."""
    which = next(name for name in SETS if getattr(context.sets, name) is pairs)
    return context.features("inception, with logits", _inception, which)[:, :POOLED]


def _compare(context: Context, section: Section, name: str, kind: Kind) -> dict[str, dict[str, Comparison]]:
    """The figures of a space by subgroup; subgroups of too few pictures are reported in `section.skipped`."""
    result = {}
    for subgroup, label in context.subgroups().items():
        if section.too_few(f"Distances on {kind.title}, {subgroup}", context.counts(label), MIN_PICTURES):
            continue
        sets = [context.sample(name, kind.compute, which, label) for which in SETS]
        result[subgroup] = compared(sets, **context.resampling)
    return result


def _table(kind: Kind, found: dict[str, dict[str, Comparison]]) -> Table:
    rows: list[list[Cell | Interval]] = []
    for subgroup, figures in found.items():
        for name, c in figures.items():
            rows.append([subgroup, kind.names[name], c.synthetic, c.baseline, c.n, _ratio(name, c), _reading(name, c)])
    columns = ["pictures", "figure", "synthetic", "baseline", "n", "synthetic / baseline", "reads as"]
    return Table(f"On {kind.title}", columns, rows, NOTE)


def _ratio(name: str, c: Comparison) -> float | None:
    """None for KID, whose baseline is about 0 and may be below, and where the baseline is 0."""
    return c.synthetic.value / c.baseline.value if name != "kid" and c.baseline.value > 1e-9 else None


def _reading(name: str, c: Comparison) -> str:
    """Whether the intervals of figure and baseline are apart, in words."""
    lower, higher = c.synthetic.high < c.baseline.low, c.synthetic.low > c.baseline.high
    if not (lower or higher):
        return "no clear difference from real pictures"
    if name in DISTANCES:
        return "farther than real pictures" if higher else "nearer than real pictures: copies?"
    return "higher than real pictures" if higher else "lower than real pictures"


def _values(found: dict[str, Comparison]) -> dict[str, Any]:
    return {
        name: {
            "synthetic": c.synthetic.to_json(),
            "baseline": c.baseline.to_json(),
            "n": c.n,
            "reading": _reading(name, c),
        }
        for name, c in found.items()
    }


def _in_words(kind: Kind, found: dict[str, Comparison]) -> str:
    c = found["frechet"]
    ratio = _ratio("frechet", c)
    times = f", {number(ratio)} times the baseline" if ratio is not None else ""
    low = [kind.names[n] for n in FIGURES if n not in DISTANCES and _reading(n, found[n]).startswith("lower")]
    rest = f" Lower than of real pictures: {', '.join(low)}." if low else ""
    name = kind.names["frechet"]
    return f"On {kind.title}: {name} {c.synthetic}, baseline {c.baseline}{times} ({_reading('frechet', c)}).{rest}"


def _score(context: Context, section: Section) -> None:
    """Inception score, by subgroup."""
    rows: list[list[Cell | Interval]] = []
    values = {}
    for subgroup, label in context.subgroups().items():
        sets = [_probabilities(context.sample("inception, with logits", _inception, s, label)) for s in SETS]
        if min(len(s.features) for s in sets) < MIN_PICTURES:
            continue  # reported with the distances
        c = scores_compared(sets, **context.resampling)
        rows.append([subgroup, c.synthetic, c.baseline, c.n])
        values[subgroup] = {"synthetic": c.synthetic.to_json(), "baseline": c.baseline.to_json(), "n": c.n}
    section.values["inception_score"] = values
    if rows:
        note = (
            "Logits of Inception v3. The score is high where pictures are sorted clearly into many of the thousand "
            "classes of everyday photographs. Ultrasound pictures belong to none of them: nearness to the score of "
            "real pictures counts here, not height."
        )
        columns = ["pictures", "synthetic", "real held-out", "n"]
        section.tables.append(Table("Inception score", columns, rows, note))


def _probabilities(sample: Sample) -> Sample:
    """(N, 1008) class probabilities."""
    logits = sample.features[:, POOLED:]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Sample(exponentials / exponentials.sum(axis=1, keepdims=True), sample.groups)


def _farthest(context: Context, section: Section) -> None:
    """Say which radiomic features are off on average, and in which direction."""
    shift = context.features("radiomics", radiomic_features, "synthetic").mean(axis=0)
    baseline = context.features("radiomics", radiomic_features, "held_out").mean(axis=0)
    order = np.argsort(-abs(shift), kind="stable")[:FARTHEST]
    section.values["radiomic_shift"] = {
        NAMES[i]: {"synthetic": float(shift[i]), "held_out": float(baseline[i])} for i in order
    }
    words = [
        f"{NAMES[i]} ({abs(shift[i]):.1f} standard deviations {'higher' if shift[i] > 0 else 'lower'}; held-out real "
        f"pictures {baseline[i]:+.1f})"
        for i in order
        if abs(shift[i]) >= max(SHIFTED, 2 * abs(baseline[i]))
    ]
    if words:
        section.text.append(f"Radiomic features that are farthest off on average: {'; '.join(words)}.")
    elif len(context.sets.synthetic):
        section.text.append(f"No radiomic feature is off by {SHIFTED} standard deviations on average.")


def _picture(context: Context, name: str, kind: Kind, found: dict[str, Comparison]) -> Figure:
    """Left the clouds on two principal axes of real train pictures, right precision to coverage."""
    clouds = {which: context.features(name, kind.compute, which) for which in SETS}
    axes, few = _axes(name, clouds["train"]), min(map(len, clouds.values()))
    random = np.random.default_rng([context.config.seed, SHOWING])
    plot = Plot(figsize=(9, 4), layout="constrained")
    left, right = plot.subplots(1, 2, width_ratios=[1.2, 1])
    for which, features in clouds.items():
        at = features[random.permutation(len(features))[:few]] @ axes  # as many of each, so that none hides others
        left.scatter(at[:, 0], at[:, 1], s=9, alpha=0.6, linewidths=0, color=COLOURS[which], label=TITLES[which])
    left.set_xlabel("first principal axis of real train pictures")
    left.set_ylabel("second")
    left.legend(frameon=False, fontsize=8)
    _bars(right, {FIGURES[n]: c for n, c in found.items() if n not in DISTANCES})
    caption = (
        f"{kind.title[0].upper()}{kind.title[1:]}. Left: as many pictures of each set as points; synthetic ones "
        "should lie where real ones do, and spread as far. Right: figures of the synthetic set (red) "
        "beside those of real held-out pictures (blue), with their intervals."
    )
    return Figure(png(plot), caption)


def _axes(name: str, train: np.ndarray) -> np.ndarray:
    """(F, 2) the two principal axes of the features of train."""
    size = train.shape[1]
    if name in ("encoder", "perceptual"):  # principal components, most spread first: the first two it is
        return np.eye(size, 2)
    _, _, ways = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    return np.asarray(ways[:2].T)


def _bars(axes: Any, found: dict[str, Comparison]) -> None:
    """Figures with their intervals, synthetic beside baseline."""
    sides: Sequence[tuple[str, float]] = (("synthetic", 0.12), ("held_out", -0.12))
    for row, c in enumerate(reversed(found.values())):
        for (which, offset), i in zip(sides, (c.synthetic, c.baseline), strict=True):
            axes.plot([i.low, i.high], [row + offset] * 2, color=COLOURS[which], linewidth=2)
            axes.plot([i.value], [row + offset], "o", color=COLOURS[which])
    axes.set_yticks(range(len(found)), list(reversed(found)))
    axes.set_ylim(-0.5, len(found) - 0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)


def _check(config: EvaluateConfig, _: SampleSet) -> None:
    if (weights := perceptual_weights(config)) is not None:
        load_efficientnet(weights)
    if config.inception_weights is not None:
        load_inception(config.inception_weights)


METRIC = Metric("distances", 10, run, _check)
