"""`medsegdiff evaluate`: synthetic pairs against real ones, in a page, a JSON file and a table of pairs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.records import LEARNT, SampleRecord, SampleSet, content_digest, read_samples
from medsegdiff.downstream.config import SIZE_FACTOR
from medsegdiff.engine.device import settle_precision
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.run_folder import EVALUATION, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import SMALLEST_SIZE, EvaluateConfig
from medsegdiff.evaluation.context import Context, all_metrics
from medsegdiff.evaluation.reference_models.fit import fit_reference_models
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModels
from medsegdiff.evaluation.report.write import PAGE_FILE, TABLE_FILE, write_report
from medsegdiff.evaluation.section import Section
from medsegdiff.evaluation.sets import Sets, load_pairs

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 128  # where the synthetic pairs have several


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Compare, write report.html, report.json and per_pair.csv to `config.output_dir`; returns report.json's content.

    The reference models are kept (`config.reference_models_dir`), and go on where an interrupted training of them
    stopped. Raises `UserError` for bad settings and for folders that cannot be compared.
    """
    config = settle_precision(config)
    output = Path(config.output_dir)
    run = RunFolder(output, EVALUATION, files=(TABLE_FILE, PAGE_FILE))
    run.refuse_others()
    real, synthetic = read_samples(Path(config.real_data)), read_samples(Path(config.synthetic_data))
    if not synthetic.arrays.same_as(real.arrays):
        expected = f"{real.arrays}, as --real_data"
        raise UserError(synthetic.root, str(synthetic.arrays), expected, "Generate from that data.")
    metrics = all_metrics()
    for metric in metrics:
        metric.check(config, real)
    sets, notes = _load(config, real, synthetic)
    with run.held():
        reference_models = fit_reference_models(config, real, sets)
        context = Context(sets, real, synthetic, reference_models, config)
        sections: dict[str, Section] = {}
        bar = progress_bar(metrics, desc="evaluating", unit="metric")
        for metric in bar:
            bar.set_postfix_str(metric.name)
            section = metric.run(context)
            if section is not None:
                sections[metric.name] = section
        result: dict[str, Any] = {
            "compared": _compared(config, real, synthetic, sets, notes),
            "reference_models": _reported(reference_models),
        }
        result |= write_report(output, context, sections, result)
    for line in result["verdicts"]:
        logger.info("%s: %s. %s", line["metric"], line["outcome"], line["sentence"])
    logger.info("wrote %s", output / PAGE_FILE)
    return result


def _load(config: EvaluateConfig, real: SampleSet, synthetic: SampleSet) -> tuple[Sets, list[str]]:
    """The three sets at one size, and what the reader of the report has to know of how they were chosen."""
    size, notes = _size(config, synthetic)
    held_out = tuple(r for split in dict.fromkeys(config.held_out) for r in real.select(split).records)
    _check_held_out(real, held_out, synthetic)
    chosen, more = _choose(config, synthetic)
    parts = {"train": real.select("train").records, "held_out": held_out, "synthetic": chosen}
    classes, lost = _classes(real, parts)
    kept = {name: tuple(r for r in records if r.label in classes) for name, records in parts.items()}
    roots = {"train": real, "held_out": real, "synthetic": synthetic}
    titles = {"train": "real train pairs", "held_out": "real held-out pairs", "synthetic": "synthetic pairs"}
    loaded = {
        name: load_pairs(dataclasses.replace(roots[name], records=records), size, titles[name])
        for name, records in kept.items()
    }
    return Sets(**loaded, classes=classes, img_size=size), [*notes, *more, *lost]


def _check_held_out(real: SampleSet, held_out: Sequence[SampleRecord], synthetic: SampleSet) -> None:
    """Raise `UserError` where real pairs are not real, or held-out ones were learnt by the generator."""
    hint = "Give the sample folder that the generator was trained on."
    for record in real.records:
        if record.is_synthetic:
            raise UserError(f"{real.root}, {record.id}", "a synthetic pair", "real pairs alone", hint)
    checkpoint = synthetic.info.get("checkpoint")
    known = checkpoint.get("train_hashes", []) if isinstance(checkpoint, dict) else []
    learnt = {hashes["image_hash"] for hashes in known} | set(synthetic.info.get(LEARNT, []))
    for record in held_out:
        if learnt & {record.image_hash, record.perceptual_hash}:  # a combined set says by the second alone
            found = f"a {record.split} picture that the generator of {synthetic.root} learnt"
            raise UserError(f"{real.root}, {record.id}", found, "held-out pictures that it never saw", hint)


def _size(config: EvaluateConfig, synthetic: SampleSet) -> tuple[int, list[str]]:
    """The side of the squares that are compared; that of the synthetic pairs where they have one."""
    if config.img_size is not None:
        return config.img_size, []
    sizes = {(r.width, r.height) for r in synthetic.records}
    width, height = min(sizes, default=(0, 0))
    if len(sizes) == 1 and width == height and width % SIZE_FACTOR == 0 and width >= SMALLEST_SIZE:
        return width, []
    found = ", ".join(f"{w} x {h}" for w, h in sorted(sizes)[:3]) + (", ..." if len(sizes) > 3 else "")
    return DEFAULT_SIZE, [f"Synthetic pairs of {found} pixels were resampled to {DEFAULT_SIZE} x {DEFAULT_SIZE}."]


def _choose(config: EvaluateConfig, synthetic: SampleSet) -> tuple[tuple[SampleRecord, ...], list[str]]:
    """All synthetic pairs, or `max_pairs` of each class at random; real ones beside them are left out.

    A set without any synthetic pair is taken as it is: the audit has to say that it is real.
    """
    generated = synthetic.synthetic_only()
    if len(generated) < len(synthetic):
        records, notes = _choose(config, generated)
        return records, [f"{len(synthetic) - len(generated)} real pairs of the synthetic set were left out.", *notes]
    if config.max_pairs is None:
        return synthetic.records, []
    random = np.random.default_rng(config.seed)
    chosen: list[SampleRecord] = []
    for label in synthetic.classes:
        records = synthetic.select(label=label).records
        rows = sorted(random.permutation(len(records))[: config.max_pairs])
        chosen += [records[i] for i in rows]
    if len(chosen) == len(synthetic):
        return synthetic.records, []
    return tuple(chosen), [f"Of {len(synthetic)} synthetic pairs {len(chosen)} were chosen at random (--max_pairs)."]


def _classes(real: SampleSet, parts: Mapping[str, Sequence[SampleRecord]]) -> tuple[tuple[str, ...], list[str]]:
    """Classes that all three sets have, and what is left out because a set lacks it."""
    present = {name: {r.label for r in records} for name, records in parts.items()}
    common = tuple(label for label in real.classes if all(label in labels for labels in present.values()))
    if not common:
        found = "; ".join(f"{k.replace('_', '-')}: {', '.join(sorted(v)) or 'none'}" for k, v in present.items())
        hint = "Compare sets of the same classes."
        raise UserError("classes", found, "a class that train, held-out and synthetic pairs have", hint)
    lost = sorted(set().union(*present.values()) - set(common))
    notes = []
    for label in lost:
        without = [name.replace("_", "-") for name, labels in present.items() if label not in labels]
        number = sum(r.label == label for records in parts.values() for r in records)
        notes.append(f"Class {label!r} is left out ({number} pairs): none in {', '.join(without)}.")
    return common, notes


def _compared(
    config: EvaluateConfig, real: SampleSet, synthetic: SampleSet, sets: Sets, notes: list[str]
) -> dict[str, Any]:
    """What was compared with what."""
    counts = {
        name: {label: int((getattr(sets, name).labels == label).sum()) for label in sets.classes}
        for name in ("train", "held_out", "synthetic")
    }
    return {
        "config": fingerprint_of(config, "evaluate"),
        "img_size": sets.img_size,
        "counts": counts,
        "held_out": list(config.held_out),
        "real_content": content_digest(real.records),
        "synthetic_content": content_digest(synthetic.records),
        "checkpoint": (synthetic.info.get("checkpoint") or {}).get("sha256"),
        "notes": notes,
    }


def _reported(reference_models: ReferenceModels) -> dict[str, Any]:
    """Quality of every reference model."""
    reported: dict[str, Any] = dict(reference_models.missing)
    for model in reference_models.present:
        quality = {model.measure: model.quality.to_json()}
        reported[model.name] = quality | {"minimum": model.minimum, "trusted": model.trusted}
    return reported
