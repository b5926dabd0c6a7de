"""Phase 4: real samples + synthetic samples -> samples whose train split holds both; val and test stay real, untouched.

Leakage is refused by content, never by file name: neither the pictures that the generating checkpoint was trained on
nor the synthetic pictures themselves may be pictures of the real val or test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.data.config import CombineConfig, PrepareConfig
from medsegdiff.data.duplicates import SAME_PICTURE_BITS
from medsegdiff.data.hashing import Frame, hash_distances, perceptual_hash
from medsegdiff.data.pictures import balance_table
from medsegdiff.data.records import (
    LEARNT,
    METADATA_FILE,
    SampleRecord,
    SampleSet,
    class_counts,
    read_samples,
    write_samples,
)
from medsegdiff.engine.files import DATASET_FILE, make_folder, write_json
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.run_folder import DATA_SET, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError

log = logging.getLogger(__name__)

# Intersection over union from which two lesion masks, resized to one size, are one. Between train and val or test of
# BUSI, at 128 x 128 pixels and mirrored or not, no two masks come above 0.88.
SAME_MASK = 0.92


def combine(config: CombineConfig) -> SampleSet:
    """Add synthetic pairs to the train split of a real data set and write the result to `config.output_dir`.

    Files are hard links where the file system has them. Beside the pairs: class_balance.json (before, after).
    Raises `UserError` for bad settings, data sets that do not fit together, and leakage into val or test.
    """
    real, synthetic = read_samples(Path(config.real_data)), read_samples(Path(config.synthetic_data))
    _check_roles(real, synthetic)
    fingerprint = fingerprint_of(config, "combine", leave_out=("real_data", "synthetic_data", "output_dir"))
    fingerprint |= {"real_hash": _metadata_hash(real), "synthetic_hash": _metadata_hash(synthetic)}
    output = RunFolder(config.output_dir, DATA_SET, fingerprint)
    if output.is_finished():  # before pictures are read
        log.info("%s holds this data set, finished", output.path)
        return read_samples(output.path)
    _check_leakage(real, synthetic, _duplicate_bits(config, real))
    chosen = choose(real, synthetic, config)
    kept = [r for r in real.records if not (config.synthetic_only and r.split == "train")]
    with output.staged() as folder:
        records = _link_all(folder, [(real, r, r) for r in kept] + _renamed(real, synthetic, chosen))
        balance = describe_balance(real, records)
        write_samples(
            folder,
            records,
            classes=real.classes,
            fingerprint=fingerprint,
            arrays=real.arrays,
            real=real.info["fingerprint"],
            synthetic=synthetic.info["fingerprint"],
            synthetic_pairs=len(chosen),
            class_balance=balance,
            **{LEARNT: _learnt(real, synthetic)},
            **({"frame": real.frame} if real.frame else {}),
        )
        write_json(folder / "class_balance.json", balance)
    log.info("before:\n%s", balance_table(class_counts(real.records)))
    log.info("after, in %s:\n%s", output.path, balance_table(class_counts(records)))
    log.info("%s; %d of %d synthetic pairs used", balance["text"], len(chosen), len(synthetic))
    return read_samples(output.path)


def _duplicate_bits(config: CombineConfig, real: SampleSet) -> int:
    """The distance within which pictures count as one: what the real data set was split by, unless set."""
    if config.duplicate_bits is not None:
        return config.duplicate_bits
    return int(real.info.get("duplicates", {}).get("bits", PrepareConfig.duplicate_bits))


def _check_roles(real: SampleSet, synthetic: SampleSet) -> None:
    """Raise `UserError` unless one set is all real, the other all synthetic with provenance, and the classes fit."""
    generated = [r.id for r in real.records if r.is_synthetic]
    if generated:
        found = f"{len(generated)} synthetic pairs, the first {generated[0]}"
        hint = "Give the folder that prepare wrote (are the two folders swapped?)."
        raise UserError(real.root, found, "only real pairs as --real_data", hint)
    others = [r.id for r in synthetic.records if not r.is_synthetic]
    if others:
        found = f"{len(others)} pairs that are not synthetic, the first {others[0]}"
        hint = "Give the folder that generate wrote."
        raise UserError(synthetic.root, found, "only synthetic pairs as --synthetic_data", hint)
    unknown = sorted(set(synthetic.classes) - set(real.classes))
    if unknown:
        found = f"classes {', '.join(unknown)}, which the real data lacks"
        raise UserError(synthetic.root, found, f"some of {', '.join(real.classes)}", "Generate from the same data.")
    if not synthetic.arrays.same_as(real.arrays):
        expected = f"{real.arrays}, as --real_data"
        raise UserError(synthetic.root, str(synthetic.arrays), expected, "Generate from that data.")
    if not len(real.select("train")):
        raise UserError(real.root, "no pair in train", "at least one", "Prepare the data with a train split.")


def _check_pictures(pairs: SampleSet, what: str) -> None:
    """Read every picture and mask of a set, which refuses those that are not what their rows describe."""

    def read(record: SampleRecord) -> None:
        pairs.read_image(record)
        if record.mask_file_name:
            pairs.read_mask(record)

    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        for _ in progress_bar(pool.map(read, pairs.records), f"checking {what}", len(pairs), unit="pair", leave=False):
            pass


def _train_hashes(synthetic: SampleSet) -> list[dict[str, str]]:
    """Hashes of the pictures that the generating checkpoint was trained on, as its dataset.json says."""
    checkpoint = synthetic.info.get("checkpoint")
    hashes = checkpoint.get("train_hashes") if isinstance(checkpoint, Mapping) else None
    complete = isinstance(hashes, list) and all({"image_hash", "perceptual_hash"} <= set(h) for h in hashes)
    if not complete or not hashes:
        expected = "checkpoint.train_hashes, the pictures that the checkpoint was trained on"
        raise UserError(synthetic.root / DATASET_FILE, "no such entry", expected, "Generate the pairs anew.")
    return list(hashes)


def _learnt(real: SampleSet, synthetic: SampleSet) -> list[str]:
    """Perceptual hashes of the real pictures behind the combined train split, whether or not they stand in it."""
    shown = {r.perceptual_hash for r in real.select("train").records}
    return sorted(shown | {h["perceptual_hash"] for h in _train_hashes(synthetic)})


def _check_leakage(real: SampleSet, synthetic: SampleSet, bits: int) -> None:
    """Raise `UserError` where a val or test picture was seen in training, or comes back as a synthetic picture."""
    held_out = dataclasses.replace(real, records=tuple(r for r in real.records if r.split != "train"))
    _check_pictures(real, "real pairs")
    _check_pictures(synthetic, "synthetic pairs")
    _check_conditioning_masks(held_out, synthetic)
    _check_inpainted(held_out, synthetic)
    seen = _train_hashes(synthetic)
    exact, looks = [h["image_hash"] for h in seen], [h["perceptual_hash"] for h in seen]
    leaked = _near(held_out, exact, looks, bits)
    if leaked:
        where, distance = next(iter(leaked.items()))
        found = f"{len(leaked)} val or test pictures that the checkpoint was trained on"
        found += f", the first {where} ({distance} bits away)"
        hint = "Generate from a checkpoint that was trained on the train split of this very data set."
        raise UserError(real.root, found, f"none within {bits} bits", hint)
    shown = [r.image_hash for r in synthetic.records], _looks(synthetic, real.frame)
    copied = _near(held_out, *shown, SAME_PICTURE_BITS)
    if copied:
        where, distance = next(iter(copied.items()))
        found = f"copies of {len(copied)} val or test pictures, the first of {where} ({distance} bits away)"
        raise UserError(synthetic.root, found, f"none within {SAME_PICTURE_BITS} bits", "Leave these pairs out.")


def _looks(synthetic: SampleSet, frame: Frame | None) -> list[str]:
    """Perceptual hashes of synthetic images within the border that the real ones share, as those were hashed."""
    if frame == synthetic.frame:
        return [r.perceptual_hash for r in synthetic.records]
    return [perceptual_hash(synthetic.read_image(r), frame) for r in synthetic.records]


def _check_conditioning_masks(held_out: SampleSet, synthetic: SampleSet) -> None:
    """Raise `UserError` where images were sampled for the mask of a val or test picture, or for one of its group.

    Masks are compared by group, by content, and resized to the size of the network: so one that was saved at another
    size, mirrored, or sampled for once already, is recognised. One that was edited beyond `SAME_MASK` is not.
    """
    entry = synthetic.info.get("conditioning_masks", [])
    if not isinstance(entry, list) or not all(isinstance(value, str) for value in entry):
        expected = "conditioning_masks: the hashes of the masks that were given"
        raise UserError(synthetic.root / DATASET_FILE, "something else", expected, "Generate the pairs anew.")
    hashes = set(entry)
    if not hashes:
        return
    hint = "Sample images for masks of the train split."
    groups = {r.group: r for r in held_out.records}
    shared = [r for r in synthetic.records if r.group in groups]
    if shared:
        other = groups[shared[0].group]
        found = f"{shared[0].id}, sampled for a mask in the group of {other.id} ({other.split})"
        raise UserError(synthetic.root, found, "pairs sampled for masks of train alone", hint)
    lesions = held_out.arrays.lesions
    leaked = [r for r in held_out.records if r.mask_hash in hashes and lesions(held_out.read_mask(r)).any()]
    if leaked:
        found = f"images sampled for the masks of {len(leaked)} val or test pictures, the first of {leaked[0].id}"
        raise UserError(synthetic.root, found, "masks of train alone", hint)
    likest = _likest_masks(held_out, synthetic)
    if likest is not None:
        found = f"{likest[0]}, whose mask is that of {likest[1]} (overlap {likest[2]:.3f})"
        raise UserError(synthetic.root, found, f"no mask of val or test (overlap below {SAME_MASK})", hint)


def _check_inpainted(held_out: SampleSet, synthetic: SampleSet) -> None:
    """Raise `UserError` where lesions were put into a val or test picture, or into one of its group."""
    entry = synthetic.info.get("inpainted_images", [])
    if not isinstance(entry, list) or not all(isinstance(value, str) for value in entry):
        expected = "inpainted_images: the hashes of the pictures that were given"
        raise UserError(synthetic.root / DATASET_FILE, "something else", expected, "Generate the pairs anew.")
    if not entry:
        return
    groups = {r.group for r in synthetic.records}
    leaked = [r for r in held_out.records if r.image_hash in set(entry) or r.group in groups]
    if leaked:
        found = f"lesions put into {len(leaked)} val or test pictures or their like, the first of {leaked[0].id}"
        raise UserError(synthetic.root, found, "pictures of train alone", "Put them into pictures of the train split.")


def _likest_masks(held_out: SampleSet, synthetic: SampleSet) -> tuple[str, str, float] | None:
    """Ids of a synthetic and a held-out pair whose lesion masks are one, and their intersection over union.

    None of label maps: tissue lies alike in all pictures.
    """
    if not held_out.arrays.is_binary:
        return None
    sampled = {r.mask_hash: r for r in synthetic.records}
    masks = [synthetic.arrays.lesions(synthetic.read_mask(r)) > 127 for r in sampled.values()]
    for shape in sorted({mask.shape for mask in masks}):
        rows = [(r, m) for r, m in zip(sampled.values(), masks, strict=True) if m.shape == shape]
        plain = [(r, _resized(held_out.arrays.lesions(held_out.read_mask(r)), shape) > 127) for r in held_out.records]
        theirs = plain + [(r, mask[:, ::-1]) for r, mask in plain]  # mirrored, as augmentation does
        ours, others = (np.stack([m.ravel() for _, m in some]).astype(np.float32) for some in (rows, theirs))
        both = ours @ others.T
        union = ours.sum(axis=1)[:, None] + others.sum(axis=1)[None, :] - both
        overlap = np.where(union > 0, both / np.maximum(union, 1), 0.0)
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        if overlap[i, j] >= SAME_MASK:
            return rows[i][0].id, theirs[j][0].id, float(overlap[i, j])
    return None


def _resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask at the (H, W) of another one, soft at its edges."""
    how = cv2.INTER_AREA if mask.shape[0] >= shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask, (shape[1], shape[0]), interpolation=how))


def _near(pairs: SampleSet, exact: list[str], looks: list[str], bits: int) -> dict[str, int]:
    """Pairs whose picture is among the given exact hashes or near one of the perceptual ones: {id: distance, bits}."""
    if not len(pairs) or not looks:
        return {}
    nearest = hash_distances([r.perceptual_hash for r in pairs.records], looks).min(axis=1)
    known = set(exact)
    rows = zip(pairs.records, nearest, strict=True)
    return {r.id: int(distance) for r, distance in rows if r.image_hash in known or distance <= bits}


def plan_counts(
    real: Mapping[str, int], available: Mapping[str, int], wanted: int | None, balance: bool
) -> dict[str, int]:
    """How many synthetic pairs of each class to add to train.

    `real`: real pairs that stay in train; `wanted`: synthetic pairs altogether (None: as many as there are).
    With `balance`, always one more to the rarest class, until `wanted` or until a rarest class has no more to give:
    beyond that point classes would drift apart. Without, `wanted` is shared out like the available pairs.
    """
    counts = dict.fromkeys(real, 0)
    total = sum(available.values())
    if not balance:
        share = 1.0 if wanted is None else min(1.0, wanted / max(total, 1))
        exact = {label: share * available[label] for label in real}
        counts = {label: int(value) for label, value in exact.items()}
        rest = round(sum(exact.values())) - sum(counts.values())  # goes to the largest remainders
        for label in sorted(exact, key=lambda label: counts[label] - exact[label])[:rest]:
            counts[label] += 1
        return counts
    while wanted is None or sum(counts.values()) < wanted:
        level = min(real[label] + counts[label] for label in real)
        rarest = [label for label in real if real[label] + counts[label] == level]
        if any(counts[label] == available[label] for label in rarest):
            break
        counts[rarest[0]] += 1
    return counts


def choose(real: SampleSet, synthetic: SampleSet, config: CombineConfig) -> list[SampleRecord]:
    """The synthetic pairs to add, chosen by seed; a larger ratio takes the same pairs and more.

    Raises `UserError` where none can be added; says in the log where fewer than wanted are there.
    """
    before = Counter(r.label for r in real.select("train").records)
    kept = {label: 0 if config.synthetic_only else before[label] for label in real.classes}
    have = Counter(r.label for r in synthetic.records)
    available = {label: have[label] for label in real.classes}
    wanted = None if config.ratio is None else round(config.ratio * sum(before.values()))
    counts = plan_counts(kept, available, wanted, config.balance)
    chosen: list[SampleRecord] = []
    for index, (label, count) in enumerate(counts.items()):
        records = sorted(synthetic.select(label=label).records, key=lambda r: r.id)
        order = np.random.default_rng([config.seed, index]).permutation(len(records))[:count]
        chosen += [records[i] for i in sorted(order)]
    _report_shortage(kept, counts, available, wanted, config, synthetic.root)
    return chosen


def _report_shortage(
    kept: Mapping[str, int],
    counts: Mapping[str, int],
    available: Mapping[str, int],
    wanted: int | None,
    config: CombineConfig,
    root: Path,
) -> None:
    """Warn where too few pairs are there for the wanted number or for balance; `UserError` where there is none."""
    added = sum(counts.values())
    text = ", ".join(f"{n} {label}" for label, n in available.items())
    if not added:
        expected = "pairs of the rarest class to balance train with" if config.balance else "at least one pair"
        raise UserError(root, f"only {text}", expected, "Generate more, raise --ratio, or set --balance false.")
    if wanted is not None and added < wanted:
        log.warning("%d synthetic pairs wanted, %d added: there are %s", wanted, added, text)
    levels = {label: kept[label] + counts[label] for label in kept}
    if config.balance and max(levels.values()) - min(levels.values()) > 1:
        log.warning("classes of train are not balanced (%s): there are %s synthetic pairs", levels, text)


def _renamed(
    real: SampleSet, synthetic: SampleSet, chosen: list[SampleRecord]
) -> list[tuple[SampleSet, SampleRecord, SampleRecord]]:
    """Chosen pairs as (set, record there, record here): in train, in no fold, with ids and groups of their own."""
    ids, groups = {r.id for r in real.records}, {r.group for r in real.records}
    # A pair then stays in the group of its mask, or of the picture that it shows
    conditioned = any(synthetic.info.get(name) for name in ("conditioning_masks", "inpainted_images"))
    # One clash renames all: ids of one origin keep one pattern, and stay unique among themselves.
    clash = any(r.id in ids or (r.group in groups and not conditioned) for r in chosen)
    prefix = "syn_" if clash else ""
    group_prefix = "" if conditioned else prefix
    return [
        (synthetic, r, dataclasses.replace(r, id=prefix + r.id, group=group_prefix + r.group, split="train", fold=-1))
        for r in chosen
    ]


def _link_all(folder: Path, items: list[tuple[SampleSet, SampleRecord, SampleRecord]]) -> list[SampleRecord]:
    """Link or copy the files of all pairs into `folder`; returns their records there."""
    for name in ("images", "masks"):
        make_folder(folder / name)
    records = []
    for pairs, there, here in progress_bar(items, desc="linking pairs", unit="pair", leave=False):
        names = f"images/{here.id}.png", f"masks/{here.id}.png" if there.mask_file_name else ""
        for old, new in zip((there.image_file_name, there.mask_file_name), names, strict=True):
            if old:
                _link(pairs.root / old, folder / new)
        records.append(dataclasses.replace(here, image_file_name=names[0], mask_file_name=names[1]))
    return records


def _link(source: Path, target: Path) -> None:
    """Hard link, or a copy where the file system (another disk, FAT) has none. A staged folder begins empty."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def describe_balance(real: SampleSet, records: list[SampleRecord]) -> dict[str, Any]:
    """Classes of train before and after: counts, shares, and one line such as "68/32 -> 50/50"."""

    def shares(counts: Mapping[str, int]) -> dict[str, float]:
        return {label: round(n / max(sum(counts.values()), 1), 4) for label, n in counts.items()}

    first = Counter(r.label for r in real.select("train").records)
    last = Counter(r.label for r in records if r.split == "train")
    generated = Counter(r.label for r in records if r.is_synthetic)
    before, after, added = ({label: c[label] for label in real.classes} for c in (first, last, generated))
    texts = ["/".join(f"{100 * share:.0f}" for share in shares(c).values()) for c in (before, after)]
    return {
        "text": f"{'/'.join(real.classes)} in train, %: {texts[0]} -> {texts[1]}",
        "train_before": {"counts": before, "shares": shares(before)},
        "train_after": {"counts": after, "shares": shares(after), "synthetic": added},
    }


def _metadata_hash(pairs: SampleSet) -> str:
    """SHA-256 of metadata.csv, which holds the hash of every picture."""
    return hashlib.sha256((pairs.root / METADATA_FILE).read_bytes()).hexdigest()
