"""Radiomic features: closed forms on sampled pictures, and what they do with lesions that are not there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medsegdiff.features.radiomics import (
    FARTHEST,
    LESION,
    LEVELS,
    NAMES,
    PICTURE,
    co_occurrence,
    first_order,
    pair_radiomics,
    radiomics,
    run_lengths,
    standardised,
    wavelet_bands,
    without_lesion,
)

EVERYWHERE = np.ones((8, 8), dtype=bool)
UPRIGHT = np.tile(np.array([0, 1], np.uint8), (8, 4))  # columns of bin 0 and 1 in turn


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32) noisy images with a darker square each, and the squares."""
    masks = np.zeros((count, 32, 32), bool)
    masks[:, 8:20, 10:24] = True
    noise = np.random.default_rng(seed).normal(0, 15, masks.shape)
    return np.clip(np.where(masks, 70, 120) + noise, 0, 255).astype(np.uint8), masks


def test_run_lengths_of_stripes_are_those_counted_by_hand() -> None:
    """Damage: a direction is left out, runs go round a corner, or an emphasis is turned over.

    Upright stripes one pixel wide on 8 x 8: along rows 64 runs of 1, along columns 8 runs of 8, along either diagonal
    64 runs of 1, as neighbours along a diagonal lie in unlike columns.
    """
    short, long, grey, length, share = run_lengths(UPRIGHT, EVERYWHERE)
    assert short == pytest.approx((3 * 1 + 1 / 64) / 4)
    assert long == pytest.approx((3 * math.log(1) + math.log(64)) / 4)
    assert grey == pytest.approx(0.5)
    assert length == pytest.approx(1)
    assert share == pytest.approx((3 * 64 + 8) / (4 * 64))


def test_runs_along_a_diagonal_are_found() -> None:
    """Damage: the picture is sheared the wrong way: only one diagonal of this picture has runs.

    Bins by column minus row: each falling diagonal of 8 x 8 is one run; 15 diagonals of 1 to 8 and 7 to 1 pixels.
    """
    rows, columns = np.mgrid[:8, :8]
    lengths = np.array([*range(1, 9), *range(7, 0, -1)], dtype=float)
    bins = (columns - rows + 7).astype(np.uint8)
    turned = run_lengths(bins[:, ::-1], EVERYWHERE)
    found = run_lengths(bins, EVERYWHERE)
    assert found[0] == pytest.approx((3 + (lengths**-2).mean()) / 4)
    assert found[4] == pytest.approx((3 * 64 + 15) / (4 * 64))
    assert turned == pytest.approx(found)


def test_runs_end_at_the_edge_of_the_lesion() -> None:
    """Damage: a run goes on outside of the mask or across a hole in it."""
    where = np.zeros((8, 8), dtype=bool)
    where[2, :3] = where[2, 5:7] = True  # in a row: runs of 3 and 2; in all other directions: five runs of 1
    found = run_lengths(np.zeros((8, 8), np.uint8), where)
    assert found[4] == pytest.approx((2 + 3 * 5) / (4 * 5))
    assert found[1] == pytest.approx((math.log((9 + 4) / 2) + 0) / 4)
    assert run_lengths(UPRIGHT, ~EVERYWHERE) == pytest.approx(np.zeros(5))


def test_co_occurrence_of_stripes_is_that_counted_by_hand() -> None:
    """Damage: a direction or a normalisation is wrong, or what lies outside of the mask is counted."""
    contrast, apart, alike, energy, correlation, entropy = co_occurrence(UPRIGHT, EVERYWHERE, 1)
    # In three directions all neighbours differ by one bin, in one none does; symmetric counts are one half each
    assert (contrast, apart) == pytest.approx((0.75, 0.75))
    assert alike == pytest.approx((3 * 0.5 + 1) / 4)
    assert energy == pytest.approx(math.sqrt(0.5))
    assert correlation == pytest.approx((-3 + 1) / 4)
    assert entropy == pytest.approx(1)
    left = np.zeros((8, 8), dtype=bool)
    left[:, :1] = True  # a single column of one bin: pairs in one direction only, and no contrast
    assert co_occurrence(UPRIGHT, left, 1) == pytest.approx([0, 0, 1, 1, 1, 0])


def test_first_order_features_are_their_closed_forms() -> None:
    """Damage: kurtosis is not in excess of a Gaussian's, or entropy is not in bits of the bins."""
    half = np.repeat(np.array([0, 200], np.uint8), 50)
    mean, deviation, skewness, kurtosis, entropy, low, _, high = first_order(half)
    assert (mean, deviation, skewness, kurtosis) == pytest.approx((100, 100, 0, -2))
    assert (entropy, low, high) == pytest.approx((1, 0, 200))
    every = np.repeat(np.arange(256, dtype=np.uint8), 2)
    assert first_order(every)[4] == pytest.approx(math.log2(LEVELS))
    assert np.isfinite(first_order(np.full(9, 7, np.uint8))).all()


def test_wavelet_energy_is_in_the_band_of_the_stripes() -> None:
    """Damage: scales or directions of the bands are mixed up, which would name the wrong feature in the report."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    energy = [[float(band.mean()) for band in scale] for scale in wavelet_bands(stripes)]
    finest = dict(zip(("horizontal", "vertical", "diagonal"), energy[0], strict=True))
    assert finest["vertical"] > 100 * max(finest["horizontal"], finest["diagonal"], *energy[1], *energy[2])


def test_features_of_the_lesion_are_those_within_the_mask() -> None:
    """Damage: features of the lesion are taken from the whole picture, or those of the picture from the mask."""
    image, mask = (array[0] for array in pictures(1, 1))
    brighter = np.where(mask, image, np.minimum(image + 40, 255)).astype(np.uint8)
    before, after = pair_radiomics(image, mask), pair_radiomics(brighter, mask)
    inside = np.array([name.startswith("lesion") and "detail" not in name for name in NAMES])  # wavelets see the rim
    assert after[inside] == pytest.approx(before[inside])
    assert after[0] > before[0] + 20
    assert len(before) == len(NAMES) == len(PICTURE) + len(LESION)
    assert len(set(NAMES)) == len(NAMES)


def test_the_reference_is_the_unit_and_a_lacking_lesion_has_its_mean() -> None:
    """Damage: sets are scaled by themselves, or a picture without lesion gives NaN or counts as far off."""
    images, masks = pictures(30, 1)
    train = radiomics(images, masks)
    own, squares = pictures(6, 2)
    bare = np.zeros_like(squares)
    unit = standardised(train, train)
    assert unit.mean(axis=0) == pytest.approx(np.zeros(len(NAMES)), abs=0.2)
    assert np.median(unit.std(axis=0)) == pytest.approx(1, abs=0.01)
    found = standardised(radiomics(own, bare), train)
    assert found[:, len(PICTURE) :] == pytest.approx(np.zeros((6, len(LESION))))
    assert abs(found[:, : len(PICTURE)]).max() > 0.1
    assert (without_lesion(bare), without_lesion(squares)) == (6, 0)


def test_constant_pictures_are_finite_and_cut() -> None:
    """Damage: a picture of one grey value divides by zero, or one odd picture can outweigh all others."""
    images, masks = pictures(8, 1)
    flat = radiomics(np.full_like(images, 255), masks)
    assert np.isfinite(flat).all()
    assert abs(standardised(flat, radiomics(images, masks))).max() == FARTHEST
