"""What is refused before anything is trained: data that would flatter the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.errors import UserError


def check_splits(pairs: SampleSet, mixing: str) -> None:
    """Raise `UserError` where a split or a class of one is empty, or where a picture of val or test is not clean.

    Clean: real, and neither it nor another one of its group is in an earlier split (train, val, test).
    """
    if pairs.records and all(record.is_synthetic for record in pairs.records):
        hint = "Make the data set with combine (--synthetic_only true for these pairs alone)."
        raise UserError(pairs.root, "synthetic pairs only", "real pairs in val and test", hint)
    for split in ("train", "val", "test"):
        if not len(pairs.select(split)):
            raise UserError(pairs.root, f"no pair in the {split} split", "at least one", "Prepare the data with it.")
        for label in pairs.classes:
            if not len(pairs.select(split, label)):
                found = f"no {split} image of class {label!r}"
                hint = f"Prepare the data with {'more images' if split == 'train' else f'a larger --{split}_fraction'}"
                raise UserError(pairs.root, found, "at least one of each class", f"{hint}, or without that class.")
    _check_kinds(pairs, mixing)
    seen: dict[str, SampleRecord] = {}
    for split in ("train", "val", "test"):
        held = pairs.select(split).records
        for record in held:
            if split != "train" and record.is_synthetic:
                hint = "Make the data set with combine, which puts them into train."
                raise UserError(f"{pairs.root}, {record.id}", f"a synthetic pair in {split}", "real pairs there", hint)
            for key in (record.group, record.image_hash):
                if key in seen:
                    found = f"the same group or picture in {split} and {seen[key].split} ({record.id}, {seen[key].id})"
                    raise UserError(pairs.root, found, "each in one split only", "Prepare the data anew.")
        seen |= {key: record for record in held for key in (record.group, record.image_hash)}


def _check_kinds(pairs: SampleSet, mixing: str) -> None:
    """Gradual mixing goes from synthetic to real pairs, and needs both."""
    kinds = {record.is_synthetic for record in pairs.select("train").records}
    if mixing == "gradual" and len(kinds) < 2:
        found = f"{'synthetic' if True in kinds else 'real'} pairs only in the train split of {pairs.root}"
        raise UserError("--mixing gradual", found, "real and synthetic ones", "Use --mixing all, or combine both.")


def check_comparable(
    folder: Path, baseline: dict[str, Any], ids: Sequence[str], digest: str, config: SegmentConfig
) -> None:
    """Raise `UserError` unless the run in `folder` was scored on the same test pairs, at the same size."""
    where = f"--baseline {folder}"
    hint = "Compare runs on data sets that share their test split."
    strangers = sorted(set(ids) ^ set(baseline["test_ids"]))
    if strangers:
        found = f"other test images ({len(strangers)} are in one run only, e.g. {strangers[0]!r})"
        raise UserError(where, found, "the same test images", hint)
    if baseline["test_digest"] != digest:
        raise UserError(where, "test images of the same names with other content", "the same test images", hint)
    if baseline["img_size"] != config.img_size:
        found = f"scores at {baseline['img_size']} pixels"
        raise UserError(where, found, f"scores at {config.img_size} pixels", "Train both runs at the same --img_size.")
