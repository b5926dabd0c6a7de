"""Phase 1: raw folder -> samples, with near-duplicates kept together and class conflicts left out."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.duplicates import SAME_PICTURE_BITS, class_conflicts, duplicate_groups, scene_correlations
from medsegdiff.data.hashing import content_hash, perceptual_hash
from medsegdiff.data.pictures import balance_table, write_overview
from medsegdiff.data.readers import RawSample
from medsegdiff.data.readers.busi import read_busi
from medsegdiff.data.records import SampleRecord, SampleSet, class_counts, read_samples, write_sample, write_samples
from medsegdiff.data.splits import assign_folds, assign_splits
from medsegdiff.engine.files import write_json
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import require

log = logging.getLogger(__name__)

SOURCE = "busi"


def prepare(config: PrepareConfig) -> SampleSet:
    """Read a raw data set, group its near-duplicates, split it, and write it as samples to `config.output_dir`.

    Beside the pairs: class_balance.json and overview.png. The same input and settings give the same bytes.
    Raises `UserError` for bad settings, a broken input, or an output folder that holds something else.
    """
    fingerprint = fingerprint_of(config, "prepare", leave_out=("input_dir", "output_dir"))
    output = RunFolder(config.output_dir, DATA_SET, fingerprint)
    output.check(apart=("input_hash",))  # before pictures are read, whatever these will turn out to be
    found = read_busi(Path(config.input_dir), config.classes)
    raw, left_out = leave_out_conflicts(found)
    for label in config.classes:
        kept = any(pair.label == label for pair in raw)
        found_none = f"no picture of class {label} that does not stand in another class as well"
        hint = "Add pictures, or leave the class out of --classes."
        require(kept, config.input_dir, found_none, "at least one", hint)
    groups = group_names(raw, config.duplicate_bits, config.duplicate_correlation)
    labels = [pair.label for pair in raw]
    splits = assign_splits(labels, groups, config.val_fraction, config.test_fraction, config.seed)
    folds = assign_folds(labels, groups, splits, config.folds, config.seed)
    fingerprint["input_hash"] = input_hash(found)
    if output.is_finished():
        log.info("%s holds this data set, finished", output.path)
        return read_samples(output.path)
    with output.staged() as folder:
        records = _write_all(folder, raw, groups, splits, folds)
        pairs = write_samples(
            folder,
            records,
            classes=list(config.classes),
            fingerprint=fingerprint,
            input_hash=fingerprint["input_hash"],
            pictures_read=len(found),
            left_out=left_out,
            duplicates=describe_groups(raw, groups, config),
        )
        write_json(folder / "class_balance.json", class_balance(pairs))
        write_overview(folder / "overview.png", pairs)
    log.info("%d pairs in %s\n%s", len(raw), output.path, balance_table(class_counts(records)))
    return read_samples(output.path)


def _write_all(
    folder: Path, raw: list[RawSample], groups: list[str], splits: list[str], folds: list[int]
) -> list[SampleRecord]:
    """Write every pair below `folder`, two at a time: coding PNG takes most of the run, and releases the lock."""

    def write(pair: RawSample, group: str, split: str, fold: int) -> SampleRecord:
        return write_sample(
            folder,
            pair.image,
            pair.mask,
            id=pair.name,
            label=pair.label,
            split=split,
            fold=fold,
            group=group,
            source=f"{SOURCE}:{pair.source}",
        )

    with ThreadPoolExecutor(2) as pool:
        done = pool.map(write, raw, groups, splits, folds)
        return list(tqdm(done, "writing pairs", len(raw), unit="pair", leave=False))


def input_hash(pairs: list[RawSample]) -> str:
    """SHA-256 of names, pictures and masks that were read, whatever folder they lie in."""
    digest = hashlib.sha256()
    for pair in sorted(pairs, key=lambda p: p.source):
        digest.update(f"{pair.source} {content_hash(pair.image)} {content_hash(pair.mask)}\n".encode())
    return digest.hexdigest()


def leave_out_conflicts(pairs: list[RawSample]) -> tuple[list[RawSample], list[dict[str, str]]]:
    """Part the pictures that also stand in another class, whose class nobody knows, from the others.

    Returns the pairs to keep, and for each one left out its file, why, and the file it contradicts.
    """
    hashes = [perceptual_hash(pair.image) for pair in pairs]
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


def group_names(pairs: list[RawSample], bits: int, correlation: float) -> list[str]:
    """The group of each pair: near-duplicates have one. Named after content, so renaming files changes nothing."""
    correlations = scene_correlations([pair.image for pair in pairs]) if correlation < 1 else None
    hashes = [perceptual_hash(pair.image) for pair in pairs]
    numbers = duplicate_groups(hashes, bits, correlations, correlation)
    names: dict[int, str] = {}
    for number, pair in zip(numbers, pairs, strict=True):
        name = "g" + content_hash(pair.image)[:12]
        names[number] = min(name, names.get(number, name))
    return [names[number] for number in numbers]


def describe_groups(pairs: list[RawSample], groups: list[str], config: PrepareConfig) -> dict[str, Any]:
    """What dataset.json says about near-duplicates: thresholds, group sizes, the largest group."""
    sizes = Counter(groups)
    largest = min(sizes, key=lambda name: (-sizes[name], name))
    log.info("%d pictures in %d groups of near-duplicates", len(pairs), len(sizes))
    return {
        "bits": config.duplicate_bits,
        "correlation": config.duplicate_correlation,
        "same_picture_bits": SAME_PICTURE_BITS,
        "groups": len(sizes),
        "groups_of_several": sum(size > 1 for size in sizes.values()),
        "pictures_beyond_the_first_of_their_group": len(pairs) - len(sizes),
        "groups_by_size": {str(size): n for size, n in sorted(Counter(sizes.values()).items())},
        "largest_group": [p.name for p, group in zip(pairs, groups, strict=True) if group == largest],
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
