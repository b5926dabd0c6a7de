"""What has to hold for every input: hypothesis looks for the one for which it does not.

The search is the same in every run (`derandomize`), so that a failure here is never chance.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from medsegdiff.cli import parse
from medsegdiff.data.combine import plan_counts
from medsegdiff.data.hashing import content_hash
from medsegdiff.data.records import METADATA_FILE, SPLITS, SampleRecord, SampleSet, read_samples, write_samples
from medsegdiff.data.splits import assign_folds, assign_splits
from medsegdiff.engine.files import differing_keys, write_png
from medsegdiff.engine.settings import Precision, fingerprint_of
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.noise import loss_weight
from medsegdiff.generators.joint_diffusion.samplers import SAMPLERS
from medsegdiff.synthesis.masks import agreement, entropy

# One folder serves all examples of a test: each writes all the files that it reads.
SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(
    SETTINGS, max_examples=20, phases=[Phase.generate]
)  # where an example takes long, a failure stays as found

NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from(",;\"' \\\n\r"), min_size=1, max_size=8)
PRINTABLE = NAMES.filter(str.isprintable)
IDS = PRINTABLE.filter(lambda name: not set(name) & {"/", "\\"})
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
LABELS = ["benign, dense", 'a "b"\nc']  # what only quotes bring through a CSV
SHARES = st.just(0.0) | st.floats(0.01, 0.45)


@st.composite
def records(draw: st.DrawFn) -> list[SampleRecord]:
    """Rows of samples with unlike ids, each group in one split; the pictures are always the same two files."""
    rows = []
    splits: dict[str, str] = {}
    for name in draw(st.lists(IDS, max_size=5, unique=True)):
        group = draw(PRINTABLE)
        row = st.builds(
            SampleRecord,
            id=st.just(name),
            image_file_name=st.just("a.png"),
            mask_file_name=st.just("b, c.png"),
            label=st.sampled_from(LABELS),
            split=st.just(splits.setdefault(group, draw(st.sampled_from(SPLITS)))),
            fold=st.integers(-1, 99),
            group=st.just(group),
            source=NAMES | st.just(""),
            pixel_aspect=st.floats(0, exclude_min=True, allow_infinity=False),
            width=st.integers(1, 10_000),
            height=st.integers(1, 10_000),
            image_hash=HASHES,
            mask_hash=HASHES,
            perceptual_hash=HASHES,
            **dict.fromkeys(("text", "modality", "subject", "generator", "derived_from"), NAMES | st.just("")),
            attributes=st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        )
        rows.append(draw(row))
    return rows


def write_and_read(folder: Path, rows: list[SampleRecord]) -> SampleSet:
    """What is read of a folder that these rows were written to."""
    for name in ("a.png", "b, c.png"):
        write_png(folder / name, np.zeros((1, 1), np.uint8))
    write_samples(folder, rows, classes=LABELS, fingerprint={})
    return read_samples(folder)


@SETTINGS
@given(rows=records())
def test_metadata_comes_back_as_it_was_written(rows: list[SampleRecord], tmp_path: Path) -> None:
    """Damage: joining cells with commas; rounding floats; splitting the text at line ends before it is parsed."""
    found = write_and_read(tmp_path, rows)
    assert list(found.records) == sorted(rows, key=lambda r: r.id)
    assert found.classes == LABELS
    with (tmp_path / METADATA_FILE).open(encoding="utf-8", newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [r.source for r in found.records]


def test_a_carriage_return_comes_back(tmp_path: Path) -> None:
    """Damage: a picture called `a\\r.png` (Linux allows it), whose row csv writes without quotes."""
    row = SampleRecord("a", "a.png", "a.png", LABELS[0], "train", 0, "g", "busi:a\r.png", 1.0, 1, 1, *["0" * 64] * 3)
    assert write_and_read(tmp_path, [row]).records == (row,)


@st.composite
def grouped(draw: st.DrawFn, mixed: bool) -> tuple[list[str], list[str]]:
    """Labels and groups of pictures; with `mixed`, some groups hold pictures of several classes."""
    sizes = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=1, max_size=40))
    labels, groups = [], []
    for number, (label, size) in enumerate(sizes):
        whole = [draw(st.sampled_from("abc")) if mixed else label for _ in range(size)]
        labels += whole
        groups += [f"g{number}"] * size
    return labels, groups


def groups_by_class(labels: list[str], groups: list[str]) -> Counter[str]:
    """How many groups hold a picture of each class."""
    return Counter(label for label, _ in set(zip(labels, groups, strict=True)))


@SETTINGS
@given(
    pictures=grouped(mixed=True) | grouped(mixed=False),
    val=SHARES,
    test=SHARES,
    folds=st.integers(2, 4),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_groups_stay_whole_whatever_the_shares(
    pictures: tuple[list[str], list[str]], val: float, test: float, folds: int, seed: int, shuffle: random.Random
) -> None:
    """Damage: groups ignored, or made per class; a result that hangs on the order of the pictures."""
    labels, groups = pictures
    used = 1 + (val > 0) + (test > 0)
    try:
        splits = assign_splits(labels, groups, val, test, seed)
        places = assign_folds(labels, groups, splits, folds, seed)
    except UserError:
        # refused only where a class is small: test takes groups from the folds
        assert min(groups_by_class(labels, groups).values()) < used or test > 0 or folds > used
        return
    assert set(splits) <= {"train", "val" if val else "train", "test" if test else "train"}
    assert all((fold == -1) == (split == "test") for fold, split in zip(places, splits, strict=True))
    for where in (splits, places):
        assert len(set(zip(groups, where, strict=True))) == len(set(groups))
    order = list(range(len(labels)))
    shuffle.shuffle(order)
    again = assign_splits([labels[i] for i in order], [groups[i] for i in order], val, test, seed)
    assert again == [splits[i] for i in order]


@SETTINGS
@given(pictures=grouped(mixed=False), val=SHARES, test=SHARES, seed=st.integers(0, 2**32))
def test_shares_are_kept_as_nearly_as_groups_allow(
    pictures: tuple[list[str], list[str]], val: float, test: float, seed: int
) -> None:
    """Damage: filling by absolute lack; stratifying over all classes together; small groups first."""
    labels, groups = pictures
    shares = {name: s for name, s in (("train", 1 - val - test), ("val", val), ("test", test)) if s > 0}
    assume(min(groups_by_class(labels, groups).values()) >= len(shares))
    counts = Counter(zip(labels, assign_splits(labels, groups, val, test, seed), strict=True))
    for label, whole in Counter(labels).items():
        largest = max(Counter(g for g, one in zip(groups, labels, strict=True) if one == label).values())
        for split, share in shares.items():
            assert counts[label, split] > 0
            assert counts[label, split] < share * whole + largest + 1e-9


COUNTS = st.fixed_dictionaries({label: st.integers(0, 40) for label in "abc"})


@SETTINGS
@given(real=COUNTS, available=COUNTS, wanted=st.none() | st.integers(0, 150), balance=st.booleans())
def test_what_is_added_exists_and_balances(
    real: dict[str, int], available: dict[str, int], wanted: int | None, balance: bool
) -> None:
    """Damage: stopping one pair late; adding to the largest class; going on where the rarest class has none left."""
    counts = plan_counts(real, available, wanted, balance)
    added = sum(counts.values())
    assert all(0 <= counts[label] <= available[label] for label in real)
    if not balance:
        goal = sum(available.values()) if wanted is None else min(wanted, sum(available.values()))
        assert added == goal
        return
    levels = {label: real[label] + counts[label] for label in real}
    rarest = [label for label, level in levels.items() if level == min(levels.values())]
    assert all(levels[label] <= min(levels.values()) + 1 for label in real if counts[label])
    assert wanted is None or added <= wanted
    assert added == wanted or any(counts[label] == available[label] for label in rarest)


LEVELS = st.floats(1e-3, 80) | st.just(0.0)


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """(T + 1, 2) levels that never rise, with rows that repeat."""
    rows = draw(st.integers(2, 5))
    columns = [sorted(draw(st.lists(LEVELS, min_size=rows, max_size=rows)), reverse=True) for _ in range(2)]
    for column in columns:
        still = draw(st.integers(0, rows))  # the first rows stand still: hidden, or with 0 in them given
        column[:still] = [column[0]] * still
        column[still:] = sorted((min(level, column[0]) for level in column[still:]), reverse=True)
    return torch.tensor(columns, dtype=torch.float64).T


def bend(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that mixes channels and levels; nothing about it is linear."""
    return torch.tanh(x.flip(1) - 0.3 * x + sigma.to(x).sum())


@pytest.mark.parametrize("name", list(SAMPLERS))
@SETTINGS
@given(table=tables(), seed=st.integers(0, 99))
def test_a_column_that_stands_still_is_not_touched(name: str, table: Tensor, seed: int) -> None:
    """Damage: a x + (1 - a) D without `where`, with a = 0 for a column at 0; noise where nothing moves."""
    normal = torch.Generator().manual_seed(seed)
    start = torch.randn(2, 3, 4, 4, generator=normal) * 3
    modality = torch.tensor([0, 0, 1])
    noise = torch.randn(len(table), *start.shape, generator=normal)
    # A walk of one row more goes the same way up to there, so that single steps can be looked at from outside.
    walks = [SAMPLERS[name](bend, start, table[: n + 1], modality, lambda s: noise[s]) for n in range(len(table))]
    for row, (before, after) in enumerate(zip(walks[:-1], walks[1:], strict=True)):
        assert bool(torch.isfinite(after).all())
        for column in range(2):
            same = torch.equal(before[:, modality == column], after[:, modality == column])
            level, level_next = table[row : row + 2, column].tolist()
            assert same or level_next < level
            assert not same or level_next > 0.9 * level or level == 0  # a small step may be lost in rounding


@pytest.mark.parametrize("process", ["edm", "ddpm"])
@SETTINGS
@given(sigma=st.lists(LEVELS, min_size=1, max_size=6), min_snr=st.floats(0.1, 100))
def test_only_a_clean_modality_weighs_nothing(process: str, sigma: list[float], min_snr: float) -> None:
    """Damage: the weight of another level for a clean modality, which its error of 0 hides; no cap, or a floor."""
    config = DiffusionConfig(process=process, min_snr=min_snr)
    weights = loss_weight(torch.tensor(sigma, dtype=torch.float64), config).tolist()
    assert all((weight == 0) == (level == 0) for weight, level in zip(weights, sigma, strict=True))
    assert all(0 <= weight <= (min_snr if process == "ddpm" else math.inf) for weight in weights)
    assert all(math.isfinite(weight) for weight in weights)


TEXTS = PRINTABLE.filter(lambda text: text.strip() and text[0] != "~") | st.sampled_from(
    ["null", "1e3", "yes", "~", "[a]", "{", "a: b", "#", "-"]
)
POSITIVE = st.floats(1e-12, 1e12)
TRAIN_CONFIGS = st.builds(
    TrainConfig,
    data_dir=TEXTS,
    output_dir=TEXTS,
    img_size=st.integers(1, 128).map(lambda side: 32 * side),
    lr=POSITIVE,
    condition_dropout=st.floats(0, 1),
    augment=st.booleans(),
    precision=st.sampled_from(get_args(Precision)),
    seed=st.integers(0, 2**63 - 1),
    model=st.builds(ModelConfig, channel_mult=st.lists(st.integers(1, 9), min_size=1, max_size=4), dropout=SHARES),
    diffusion=st.builds(DiffusionConfig, process=st.sampled_from(["edm", "ddpm"]), sigma_min=st.floats(1e-12, 79)),
)


@FEW
@given(config=TRAIN_CONFIGS)
def test_settings_survive_yaml(config: TrainConfig, tmp_path: Path) -> None:
    """Damage: 1e-05 read as text; a text such as `null` or `1` read as something else; nested settings lost."""
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps(dataclasses.asdict(config), ensure_ascii=False))  # which is YAML with all texts quoted
    assert parse("train", TrainConfig, ["--config", str(path)]) == config


def outer(lines: list[str]) -> set[str]:
    """The outermost keys that lines of `differing_keys` name."""
    return {line.partition(":")[0].partition(".")[0] for line in lines}


@SETTINGS
@given(config=TRAIN_CONFIGS, other=TRAIN_CONFIGS)
def test_identities_differ_where_settings_do(config: TrainConfig, other: TrainConfig) -> None:
    """Damage: comparing the keys of one side only; confusing 1 with 1.0 after JSON; a field left out by mistake."""
    first, second = (fingerprint_of(c, "train", ("data_dir", "output_dir")) for c in (config, other))
    assert differing_keys(first, json.loads(json.dumps(first))) == []
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(other, f.name)}
    named = outer(differing_keys(first, second))
    assert named == changed - {"data_dir", "output_dir"}
    assert outer(differing_keys(second, first)) == named
    assert outer(differing_keys({}, first)) == set(first)


def test_differences_are_named_within_mappings() -> None:
    """Damage: two whole mappings reported for one setting, or a setting that one side lacks reported as None."""
    old = {"lr": 1, "model": {"depth": 4, "heads": 2}}
    new = {"lr": 1, "model": {"depth": 4, "heads": 3, "reported": None}, "share": 0.5}
    assert differing_keys(old, new) == [
        "model.heads: 2 -> 3",
        "model.reported: nothing -> None",
        "share: nothing -> 0.5",
    ]


PICTURES = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8))


@SETTINGS
@given(picture=PICTURES, data=st.data())
def test_every_pixel_counts_in_the_hash(picture: np.ndarray[Any, Any], data: st.DataObject) -> None:
    """Damage: hashing a thumbnail, the first bytes, or the memory of a view instead of its pixels."""
    changed = picture.copy()
    place = tuple(data.draw(st.integers(0, side - 1)) for side in picture.shape)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert content_hash(changed) != content_hash(picture)
    assert content_hash(np.asfortranarray(picture)) == content_hash(picture)
    if picture.shape[0] != picture.shape[1]:
        assert content_hash(picture.reshape(picture.shape[::-1])) != content_hash(picture)


@SETTINGS
@given(share=st.floats(0, 1) | st.floats(0, 1e-9))
def test_entropy_is_bits_of_doubt(share: float) -> None:
    """Damage: natural logarithms; nan or below 0 at 0 and 1; one side of one half above the other."""
    value, mirrored, worst = entropy(np.array([share, 1 - share, 0.5]))
    assert 0 <= value <= worst == 1
    assert math.isclose(value, mirrored, abs_tol=1e-9)
    assert entropy(np.array([share / 2]))[0] <= value or share > 0.5


@SETTINGS
@given(masks=arrays.arrays(np.bool_, st.tuples(st.integers(2, 5), st.just(3), st.just(4))), data=st.data())
def test_agreement_is_a_share(masks: np.ndarray[Any, Any], data: st.DataObject) -> None:
    """Damage: 0 / 0 for empty masks; couples of a mask with itself counted; unequal masks in full agreement."""
    value = agreement(masks)
    assert 0 <= value <= 1
    assert (value == 1) == bool((masks == masks[0]).all())
    assert math.isclose(agreement(masks[data.draw(st.permutations(range(len(masks))))]), value, abs_tol=1e-12)
    if len(masks) == 2 and masks.any():
        assert math.isclose(value, 2 * (masks[0] & masks[1]).sum() / masks.sum())
