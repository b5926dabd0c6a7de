"""Privacy: are synthetic pictures copies of the patients that the generator learnt?"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.engine.device import choose_device
from medsegdiff.evaluation.context import Context, Metric
from medsegdiff.evaluation.drawing import png, show
from medsegdiff.evaluation.perceptual import (
    TITLE,
    perceptual_missing,
    perceptual_similarity,
)
from medsegdiff.evaluation.privacy.audit import Audit, Similarity, audit
from medsegdiff.evaluation.privacy.copying import similarity
from medsegdiff.evaluation.privacy.decision import decide, is_usable, missed_kinds, outcome
from medsegdiff.evaluation.privacy.embedding import CrossEmbedding, similarities
from medsegdiff.evaluation.privacy.leaks import Leaks, find_leaks
from medsegdiff.evaluation.privacy.learnt import Learnt, compare_learnt
from medsegdiff.evaluation.privacy.membership import check_checkpoint, made_by_another, membership
from medsegdiff.evaluation.privacy.planted import KINDS
from medsegdiff.evaluation.privacy.rules import CURRENT, VERSIONS, AuditRules
from medsegdiff.evaluation.section import Cell, Figure, Section, Table, Verdict
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.interval import Interval, json_fields, number

SHOWN = 10  # nearest pairs in the figure
EMBEDDING, DETAIL, PERCEPTUAL = "embedding", "fine detail", "perceptual features"


def run(context: Context) -> Section:
    """Copies by content, nearest neighbours with planted controls, membership where there is a checkpoint."""
    section = Section("Privacy: are patients copied?")
    section.text.append(
        "Every synthetic image was compared with the real images that the generator learnt (train) and with real "
        "images that it did not (held-out). A generator that copies makes images that lie nearer to train."
    )
    leaks = find_leaks(context.sets, context.real.records)
    learnt = compare_learnt(context.synthetic.info, context.sets.train.records)
    _report_leaks(section, context, leaks)
    _report_sides(section, context, leaks, learnt)
    audits = _audits(section, context, CURRENT)
    if audits:
        _report_statistics(section, audits)
        _report_controls(section, audits)
        _report_pairs(section, context, audits)
    section.verdict = _decide(section, context, leaks, audits, learnt)
    if context.checkpoint is not None:
        _report_membership(section, context)
    return section


def _audits(section: Section, context: Context, rules: AuditRules) -> dict[str, Audit]:
    """What each measure that is usable says, by name, in one version of the audit."""
    sets = context.sets
    needed = {
        "synthetic": (sets.synthetic, rules.fewest_synthetic),
        "train": (sets.train, rules.fewest_real),
        "held-out": (sets.held_out, rules.fewest_real),
    }
    counts = [(len(pairs), name, fewest) for name, (pairs, fewest) in needed.items()]
    counts += [(len(np.unique(p.groups)), f"groups of {name}", rules.fewest_groups) for name, (p, _) in needed.items()]
    short = [f"{count} {name} pictures, at least {fewest} needed" for count, name, fewest in counts if count < fewest]
    if short:
        section.skipped.append(f"Nearest real pictures: {'; '.join(short)}")
        return {}
    measures = {name: m for name, m in _measures(section, context).items() if name in rules.measures}
    section.values["resamples"] = resamples = rules.finer * context.config.bootstrap
    return {
        name: audit(sets, measure, resamples=resamples, seed=context.config.seed, rules=rules)
        for name, measure in measures.items()
    }


def _measures(section: Section, context: Context) -> dict[str, Similarity]:
    """Every measure of similarity there is, by name; why another is missing goes to `section.skipped`."""
    measures: dict[str, Similarity] = {}
    device = choose_device(context.config.device)
    reference_model = context.reference_models.embedding
    if reference_model is None or not reference_model.trusted:
        section.skipped.append(
            reference_model.withheld() if reference_model else context.reference_models.missing["embedding"]
        )
    else:
        model = cast(CrossEmbedding, reference_model.model)
        measures[EMBEDDING] = lambda images, real: similarities(model, images, real, device)
    measures[DETAIL] = fine_detail
    if (why := perceptual_missing(context.config)) is None:
        measures[PERCEPTUAL] = perceptual_similarity(context)
    else:
        section.skipped.append(f"Nearest real images by {TITLE}: {why}")
    return measures


def fine_detail(images: np.ndarray, real: Pairs) -> np.ndarray:
    """(N, K) correlation of fine detail of (N, S, S) uint8 pictures with K real ones."""
    return similarity(list(images), list(real.images))


def _report_leaks(section: Section, context: Context, leaks: Leaks) -> None:
    exact, same = (sum(name is not None for name in found) for found in (leaks.exact, leaks.same))
    section.values["copies"] = {"exact": exact, "same_picture": same, "same_picture_bits": leaks.bits}
    section.per_pair["privacy_copy_of"] = [a or b for a, b in zip(leaks.exact, leaks.same, strict=True)]
    if leaks.bits < 0:
        section.skipped.append("Copies by perceptual hash: a held-out picture has the hash of a train picture")
    section.text.append(
        f"Of {len(context.sets.synthetic)} synthetic images {exact} are a real image to the pixel, and {same} have the "
        f"perceptual hash of a train image (at most {max(leaks.bits, 0)} of 256 bits differ, mirrored ones included)."
    )


def _report_sides(section: Section, context: Context, leaks: Leaks, learnt: Learnt | None) -> None:
    """Where train is not what was learnt, or held-out is not free of it: then the shares answer another question."""
    if learnt is not None:
        section.values["learnt"] = dataclasses.asdict(learnt)
    if learnt is not None and learnt.absent:
        section.text.append(
            f"Take care: of the {learnt.total} images that the generator learnt {learnt.absent} are not among the "
            "train images of the real set. Copies of these cannot be found."
        )
    if learnt is not None and learnt.spare:
        section.text.append(
            f"Take care: {learnt.spare} train images of the real set were not learnt by the generator. Copies of the "
            "others show less in the shares below."
        )
    section.values["copies"]["held_out_like_train"] = leaks.near_duplicates
    if leaks.near_duplicates:
        section.text.append(
            f"Take care: {leaks.near_duplicates} of {len(context.sets.held_out)} held-out images show nearly what a "
            "train image shows. So they are no clean measure of the similarity between strangers, and copies may look "
            "like chance."
        )


def _report_statistics(section: Section, audits: dict[str, Audit]) -> None:
    reported = {name: found.statistics for name, found in audits.items()}
    first = next(iter(reported.values()))
    section.text.append(
        "Similarity is measured "
        + ("by networks that learnt to know an image again after it was mirrored, moved, brightened or roughened; each "
           "learnt half of the train images and scores the other half (embedding); and "
           if EMBEDDING in reported else "")
        + "by the correlation of fine detail after small shifts and mirroring"
        + ("; and by features of a network made for photographs, which saw none of these images"
           if PERCEPTUAL in reported else "")
        + ". The limit is the similarity to train "
        "that 95 % of held-out images stay below: beyond it, an image is nearer to a learnt one than other patients "
        "usually are. "
        f"Intervals of these shares are of {section.values['resamples']} resamples, since their ends decide."
    )  # fmt: skip
    rows: list[list[Cell | Interval]] = [
        ["nearest real image is a train image", *(s.nearest_to_train for s in reported.values()), CURRENT.copying],
        ["the same for held-out real images", *(s.baseline for s in reported.values()), CURRENT.copying],
        ["beyond the limit towards train", *(s.beyond_95 for s in reported.values()), CURRENT.expected_beyond],
        ["that minus beyond it towards held-out", *(s.excess for s in reported.values()), 0.0],
        ["train images so copied", *(s.train_copied for s in reported.values()), None],
        ["limit of similarity", *(s.limit for s in reported.values()), None],
        [
            "images as alike to a train image as altered copies are (number)",
            *(a.unmistakable for a in audits.values()),
            0,
        ],
        ["beyond the 99th percentile of held-out images", *(a.beyond(99) for a in audits.values()), 0.01],
        ["largest similarity to a train image", *(float(a.similarity.max()) for a in audits.values()), None],
    ]
    note = (
        f"Shares of images. For the first two rows and the fourth, {first.compared} train and {first.compared} "
        "held-out images were compared, averaged over random choices. Brackets: 95 % intervals over synthetic images "
        "and over groups of real ones."
    )
    section.tables.append(Table("Nearest real images", ["figure", *reported, "without copying"], rows, note))
    for name, s in reported.items():
        section.values[name.replace(" ", "_")] = json_fields(s) | {
            "outcome": outcome(CURRENT, s),
            "unmistakable": audits[name].unmistakable,
            "beyond_99": audits[name].beyond(99),
        }
        if audits[name].unmistakable is None:
            section.text.append(
                f"By {name}, some held-out image is as alike to a train image as altered copies are: one single copy "
                "cannot be distinguished from chance here, only copying that moves the shares below."
            )


def _report_controls(section: Section, audits: dict[str, Audit]) -> None:
    columns, rows = ["kind of copy"], [[kind] for kind in KINDS]  # type: list[str], list[list[Cell | Interval]]
    for name, found in audits.items():
        columns += [f"found by {name}", f"attributed by {name}"]
        for row in rows:
            kind = found.planted[str(row[0])]
            row += [kind.detected, kind.attributed]
        section.values[name.replace(" ", "_")]["planted"] = {k: vars(v) for k, v in found.planted.items()}
    note = "Found: beyond the limit. Attributed: the nearest train image is the one that was copied."
    title = f"Control: copies of up to {CURRENT.planted} train images, planted among the synthetic ones"
    section.tables.append(Table(title, columns, rows, note))
    for name, found in audits.items():
        if not is_usable(CURRENT, found):
            share = number(found.planted["exact"].detected)
            section.skipped.append(f"The verdict by {name}: it finds only {share} of planted exact copies")
            continue
        if missed := missed_kinds(CURRENT, [found]):
            section.text.append(f"By {name}, copies of these kinds may go unnoticed: {', '.join(missed)}.")


def _report_pairs(section: Section, context: Context, audits: dict[str, Audit]) -> None:
    ids = context.sets.train.ids
    for name, found in audits.items():
        prefix = f"privacy_{name.replace(' ', '_')}"
        section.per_pair[f"{prefix}_nearest"] = [ids[k] for k in found.nearest]
        section.per_pair[f"{prefix}_similarity"] = [round(float(v), 4) for v in found.similarity]
        if context.config.real_pictures:
            section.figures.append(_nearest_pairs(context, name, found))
    section.figures.append(_histograms(audits))


def _nearest_pairs(context: Context, name: str, found: Audit) -> Figure:
    """The ten pairs that are most alike: the synthetic image left, its nearest train image right."""
    order = np.argsort(-found.similarity, kind="stable")[:SHOWN]
    across = -(-len(order) // 2)
    plot = Plot(figsize=(2.8 * across, 3.4))
    plot.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.08, hspace=0.3, wspace=0.05)
    cells = plot.subplots(2, 3 * across, squeeze=False, width_ratios=(1, 1, 0.1) * across).reshape(-1, 3)
    for cell in cells.ravel():  # the third of each pair is a gap
        cell.set_axis_off()
        cell.set_anchor("N")
    for (left, right, _), k in zip(cells, order, strict=False):
        for cell, pairs, i in ((left, context.sets.synthetic, k), (right, context.sets.train, found.nearest[k])):
            show(cell, pairs.pictures[i], pairs.pixels[i])
            cell.set_title(pairs.records[i].id, fontsize=6)
        place = left.get_position(original=True)
        plot.text(place.x1, place.y0 - 0.01, number(float(found.similarity[k])), fontsize=9, ha="center", va="top")
    caption = (
        f"The {len(order)} synthetic images that are most like a train image, by {name}: the synthetic one left, the "
        "train image right, their similarity below."
    )
    return Figure(png(plot, dpi=130), caption)


def _histograms(audits: dict[str, Audit]) -> Figure:
    plot = Plot(figsize=(4.2 * len(audits), 2.8), layout="constrained")
    for axes, (name, found) in zip(plot.subplots(1, len(audits), squeeze=False)[0], audits.items(), strict=True):
        both = np.concatenate([found.baseline, found.similarity])
        edges = np.linspace(both.min() - 1e-3, both.max() + 1e-3, 31)
        for values, label, colour in (
            (found.baseline, "held-out", "tab:blue"),
            (found.similarity, "synthetic", "tab:red"),
        ):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, bins=edges, weights=weights, alpha=0.5, color=colour, label=label)
        axes.axvline(found.statistics.limit, color="black", linestyle="--", linewidth=1, label="limit")
        axes.set(xlabel=f"similarity to the nearest train image, by {name}", ylabel="share of images")
        axes.legend(fontsize=8, loc="upper right")
    return Figure(
        png(plot),
        "Similarity of synthetic and of held-out real images to the train image that each is most like. Copies would "
        "stand apart at the right, beyond the limit.",
    )


def _decide(
    section: Section, context: Context, leaks: Leaks, audits: dict[str, Audit], learnt: Learnt | None
) -> Verdict:
    """The verdict of the last version of the audit; those of earlier ones stand beside it in the report."""
    total = len(context.sets.synthetic)
    verdicts = {}
    for rules in VERSIONS:
        decided = {name: getattr(CURRENT, name) for name in ("version", "measures", "every_measure")}
        alike = dataclasses.replace(rules, **decided) == CURRENT  # what is measured of a set is the same
        found = audits if alike else _audits(section, context, rules)
        found = {name: audit for name, audit in found.items() if name in rules.measures}
        verdicts[rules.version] = decide(rules, total, leaks, found, learnt)
    section.values["audit_version"] = CURRENT.version
    section.values["verdicts"] = {str(number): verdict.outcome for number, verdict in verdicts.items()}
    section.text.append(
        "; ".join(f"By version {number} of the audit: {verdict.outcome}" for number, verdict in verdicts.items())
        + ". The rules of a version do not change."
    )
    return verdicts[CURRENT.version]


def _report_membership(section: Section, context: Context) -> None:
    found = membership(context.config, context.real)
    if isinstance(found, str):
        section.skipped.append(found)
        return
    values: dict[str, Any] = json_fields(found)
    section.values["membership"] = values
    section.text.append(
        "Membership inference from the checkpoint: whether the generator learnt an image shows in its denoising error, "
        f"with an AUC of {found.auc} ({found.train} train and {found.held_out} held-out images, chosen "
        "at random where there are more; 0.5 is not at all, 1 is always). This concerns handing on the checkpoint; "
        "the synthetic images are evaluated above."
    )
    total, others = len(context.sets.synthetic), made_by_another(context.sets.synthetic.records, found.checkpoint)
    if others:
        which = "these pairs" if others == total else f"{others} of these {total} pairs"
        section.text.append(
            f"Take care: membership was inferred for another checkpoint than the one that drew {which}."
        )


METRIC = Metric("privacy", 60, run, check_checkpoint)
