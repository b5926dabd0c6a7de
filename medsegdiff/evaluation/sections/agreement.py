"""Are synthetic pairs true to their masks and classes, in the eyes of networks trained on real pairs?"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.data.pictures import draw_classes, draw_outline
from medsegdiff.evaluation.context import Context, Metric
from medsegdiff.evaluation.drawing import outline, png, show
from medsegdiff.evaluation.reference_models.predictions import class_probabilities, found_masks, mask_agreement
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, Verdict
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.bootstrap import mean_interval, statistic_interval
from medsegdiff.statistics.comparisons import Sample, difference_of_means
from medsegdiff.statistics.interval import Interval, number
from medsegdiff.statistics.roc import macro_auc

MARGIN = 0.05  # Dice by which synthetic pairs may agree less than real ones
SIDES = ("synthetic", "held_out")
SHOWN = 8  # pairs in the picture of the least agreement
MINIMUM = 5  # pictures of a part, below which no figure is reported


def run(context: Context) -> Section:
    """Agreement of masks and of classes, each beside that of held-out real pairs."""
    section = Section("True to mask and class?")
    _masks(context, section)
    _classes(context, section)
    return section


def _masks(context: Context, section: Section) -> None:
    reference_model, sets = context.reference_models.segmenter, context.sets
    if reference_model is None or not reference_model.trusted:
        section.skipped.append(
            reference_model.withheld() if reference_model else context.reference_models.missing["segmenter"]
        )
        return
    found = {
        name: found_masks(reference_model.model, reference_model.settings, pairs, context.config)
        for name, pairs in _sides(context)
    }
    dice = {name: mask_agreement(found[name], pairs) for name, pairs in _sides(context)}
    rows: list[list[Cell | Interval]] = []
    values: dict[str, Any] = {}
    for subgroup, label in context.subgroups().items():
        if section.too_few(f"Agreement of masks, {subgroup}", context.counts(label, SIDES), MINIMUM):
            continue
        parts = {name: pairs.of(label) for name, pairs in _sides(context)}
        reported = {
            name: _mean(context, dice[name][parts[name]], pairs, parts[name]) for name, pairs in _sides(context)
        }
        samples = [Sample(dice[name][parts[name]], pairs.groups[parts[name]]) for name, pairs in _sides(context)]
        reported["difference"] = difference_of_means(samples[0], samples[1], **context.resampling)
        rows.append([subgroup, len(parts["synthetic"]), *reported.values()])
        values[subgroup] = {name: interval.to_json() for name, interval in reported.items()}
    what = "the lesion" if sets.synthetic.spec.is_binary else "every class of the masks (Dice is the mean over them)"
    section.text.append(
        f"A network trained on real pairs alone outlined {what} in every synthetic image. Where its outline differs "
        "from the synthetic mask, either the image does not show what the mask says, or it shows something unlike "
        "what the network learnt. Its agreement with radiologists on real images it has not seen stands beside."
    )
    columns = ["pairs", "synthetic pairs", "Dice, synthetic", "Dice, held-out real", "difference"]
    section.tables.append(Table("Dice of the outline found with the mask", columns, rows))
    section.values["masks"] = values
    section.per_pair["agreement_dice"] = [round(float(v), 4) for v in dice["synthetic"]]
    section.figures.append(_least(sets.synthetic, found["synthetic"], dice["synthetic"]))
    if "all" in values:
        section.verdict = _verdict(values["all"])


def _verdict(reported: dict[str, Any]) -> Verdict:
    low, high = reported["difference"]["low"], reported["difference"]["high"]
    size = f"{number(reported['synthetic']['value'])} against {number(reported['held_out']['value'])} Dice"
    if low >= -MARGIN:
        return Verdict("pass", f"Masks fit their images as well as real ones do ({size}; at most {MARGIN} lower).")
    if high < -MARGIN:
        return Verdict("fail", f"Masks fit their images worse than real ones do ({size}; more than {MARGIN} lower).")
    return Verdict(
        "too few pictures to decide", f"Whether masks fit within {MARGIN} Dice of real ones is open ({size})."
    )


def _classes(context: Context, section: Section) -> None:
    reference_model = context.reference_models.classifier
    if reference_model is None or not reference_model.trusted:
        section.skipped.append(
            reference_model.withheld() if reference_model else context.reference_models.missing["classifier"]
        )
        return
    names: list[str] = reference_model.settings["classes"]
    few = [
        label
        for label in context.sets.classes
        if section.too_few(f"Agreement of classes, {label}", context.counts(label, SIDES), MINIMUM)
    ]
    if few and len(context.sets.classes) > 1:
        section.skipped.append(f"AUC of the classes: at least {MINIMUM} pictures of every class on both sides needed.")
    rows: list[list[Cell | Interval]] = []
    values: dict[str, Any] = {}
    for side, pairs in _sides(context):
        probability = class_probabilities(reference_model.model, reference_model.settings, pairs, context.config)
        labels = np.array([names.index(label) for label in pairs.labels])
        reported = _classification(context, probability, labels, pairs, few)
        if reported:
            values[side] = {name: interval.to_json() for name, interval in reported.items()}
            rows.append([side.replace("_", "-"), len(pairs), *reported.values()])
        if side == "synthetic":
            own = probability[np.arange(len(labels)), labels]
            section.per_pair["class_probability"] = [round(float(v), 4) for v in own]
    section.values["classes"] = values
    if not rows:
        return
    section.text.append(
        "A classifier trained on real images predicted the class of every synthetic image. Much lower figures than on "
        "real images mean that the classes look alike; much higher ones, that they are caricatures."
    )
    columns = ["images", "number", *values["synthetic"]]
    section.tables.append(Table("Class predicted by a classifier", columns, rows))


def _classification(
    context: Context, probability: np.ndarray, labels: np.ndarray, pairs: Pairs, few: list[str]
) -> dict[str, Interval]:
    """AUC, where there are two classes and none is among the `few`, and the share of every other class classified
    right."""

    def auc(rows: np.ndarray) -> float:
        return macro_auc(probability[rows], labels[rows])

    reported = {}
    if len(context.sets.classes) > 1 and not few:
        reported["AUC"] = statistic_interval(auc, pairs.groups, **context.resampling)
    right = (probability.argmax(axis=1) == labels).astype(float)
    for label in (label for label in context.sets.classes if label not in few):
        reported[f"{label} classified as {label}"] = _mean(context, right[pairs.of(label)], pairs, pairs.of(label))
    return reported


def _sides(context: Context) -> list[tuple[str, Pairs]]:
    return [(name, getattr(context.sets, name)) for name in SIDES]


def _mean(context: Context, values: np.ndarray, pairs: Pairs, rows: np.ndarray) -> Interval:
    return mean_interval(values, pairs.groups[rows], **context.resampling)


def _least(pairs: Pairs, found: np.ndarray, dice: np.ndarray) -> Figure:
    """The pairs of the least agreement: the synthetic mask in green, what the network found in red."""
    order = np.argsort(dice, kind="stable")[:SHOWN]
    plot = Plot(figsize=(2.2 * len(order), 2.6), layout="constrained")
    for cell, i in zip(plot.subplots(1, len(order), squeeze=False)[0], order, strict=True):
        show(cell, pairs.pictures[i], pairs.pixels[i])
        outline(cell, pairs, i)
        if pairs.spec.is_binary:
            draw_outline(cell, found[i], "red")
        else:
            draw_classes(cell, found[i], "dotted")
        cell.set_title(f"{pairs.records[i].id}\nDice {dice[i]:.2f}", fontsize=7)
    what = "their mask in green, the network's outline in red"
    if not pairs.spec.is_binary:
        what = "outlines of their classes solid, those that the network found dotted"
    return Figure(png(plot), f"The {len(order)} synthetic pairs of the least agreement: {what}.")


METRIC = Metric("agreement", 50, run)
