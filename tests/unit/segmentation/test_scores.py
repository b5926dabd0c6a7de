"""Scores of masks against hand counts and brute force; bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medsegdiff.segmentation.scores import (
    METRICS,
    bootstrap_interval,
    hausdorff95,
    overlaps,
    paired_difference,
    score_image,
)

PIXEL = (2.5, 0.75)  # width, height


def box(top: int, bottom: int, left: int, right: int, side: int = 20) -> np.ndarray:
    """(side, side) mask of one rectangle; ends are exclusive."""
    mask = np.zeros((side, side), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def blob(seed: int) -> np.ndarray:
    """(20, 20) mask of scattered pieces, some of them at the border."""
    return np.random.default_rng(seed).random((20, 20)) < 0.2


def brute_surface(mask: np.ndarray) -> list[tuple[int, int]]:
    """Mask pixels with a 4-neighbour that is outside the mask or the picture, by looking at each."""
    height, width = mask.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(mask[y, x])

    pixels = [(int(y), int(x)) for y, x in np.argwhere(mask)]
    return [
        (y, x) for y, x in pixels if not all(inside(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def brute_directed(first: np.ndarray, second: np.ndarray) -> float:
    """95th percentile of the distances from the surface of `first` to that of `second`, pair by pair."""
    ends = brute_surface(second)
    distances = [
        min(math.hypot((y - v) * PIXEL[1], (x - u) * PIXEL[0]) for v, u in ends) for y, x in brute_surface(first)
    ]
    return float(np.percentile(distances, 95))


def test_overlaps_by_hand() -> None:
    """12 true, 8 predicted, 4 common pixels. Fails if sensitivity and precision are swapped."""
    found = overlaps(box(2, 4, 0, 4), box(3, 6, 0, 4))
    assert found == pytest.approx({"dice": 8 / 20, "iou": 4 / 16, "sensitivity": 4 / 12, "precision": 4 / 8})


def test_one_mask_empty() -> None:
    """0 and the diagonal in true geometry. Fails if the diagonal is counted in pixels."""
    full = box(3, 6, 2, 9)
    diagonal = math.hypot(20 * PIXEL[0], 20 * PIXEL[1])
    for predicted, true in ((full, ~full & full), (~full & full, full)):
        scores = score_image(predicted, true, PIXEL)
        assert [scores[m] for m in METRICS] == pytest.approx([0, 0, 0, 0, diagonal])


def test_both_masks_empty() -> None:
    """Perfect agreement. Fails if 0 / 0 is counted as 0."""
    nothing = np.zeros((20, 20), dtype=bool)
    assert list(score_image(nothing, nothing, PIXEL).values()) == [1, 1, 1, 1, 0]


def test_distance_knows_width_from_height() -> None:
    """A shift of 3 pixels, sideways and downwards. Fails if `sampling` is handed over as (width, height)."""
    start = box(5, 6, 5, 6)
    assert hausdorff95(start, box(5, 6, 8, 9), PIXEL) == pytest.approx(3 * PIXEL[0])
    assert hausdorff95(start, box(8, 9, 5, 6), PIXEL) == pytest.approx(3 * PIXEL[1])


def test_surface_counts_the_edge_of_the_picture() -> None:
    """A mask of the whole picture has the frame as surface. Fails if the border of the erosion is taken as inside."""
    everything = box(0, 40, 0, 40, side=40)
    assert hausdorff95(everything, everything, PIXEL) == 0
    inner = box(1, 39, 1, 39, side=40)
    assert hausdorff95(everything, inner, (1, 1)) == pytest.approx(1)  # the corners are further, but under 5 %


@pytest.mark.parametrize("seed", range(4))
def test_distance_against_brute_force(seed: int) -> None:
    """Scattered masks, anisotropic pixels. Fails if only one direction is measured, or inner pixels count."""
    first, second = blob(seed) | box(2, 8, 2, 8), blob(seed + 50) & ~box(0, 20, 12, 20)
    both = max(brute_directed(first, second), brute_directed(second, first))
    assert hausdorff95(first, second, PIXEL) == pytest.approx(both)
    assert hausdorff95(second, first, PIXEL) == pytest.approx(both)


def test_interval_of_a_constant() -> None:
    """Nothing to resample. Fails if noise is added, or the tails are taken from sums instead of means."""
    interval = bootstrap_interval([0.75] * 9, 1500, seed=0)
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.75, 0.75, 0.75, 9)


def test_interval_is_the_normal_one_for_many_images() -> None:
    """Mean +- 1.96 standard errors, the same for the same seed. Fails with a 90 % interval or an unseeded generator."""
    values = np.random.default_rng(1).normal(0.7, 0.2, size=400).tolist()
    interval = bootstrap_interval(values, 4000, seed=3)
    half = 1.96 * float(np.std(values)) / 20
    assert interval.low == pytest.approx(interval.mean - half, abs=0.1 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.1 * half)
    assert interval == bootstrap_interval(values, 4000, seed=3)
    assert interval != bootstrap_interval(values, 4000, seed=4)


def test_difference_is_paired_by_id() -> None:
    """Every image 0.1 better: an interval without width. Fails if the runs are resampled apart, or paired by order."""
    hard = dict(zip("abcdef", [0.9, 0.1, 0.5, 0.8, 0.3, 0.7], strict=True))
    better = {id: score + 0.1 for id, score in reversed(hard.items())}
    interval = paired_difference(better, hard, 500, seed=0)
    assert [interval.mean, interval.low, interval.high] == pytest.approx([0.1] * 3)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(better, {"a": 1.0}, 500, seed=0)
