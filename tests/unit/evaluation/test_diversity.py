"""Variety within a class: similarity of equal and of unlike pictures, and mode collapse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from evaluation_sets import context, sampled, three_sets
from scipy.ndimage import gaussian_filter

from medsegdiff.evaluation.metrics.set_distances import kernel_distance, polynomial_kernel
from medsegdiff.evaluation.metrics.similarity import ms_ssim, random_pairs
from medsegdiff.evaluation.section import Section
from medsegdiff.evaluation.sections import diversity
from medsegdiff.evaluation.sections.diversity import _similarity, repeated, run
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.bootstrap import mean_interval

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "PAIRS", 80)


def scenes(count: int, seed: int, prefix: str) -> Pairs:
    """Pairs whose pictures are smooth clouds, each unlike the others, with little noise."""
    random = np.random.default_rng(seed)
    own = sampled(count, seed, prefix)
    clouds = np.stack([gaussian_filter(random.normal(size=i.shape), 5) for i in own.images])
    images = 128 + 60 * clouds / clouds.std(axis=(1, 2), keepdims=True) + random.normal(0, 4, clouds.shape)
    return dataclasses.replace(own, images=images.clip(0, 255).astype(np.uint8))


def reported(own: Pairs) -> Section:
    """The section for synthetic scenes among real ones."""
    sets = dataclasses.replace(three_sets(own), train=scenes(60, 1, "train"), held_out=scenes(44, 2, "held"))
    section = run(context(sets, bootstrap=50))
    json.dumps(section.values, allow_nan=False)
    return section


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_a_picture_is_wholly_like_itself_at_any_size(size: int) -> None:
    """Damage: scales do not fit the size, their weights do not sum to 1, or values are clipped wrongly."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (2, size, size), dtype=np.uint8)
    other = random.integers(0, 256, (2, size, size), dtype=np.uint8)
    assert ms_ssim(picture, picture) == pytest.approx([1, 1], abs=1e-5)
    assert (ms_ssim(picture, other) < 0.2).all()
    noisy = (picture // 2 + other // 8).astype(np.uint8)
    assert ((ms_ssim(picture, noisy) > 0.3) & (ms_ssim(picture, noisy) < 0.999)).all()


def test_similarity_has_the_published_weights_where_all_scales_fit() -> None:
    """Damage: MS-SSIM at 256 pixels is not what torchmetrics computes by its defaults."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    first, second = (np.stack([i.repeat(4, 0).repeat(4, 1) for i in scenes(2, s, "s").images]) for s in (1, 2))
    second = (first // 2 + second // 2).astype(np.uint8)
    x, y = (torch.from_numpy(p[:, None]).float() / 255 for p in (first, second))
    expected = theirs(x, y, data_range=1.0, reduction="none").numpy()
    assert ms_ssim(first, second) == pytest.approx(expected, abs=1e-3)  # published weights sum to 1.0001


def test_constant_pictures_have_a_similarity() -> None:
    """Damage: a picture without any contrast divides by zero."""
    black, white = np.zeros((1, 64, 64), np.uint8), np.full((1, 64, 64), 255, np.uint8)
    assert ms_ssim(black, black) == pytest.approx([1], abs=1e-5)
    assert np.isfinite(ms_ssim(black, white)).all()


def test_random_pairs_are_unlike_and_of_unlike_groups() -> None:
    """Damage: a picture is paired with itself or its near-duplicate, or a pair comes twice."""
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    pairs = random_pairs(groups, 100, np.random.default_rng(0))
    assert len(pairs) == 15 - 1 - 3
    assert len({tuple(p) for p in pairs}) == 11
    assert (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
    assert len(random_pairs(groups, 4, np.random.default_rng(0))) == 4
    assert random_pairs(np.array(["a", "a"]), 4, np.random.default_rng(0)).shape == (0, 2)


def test_scenes_of_one_kind_are_as_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: synthetic pictures of the real kind do not pass, or a set is compared with another one's pairs."""
    monkeypatch.setattr(diversity, "PAIRS", 250)
    section = reported(scenes(48, 3, "synthetic"))
    assert section.verdict is not None
    assert section.verdict.outcome == "pass"
    for label in ("benign", "malignant"):
        v = section.values[label]
        assert v["synthetic"]["low"] < v["train"]["high"] + 0.02
        assert v["very_alike"]["value"] < 0.05
        assert (v["repeated"], v["pairs"], v["pictures"]) == (0, 250, 24)
    assert len(section.figures) == 3
    assert not section.skipped


def test_one_picture_repeated_is_shouted_at() -> None:
    """Damage: mode collapse passes, or similarity of equal pictures is not 1."""
    own = scenes(48, 3, "synthetic")
    section = reported(dataclasses.replace(own, images=np.repeat(own.images[:1], 48, axis=0)))
    assert section.verdict is not None
    assert section.verdict.outcome == "fail"
    assert section.verdict.sentence.startswith("MODE COLLAPSE")
    assert section.values["benign"]["synthetic"]["low"] == pytest.approx(1, abs=1e-5)
    assert section.values["benign"]["repeated"] == 23


def test_collapse_behind_fresh_noise_is_seen() -> None:
    """Damage: only pictures that are equal to the pixel count as repeated."""
    own = scenes(48, 3, "synthetic")
    noise = np.random.default_rng(9).normal(0, 4, own.images.shape)
    images = (own.images[:1] + noise).clip(0, 255).astype(np.uint8)
    section = reported(dataclasses.replace(own, images=images))
    assert section.verdict is not None
    assert section.verdict.sentence.startswith("MODE COLLAPSE")
    assert section.values["benign"]["repeated"] == 0
    assert section.values["benign"]["very_alike"]["low"] == 1


def test_collapse_of_half_of_one_class_is_seen() -> None:
    """Damage: only the mean over a class, or over all classes, decides."""
    own = scenes(48, 3, "synthetic")
    rows = own.of("malignant")[:12]
    own.images[rows] = own.images[rows[0]]
    section = reported(own)
    assert section.verdict is not None
    assert "MODE COLLAPSE" in section.verdict.sentence
    assert "malignant" in section.verdict.sentence
    assert "benign:" not in section.verdict.sentence
    assert repeated(own, own.of("malignant")) == 11
    # 12 x 11 of 24 x 23 pairs are equal, 12 x 11 of 48 x 47 if both classes were taken together
    assert section.values["malignant"]["very_alike"]["value"] > 0.12
    assert section.values["benign"]["very_alike"]["value"] < 0.1


def test_pictures_with_much_in_common_are_less_varied() -> None:
    """Damage: a set that shares half of every picture passes though no picture is repeated."""
    own = scenes(48, 3, "synthetic")
    shared = scenes(1, 8, "shared").images[0]
    own = dataclasses.replace(own, images=(own.images // 2 + shared // 2).astype(np.uint8))
    section = reported(own)
    assert section.verdict is not None
    assert section.verdict.outcome == "fail"
    assert section.values["benign"]["synthetic"]["low"] > section.values["benign"]["train"]["high"]


def test_too_few_pictures_are_reported() -> None:
    """Damage: nineteen pictures of a class get a figure, or are left out without a word."""
    section = reported(scenes(39, 3, "synthetic"))
    assert list(section.values) == ["benign"]
    assert any("malignant" in line and "19 synthetic" in line for line in section.skipped)
    one = dataclasses.replace(scenes(60, 1, "train"), groups=np.full(60, "one patient"))
    alone = dataclasses.replace(three_sets(scenes(40, 3, "synthetic")), train=one)
    section = run(context(alone, bootstrap=20))
    assert section.values == {}
    assert section.verdict is None
    assert len(section.skipped) == 2


def test_the_interval_is_over_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: pairs are sampled as if no picture stood in two of them: two thirds of the width are lost here."""
    monkeypatch.setattr(diversity, "PAIRS", 250)
    own = scenes(48, 3, "synthetic")
    rows = own.of("benign")[:8]  # a third of a class is dark, and dark pictures are alike
    own.images[rows] = (own.images[rows] // 16).astype(np.uint8)
    sets = dataclasses.replace(three_sets(own), train=scenes(60, 1, "train"), held_out=scenes(44, 2, "held"))
    found = _similarity(context(sets), "synthetic", "benign")
    v = run(context(sets, bootstrap=400)).values["benign"]["synthetic"]
    alone = mean_interval(found.values, np.arange(len(found.values)), 400, 0)
    assert v["high"] - v["low"] > 2.5 * (alone.high - alone.low)


def test_pictures_of_few_patients_are_reported() -> None:
    """Damage: many pairs of four patients get an interval, which would be of four."""
    patients = np.array([f"patient {i % 4}" for i in range(60)])
    few = dataclasses.replace(scenes(60, 1, "train"), groups=patients)
    section = run(context(dataclasses.replace(three_sets(scenes(40, 3, "synthetic")), train=few), bootstrap=20))
    assert section.values == {}
    assert len(section.skipped) == 2
    assert "few patients" in section.skipped[0]


def test_kernel_distance_is_that_of_torchmetrics() -> None:
    """Damage: the figure called KID is not what others call so (here, where torchmetrics is loaded anyway)."""
    from torchmetrics.image.kid import poly_mmd

    random = np.random.default_rng(7)
    x, y = random.normal(size=(30, 6)), random.normal(0.3, 1, size=(30, 6))
    kernels = [polynomial_kernel(a, b) for a, b in ((x, x), (y, y), (x, y))]
    theirs = poly_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert kernel_distance(*kernels) == pytest.approx(float(theirs))
