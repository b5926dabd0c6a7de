"""Phase 1: raw folder -> samples. Patients and near-duplicates are kept together, class conflicts left out."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.arrays import BACKGROUND, BINARY, check_mask_values
from medsegdiff.data.attributes import knots_of, measure_pair
from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.duplicates import SAME_PICTURE_BITS, class_conflicts, duplicate_groups, scene_correlations
from medsegdiff.data.frames import shared_frame
from medsegdiff.data.hashing import Frame, content_hash, perceptual_hash, to_grey
from medsegdiff.data.lexicon import caption
from medsegdiff.data.mask_files import check_not_inverted
from medsegdiff.data.pictures import balance_table, write_overview
from medsegdiff.data.readers import AUTO, READERS, RawSample, RawSet, ReadOptions, read_raw
from medsegdiff.data.records import SampleRecord, SampleSet, class_counts, read_samples, write_sample, write_samples
from medsegdiff.data.splits import assign_folds, assign_splits
from medsegdiff.engine.files import write_json
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError, require
from medsegdiff.features.overlay import has_overlay

log = logging.getLogger(__name__)

UNLABELLED = "unlabelled"  # the class of pictures of which the data set says none
CAPTION = 24  # purpose number of the random streams of captions
SKEW = 0.1  # how far the share of a split may come out from what was asked for before it is reported


def prepare(config: PrepareConfig) -> SampleSet:
    """Read a raw data set, group its near-duplicates, split it, and write it as samples to `config.output_dir`.

    Beside the pairs: class_balance.json and overview.png. The same input and settings give the same bytes.
    Raises `UserError` for bad settings, a broken input, or an output folder that holds something else.
    """
    options = _read_options(config)
    fingerprint = fingerprint_of(config, "prepare", leave_out=("input_dir", "output_dir", "captions"))
    fingerprint |= {"captions": True} if config.captions else {}  # other folders are known by what they were known by
    output = RunFolder(config.output_dir, DATA_SET, fingerprint)
    output.check(apart=("input_hash",))  # before pictures are read, whatever these will turn out to be
    found = read_raw(Path(config.input_dir), config.layout, options)
    grey = f"rgb, and the layout {found.layout}, which is grey"
    require(config.colour != "rgb" or found.arrays.channels == 3, "--colour", grey, "auto or grey", "Leave it out.")
    if config.subject_pattern is not None:
        found = dataclasses.replace(found, samples=name_subjects(found.samples, config.subject_pattern))
    if found.arrays.mask_values == BINARY:
        check_not_inverted([s.mask for s in found.samples if s.mask is not None], config.input_dir)
    fingerprint["input_hash"] = input_hash(found)
    plan = _plan(found, config)
    if output.is_finished():
        log.info("%s holds this data set, finished", output.path)
        return read_samples(output.path)
    with output.staged() as folder:
        records = _write_all(folder, found, plan)
        records = with_captions(records, config.seed) if config.captions else records
        pairs = write_samples(
            folder,
            records,
            classes=plan.classes,
            fingerprint=fingerprint,
            arrays=found.arrays,
            layout=found.layout,
            input_hash=fingerprint["input_hash"],
            pictures_read=len(found.samples),
            passed_over=found.passed_over,
            left_out=plan.left_out,
            duplicates=describe_groups(plan, config),
            **({"frame": plan.frame} if plan.frame else {}),
        )
        write_json(folder / "class_balance.json", class_balance(pairs))
        write_overview(folder / "overview.png", pairs)
    log.info("%d pairs in %s\n%s", len(records), output.path, balance_table(class_counts(records)))
    return read_samples(output.path)


@dataclass(frozen=True)
class Plan:
    """Which pictures become samples, and where each of them goes."""

    samples: list[RawSample]
    groups: list[str]  # of each sample
    splits: list[str]
    folds: list[int]
    left_out: list[dict[str, str]]  # file, why, and the other file that it has to do with
    frame: Frame | None  # where the scan lies, if all images share a border
    classes: list[str]


def _plan(found: RawSet, config: PrepareConfig) -> Plan:
    """Group, split and fold what was read. Raises `UserError` where a class is too small."""
    labelled = [s if s.label else dataclasses.replace(s, label=UNLABELLED) for s in found.samples]
    frame = shared_frame([s.image for s in labelled])
    if frame is not None:
        part = (frame[2] - frame[0]) * (frame[3] - frame[1])
        log.warning("all images share a border: they are compared by the %.0f %% of each that differs", 100 * part)
    samples, left_out = leave_out_conflicts(labelled, frame)
    classes = config.classes or sorted({s.label for s in labelled})
    for label in classes:
        kept = any(pair.label == label for pair in samples)
        found_none = f"no picture of class {label} that does not stand in another class as well"
        hint = "Add pictures, or leave the class out of --classes."
        require(kept, config.input_dir, found_none, "at least one", hint)
    if not any(s.subject for s in samples):
        _report_unknown_patients(samples)
    groups = group_names(samples, config.duplicate_bits, config.duplicate_correlation, frame)
    if config.keep_splits:
        samples, groups, crossing = leave_out_crossing(samples, groups)
        left_out += crossing
    labels = [s.label for s in samples]
    splits = (
        _own_splits(samples, groups, config)
        if config.keep_splits
        else assign_splits(labels, groups, config.val_fraction, config.test_fraction, config.seed)
    )
    folds = assign_folds(labels, groups, splits, config.folds, config.seed)
    if not config.keep_splits:
        _report_skew(splits, groups, config)
    return Plan(samples, groups, splits, folds, left_out, frame, classes)


def _report_unknown_patients(samples: list[RawSample]) -> None:
    """Say that patients are not known; warn where several files each begin alike, as views of one patient do."""
    begins = Counter(re.sub(r"[\W_]+[^\W_]*$", "", Path(s.source).stem.rstrip(")")) for s in samples)
    unknown = "patients are not known: groups are near-duplicates alone (--subject_pattern says patients)"
    classes = len({s.label for s in samples})
    if max(classes + 1, len(samples) / 10) <= len(begins) <= len(samples) / 1.5:
        name, number = begins.most_common(1)[0]
        found = f"names have {len(begins)} beginnings, as {name!r} of {number} files"
        log.warning("%s; %s: are these patients?", unknown, found)
    else:
        log.info(unknown)


def name_subjects(samples: list[RawSample], pattern: str) -> list[RawSample]:
    """The same samples with the patient that `pattern` finds in the path of each: its first group, or all of it."""
    named = []
    for sample in samples:
        match = re.search(pattern, sample.source)
        subject = (match[1] if match.re.groups else match[0]) if match else None
        if not subject:
            hint = "Give a regular expression whose first group is the patient."
            raise UserError(f"--subject_pattern {pattern}", f"no patient in {sample.source}", "one in every path", hint)
        named.append(dataclasses.replace(sample, subject=subject))
    return named


def _own_splits(samples: list[RawSample], groups: list[str], config: PrepareConfig) -> list[str]:
    """The data set's own splits; where it has no val, a part of train becomes it."""
    splits = [s.split for s in samples]
    if "val" in splits or config.val_fraction == 0:
        return splits
    log.info("the data set has no val split: %.0f %% of its train split become one", 100 * config.val_fraction)
    train = [i for i, split in enumerate(splits) if split == "train"]
    labels, inside = [samples[i].label for i in train], [groups[i] for i in train]
    for index, split in zip(train, assign_splits(labels, inside, config.val_fraction, 0, config.seed), strict=True):
        splits[index] = split
    return splits


def leave_out_crossing(
    samples: list[RawSample], groups: list[str]
) -> tuple[list[RawSample], list[str], list[dict[str, str]]]:
    """Leave out of train (then of val) what shares a group with val or test: own splits would leak otherwise."""
    ranks = {"train": 0, "val": 1, "test": 2}
    last: dict[str, RawSample] = {}
    for sample, group in zip(samples, groups, strict=True):
        if group not in last or ranks[sample.split] > ranks[last[group].split]:
            last[group] = sample
    left_out = [
        {"file": s.source, "why": f"same patient or scene as one of {last[g].split}", "other": last[g].source}
        for s, g in zip(samples, groups, strict=True)
        if s.split != last[g].split
    ]
    if left_out:
        reason = "their patient or scene also stands in another split; dataset.json lists them"
        log.warning("left out %d of %d pictures: %s", len(left_out), len(samples), reason)
    kept = [(s, g) for s, g in zip(samples, groups, strict=True) if s.split == last[g].split]
    return [s for s, _ in kept], [g for _, g in kept], left_out


def _report_skew(splits: list[str], groups: list[str], config: PrepareConfig) -> None:
    """Warn where splits came out far from the fractions that were asked for."""
    largest, size = Counter(groups).most_common(1)[0]
    asked = {"val": config.val_fraction, "test": config.test_fraction}
    asked["train"] = 1 - sum(asked.values())
    for split, share in asked.items():
        got = splits.count(split) / len(splits)
        if abs(got - share) > max(SKEW, 1.5 / len(splits)):
            shares = f"{got:.0%} of the pictures are in {split}, {share:.0%} were asked for"
            text = "%s: groups stay whole, and the largest (%s) has %d of %d pictures"
            log.warning(text, shares, largest, size, len(groups))
            return


def _write_all(folder: Path, found: RawSet, plan: Plan) -> list[SampleRecord]:
    """Write every pair below `folder`, two at a time: coding PNG takes most of the run, and releases the lock."""

    binary = found.arrays.is_binary

    def write(sample: RawSample, group: str, split: str, fold: int) -> SampleRecord:
        marks = {"overlay": float(has_overlay(to_grey(sample.image)))} if sample.mask is not None and binary else {}
        return write_sample(
            folder,
            sample.image,
            sample.mask,
            id=sample.name,
            label=sample.label,
            split=split,
            fold=fold,
            group=group,
            source=f"{found.layout}:{sample.source}",
            frame=plan.frame,
            subject=sample.subject,
            text=sample.text,
            modality=sample.modality,
            # What is measured takes the place of columns of the same name
            attributes={**sample.attributes, **measure_pair(sample.image, sample.mask, found.arrays), **marks},
        )

    with ThreadPoolExecutor(2) as pool:
        done = pool.map(write, plan.samples, plan.groups, plan.splits, plan.folds)
        return list(progress_bar(done, "writing pairs", len(plan.samples), unit="pair", leave=False))


def with_captions(records: list[SampleRecord], seed: int) -> list[SampleRecord]:
    """Records with a caption each, written from their attributes where they bring none (`lexicon.caption`)."""
    names = {name for record in records for name in record.attributes}
    train = [record.attributes for record in records if record.split == "train"]
    knots = {name: knots_of(np.array([own.get(name, np.nan) for own in train])) for name in sorted(names)}
    knots = {name: own for name, own in knots.items() if own}
    found = []
    for number, record in enumerate(records):
        random = np.random.default_rng((seed, number, CAPTION))
        text = record.text or caption(record.label, record.attributes, knots, random)
        found.append(dataclasses.replace(record, text=text))
    return found


def _read_options(config: PrepareConfig) -> ReadOptions:
    """What concerns reading. Raises `UserError` for a layout or mask classes that cannot be."""
    require(config.layout in (AUTO, *READERS), "--layout", config.layout, f"one of {', '.join((AUTO, *READERS))}")
    classes = None if config.classes is None else tuple(config.classes)
    return ReadOptions(classes, parse_mask_classes(config.mask_classes), config.colour, config.keep_splits)


def parse_mask_classes(texts: list[str] | None) -> dict[str, int] | None:
    """Pixel values by class of texts such as "lesion=255"; None stays None. Raises `UserError` for others."""
    if texts is None:
        return None
    try:
        values = {name.strip(): int(value) for name, value in (text.split("=") for text in texts)}
        check_mask_values(values)
        require(len(values) == len(texts), "--mask_classes", " ".join(texts), "each class once")
    except ValueError as error:
        expected = f"{BACKGROUND}=0 and name=value of every other class, each 0 to 255 and once"
        raise UserError("--mask_classes", " ".join(texts), expected, "Change the setting.") from error
    return values


def input_hash(found: RawSet) -> str:
    """SHA-256 of everything that was read, whatever folder it lies in."""
    digest = hashlib.sha256()
    for pair in sorted(found.samples, key=lambda p: p.source):
        mask = "" if pair.mask is None else content_hash(pair.mask)
        facts = (pair.label, pair.subject, pair.split, pair.text, pair.modality, *sorted(pair.attributes.items()))
        # BUSI has the class in the path, and nothing else: folders of earlier versions know it by that
        said = "" if found.layout == "busi" and not pair.subject else f" {facts}"
        digest.update(f"{pair.source} {content_hash(pair.image)} {mask}{said}\n".encode())
    return digest.hexdigest()


def leave_out_conflicts(
    pairs: list[RawSample], frame: Frame | None = None
) -> tuple[list[RawSample], list[dict[str, str]]]:
    """Part the pictures that also stand in another class, whose class nobody knows, from the others.

    Returns the pairs to keep, and for each one left out its file, why, and the file it contradicts.
    """
    hashes = [perceptual_hash(pair.image, frame) for pair in pairs]
    conflicts = class_conflicts(hashes, [pair.label for pair in pairs])
    left_out = []
    for index, other in conflicts.items():
        entry = {"file": pairs[index].source, "why": "the same picture stands in another class"}
        left_out.append({**entry, "other": pairs[other].source})
    if left_out:
        counts = Counter(pairs[index].label for index in conflicts)
        text = ", ".join(f"{n} {label}" for label, n in counts.items())
        reason = "the same picture stands in another class; dataset.json lists them"
        log.warning("left out %d of %d pictures (%s): %s", len(left_out), len(pairs), text, reason)
    return [pair for index, pair in enumerate(pairs) if index not in conflicts], left_out


def group_names(pairs: list[RawSample], bits: int, correlation: float, frame: Frame | None = None) -> list[str]:
    """The group of each pair: near-duplicates and pictures of one patient have one.

    Named after content, so renaming files changes nothing.
    """
    correlations = scene_correlations([pair.image for pair in pairs], frame) if correlation < 1 else None
    hashes = [perceptual_hash(pair.image, frame) for pair in pairs]
    numbers = duplicate_groups(hashes, bits, correlations, correlation, [pair.subject for pair in pairs])
    names: dict[int, str] = {}
    for number, pair in zip(numbers, pairs, strict=True):
        name = "g" + content_hash(pair.image)[:12]
        names[number] = min(name, names.get(number, name))
    return [names[number] for number in numbers]


def describe_groups(plan: Plan, config: PrepareConfig) -> dict[str, Any]:
    """What dataset.json says about groups: thresholds, patients, group sizes, the largest group."""
    sizes = Counter(plan.groups)
    largest = min(sizes, key=lambda name: (-sizes[name], name))
    subjects = {s.subject for s in plan.samples if s.subject}
    patients = f" of {len(subjects)} patients" if subjects else ""
    log.info("%d pictures%s in %d groups of near-duplicates", len(plan.samples), patients, len(sizes))
    return {
        "bits": config.duplicate_bits,
        "correlation": config.duplicate_correlation,
        "same_picture_bits": SAME_PICTURE_BITS,
        "subjects": len(subjects),
        "groups": len(sizes),
        "groups_of_several": sum(size > 1 for size in sizes.values()),
        "pictures_beyond_the_first_of_their_group": len(plan.samples) - len(sizes),
        "groups_by_size": {str(size): n for size, n in sorted(Counter(sizes.values()).items())},
        "largest_group": [p.name for p, group in zip(plan.samples, plan.groups, strict=True) if group == largest],
    }


def class_balance(pairs: SampleSet) -> dict[str, Any]:
    """Counts and shares of each class, in all and per split, and the commonest class as a multiple of the rarest."""
    counts: Mapping[str, Mapping[str, int]] = class_counts(pairs.records)
    whole = {label: sum(row.get(label, 0) for row in counts.values()) for label in pairs.classes}

    def describe(row: Mapping[str, int]) -> dict[str, Any]:
        total = sum(row.values())
        present = [n for n in row.values() if n]
        return {
            "pairs": total,
            "classes": {k: {"count": row.get(k, 0), "share": round(row.get(k, 0) / total, 4)} for k in pairs.classes},
            "commonest_to_rarest": round(max(present) / min(present), 3),
        }

    return {"all": describe(whole), **{split: describe(row) for split, row in counts.items()}}
