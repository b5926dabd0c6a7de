"""Images sampled for real masks against the real images of these masks, pixel by pixel."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import Context, Metric
from medsegdiff.evaluation.drawing import outline, png, show
from medsegdiff.evaluation.metrics.similarity import psnr, rmse, ssim
from medsegdiff.evaluation.section import Cell, Figure, Section, Table
from medsegdiff.evaluation.sets import Pairs, load_pairs
from medsegdiff.features.perceptual.lpips import load_lpips, lpips
from medsegdiff.statistics.bootstrap import mean_interval
from medsegdiff.statistics.interval import Interval

MIN_PAIRS = 10  # of a subgroup
SHOWN = 6
PARTNERS = 5  # purpose of random numbers
SAMPLED = re.compile(r"syn_(?P<id>.+)_\d+")  # id of a pair that was sampled for a mask (`synthesis.plan.plan_images`)
FIGURES = {"ssim": "SSIM", "psnr": "PSNR (dB)", "rmse": "RMSE (grey levels)", "lpips": "LPIPS (AlexNet)"}


@dataclass(frozen=True)
class Matched:
    """Synthetic pairs and the real ones of whose masks they were sampled; row i of one belongs to row i of the
    other."""

    rows: np.ndarray  # (N,) rows in the synthetic set
    synthetic: Pairs
    real: Pairs


def run(context: Context) -> Section | None:
    """SSIM, PSNR, RMSE and LPIPS beside those of another real image of the class; None for other sets."""
    matched = match(context)
    if matched is None:
        return None
    section = Section("Images sampled for real masks, against the real images")
    section.text.append(
        "Every image was sampled for the mask of a real picture, and is compared here with that picture. Beside it "
        "stands another real picture of the same class. A mask leaves much of a picture open, so such figures are no "
        "measure of quality: they are highest for a model that copies its train pictures. Far better figures for masks "
        "of train pictures than for masks of held-out ones are a sign of that."
    )
    if rest := len(context.sets.synthetic) - len(matched.rows):
        section.skipped.append(f"{rest} of {len(context.sets.synthetic)} pairs: their masks are not of the real set.")
    partners, alone = _partners(context, matched)
    own = _measured(context, section, matched.synthetic.images, matched.real.images)
    other = _measured(context, None, partners, matched.real.images)
    if alone.any():
        section.skipped.append(f"Baseline of {alone.sum()} pairs: the real set has no other picture of their class.")
        other = {name: np.where(alone, np.nan, values) for name, values in other.items()}
    _table(context, section, matched, own, other)
    for name, values in own.items():
        column: list[Cell] = [None] * len(context.sets.synthetic)
        for row, value in zip(matched.rows, values, strict=True):
            column[row] = None if np.isnan(value) else float(f"{value:.5g}")
        section.per_pair[f"paired_{name}"] = column
    if context.config.real_pictures:
        section.figures.append(_nearest(matched, own["ssim"]))
    return section


def match(context: Context) -> Matched | None:
    """The synthetic pairs that were sampled for masks of the real set (mode mask_to_image); None where there is none.

    Such a pair says what it is derived from (in schema 1: in its id), and has the group of the real pair; that of a
    mask without a data set is made from the mask's content (`synthesis.inputs`).
    """
    known = {(r.id, r.group): r for r in context.real.records}
    by_mask = {f"m{r.mask_hash[:12]}": r for r in context.real.records}
    found: dict[int, SampleRecord] = {}
    for row, record in enumerate(context.sets.synthetic.records):
        name = SAMPLED.fullmatch(record.id)
        mask = record.derived_from or (name["id"] if name else "")
        real = known.get((mask, record.group)) or (by_mask.get(record.group) if mask else None)
        if real is not None:
            found[row] = real
    if not found:
        return None
    rows = np.array(list(found))
    return Matched(rows, context.sets.synthetic.rows(rows), _load(context, list(found.values())))


def _load(context: Context, records: list[SampleRecord]) -> Pairs:
    """The pairs of these records, which may repeat."""
    unique = {r.id: r for r in records}
    loaded = load_pairs(
        dataclasses.replace(context.real, records=tuple(unique.values())), context.sets.img_size, "masks sampled for"
    )
    number = {name: i for i, name in enumerate(unique)}
    return loaded.rows([number[r.id] for r in records])


def _partners(context: Context, matched: Matched) -> tuple[np.ndarray, np.ndarray]:
    """(N, S, S) for every pair another real image of its class, of another group; and (N,) whether there is none."""
    random = np.random.default_rng([context.config.seed, PARTNERS])
    real = [context.sets.train, context.sets.held_out]
    images, labels, groups = (
        np.concatenate([getattr(p, field) for p in real]) for field in ("images", "labels", "groups")
    )
    found, alone = np.zeros_like(matched.real.images), np.zeros(len(matched.rows), dtype=bool)
    for i, (label, group) in enumerate(zip(matched.synthetic.labels, matched.real.groups, strict=True)):
        candidates = np.flatnonzero((labels == label) & (groups != group))
        alone[i] = not len(candidates)
        if len(candidates):
            found[i] = images[random.choice(candidates)]
    return found, alone


def _measured(
    context: Context, section: Section | None, first: np.ndarray, second: np.ndarray
) -> dict[str, np.ndarray]:
    """(N,) of every figure for (N, S, S) uint8 pictures; NaN for the PSNR of equal ones. What is lacking is
    reported."""
    found = {"ssim": ssim(first, second), "psnr": psnr(first, second), "rmse": rmse(first, second)}
    if section is not None and np.isnan(found["psnr"]).any():
        section.skipped.append(f"PSNR of {np.isnan(found['psnr']).sum()} images that equal the real one to the pixel.")
    if (weights := context.config.lpips_weights) is not None:
        found["lpips"] = lpips(first, second, weights, choose_device(context.config.device))
    elif section is not None:
        section.skipped.append("LPIPS: needs --lpips_weights.")
    return found


def _table(
    context: Context, section: Section, matched: Matched, own: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> None:
    """All figures overall, by class, and by whether the generator learnt the picture of the mask."""
    rows: list[list[Cell | Interval]] = []
    values: dict[str, Any] = {}
    for subgroup, chosen in _subgroups(context, matched).items():
        if (count := int(chosen.sum())) < MIN_PAIRS:
            section.skipped.append(f"Figures of {subgroup}: {count} pairs, at least {MIN_PAIRS} needed.")
            continue
        values[subgroup] = {"pairs": count}
        for name in own:
            sides = {
                side: _mean(context, found[name], chosen, matched)
                for side, found in (("synthetic", own), ("baseline", other))
            }
            rows.append([subgroup, FIGURES[name], *sides.values(), count])
            values[subgroup][name] = {side: i.to_json() if i else None for side, i in sides.items()}
    section.values["subgroups"] = values
    if rows:
        columns = ["pairs", "figure", "synthetic against real", "another real one against real (baseline)", "n"]
        note = (
            "SSIM (1 for equal pictures) and PSNR are the higher the more alike two pictures are; RMSE and LPIPS, "
            "which is made for photographs, the lower. Speckle alone keeps all of them far from equal pictures."
        )
        section.tables.append(Table("Similarity to the real image of the mask", columns, rows, note))


def _subgroups(context: Context, matched: Matched) -> dict[str, np.ndarray]:
    """(N,) truth values by what is distinguished."""
    everything = np.ones(len(matched.rows), dtype=bool)
    learnt = np.array([r.split == "train" for r in matched.real.records])
    subgroups = {
        subgroup: everything if label is None else matched.synthetic.labels == label
        for subgroup, label in context.subgroups().items()
    }
    if learnt.any() and not learnt.all():
        subgroups |= {"masks of train pictures": learnt, "masks of held-out pictures": ~learnt}
    return subgroups


def _mean(context: Context, values: np.ndarray, chosen: np.ndarray, matched: Matched) -> Interval | None:
    """The mean over chosen pairs that have a value, with an interval over groups of real pictures."""
    rows = np.flatnonzero(chosen & ~np.isnan(values))
    if not len(rows):
        return None
    return mean_interval(values[rows], matched.real.groups[rows], **context.resampling)


def _nearest(matched: Matched, ssim: np.ndarray) -> Figure:
    """The images that are most like the real ones of their masks."""
    order = np.argsort(-ssim, kind="stable")[:SHOWN]
    plot = Plot(figsize=(2.2 * len(order), 4.2), layout="constrained")
    for column, i in zip(plot.subplots(2, len(order), squeeze=False).T, order, strict=True):
        for axes, pairs in zip(column, (matched.synthetic, matched.real), strict=True):
            show(axes, pairs.pictures[i], pairs.pixels[i])
            outline(axes, pairs, i, 0.8)
        name = matched.synthetic.records[i].id
        column[0].set_title(f"{name}\nSSIM {ssim[i]:.2f}", fontsize=7)
    what = "above the synthetic image, below the real one of its mask (green)"
    return Figure(png(plot), f"The {len(order)} images that are most like the real ones: {what}.")


def _check(config: EvaluateConfig, _: SampleSet) -> None:
    if config.lpips_weights is not None:
        load_lpips(config.lpips_weights)


METRIC = Metric("paired", 20, run, _check)
