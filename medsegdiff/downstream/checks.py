"""What is refused before anything is trained: settings that cannot work, data that would flatter the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.records import SampleRecord, SampleSet
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.supervised import SIZE_FACTOR
from medsegdiff.errors import UserError, require, require_fraction, require_positive


def check_settings(config: SegmentConfig) -> None:
    """Raise `UserError` for a setting that cannot work, before anything is read."""
    require_positive(
        patience=config.patience,
        evals=config.evals,
        lr=config.lr,
        grad_clip=config.grad_clip,
        img_size=config.img_size,
        bootstrap=config.bootstrap,
        save_every=config.save_every,
    )
    for name in ("epochs", "steps"):
        value = getattr(config, name)
        require(value is None or value > 0, f"--{name}", value, "a number above 0")
    both = config.epochs is not None and config.steps is not None
    require(not both, "--epochs and --steps", "both", "one of them", "Leave one out.")
    require(config.seed >= 0, "--seed", config.seed, "0 or more")
    require(config.weight_decay >= 0, "--weight_decay", config.weight_decay, "0 or more")
    require(config.warmup_steps >= 0, "--warmup_steps", config.warmup_steps, "0 or more")
    require(0 <= config.ema_decay < 1, "--ema_decay", config.ema_decay, "from 0 to below 1")
    require(0 <= config.dropout < 1, "--dropout", config.dropout, "from 0 to below 1")
    require(0 <= config.label_smoothing < 1, "--label_smoothing", config.label_smoothing, "from 0 to below 1")
    require_fraction("progressive_resizing", config.progressive_resizing)
    require(config.batch_size >= 2, "--batch_size", config.batch_size, "2 or more, as batch normalisation needs")
    below = max(SIZE_FACTOR, config.img_size // SIZE_FACTOR * SIZE_FACTOR)
    expected = f"a multiple of {SIZE_FACTOR}, such as {below} or {below + SIZE_FACTOR}"
    require(config.img_size % SIZE_FACTOR == 0, "--img_size", config.img_size, expected)
    if config.seeds is not None:
        good = bool(config.seeds) and min(config.seeds) >= 0 and len(set(config.seeds)) == len(config.seeds)
        require(good, "--seeds", config.seeds, "one or more numbers of 0 or more, each once")
        require(config.seed == 0, "--seed and --seeds", "both", "one of them", "Leave one out.")
    if config.task == "classify":
        require(config.encoder is None, "--encoder", config.encoder, "none with --task classify", "Name it as --model.")


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
