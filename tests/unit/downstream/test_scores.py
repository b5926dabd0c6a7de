"""Scores of masks against hand counts and brute force; the parts of a test set, and what is measured of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from medsegdiff.downstream.rows import PER_IMAGE_FILE, columns, read_run, write_rows
from medsegdiff.downstream.segmentation.results import MEASURES, ImageScore, subgroups
from medsegdiff.downstream.segmentation.scores import METRICS, hausdorff95, overlaps, score_image
from medsegdiff.engine.files import write_json
from medsegdiff.errors import UserError

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
    """12 true, 8 predicted, 4 common pixels. Damage: sensitivity and precision are swapped."""
    found = overlaps(box(2, 4, 0, 4), box(3, 6, 0, 4))
    assert found == pytest.approx({"dice": 8 / 20, "iou": 4 / 16, "sensitivity": 4 / 12, "precision": 4 / 8})


def test_one_mask_empty() -> None:
    """0 and the diagonal in true geometry. Damage: the diagonal is counted in pixels."""
    full = box(3, 6, 2, 9)
    diagonal = math.hypot(20 * PIXEL[0], 20 * PIXEL[1])
    for predicted, true in ((full, ~full & full), (~full & full, full)):
        scores = score_image(predicted, true, PIXEL)
        assert [scores[m] for m in METRICS] == pytest.approx([0, 0, 0, 0, diagonal])


def test_both_masks_empty() -> None:
    """Perfect agreement. Damage: 0 / 0 is counted as 0."""
    nothing = np.zeros((20, 20), dtype=bool)
    assert list(score_image(nothing, nothing, PIXEL).values()) == [1, 1, 1, 1, 0]


def test_distance_knows_width_from_height() -> None:
    """A shift of 3 pixels, sideways and downwards. Damage: `sampling` is handed over as (width, height)."""
    start = box(5, 6, 5, 6)
    assert hausdorff95(start, box(5, 6, 8, 9), PIXEL) == pytest.approx(3 * PIXEL[0])
    assert hausdorff95(start, box(8, 9, 5, 6), PIXEL) == pytest.approx(3 * PIXEL[1])


def test_surface_counts_the_edge_of_the_picture() -> None:
    """A mask of the whole picture has the frame as surface. Damage: the border of the erosion is taken as inside."""
    everything = box(0, 40, 0, 40, side=40)
    assert hausdorff95(everything, everything, PIXEL) == 0
    inner = box(1, 39, 1, 39, side=40)
    assert hausdorff95(everything, inner, (1, 1)) == pytest.approx(1)  # the corners are further, but under 5 %


@pytest.mark.parametrize("seed", range(4))
def test_distance_against_brute_force(seed: int) -> None:
    """Scattered masks, anisotropic pixels. Damage: only one direction is measured, or inner pixels count."""
    first, second = blob(seed) | box(2, 8, 2, 8), blob(seed + 50) & ~box(0, 20, 12, 20)
    both = max(brute_directed(first, second), brute_directed(second, first))
    assert hausdorff95(first, second, PIXEL) == pytest.approx(both)
    assert hausdorff95(second, first, PIXEL) == pytest.approx(both)


def image_score(id: str, label: str, area: float, dice: float = 0.5) -> ImageScore:
    """A row; all overlaps alike."""
    return ImageScore(id, f"group_{id}", label, area, dice, dice, dice, dice, hd95=10 * dice)


def test_subgroups() -> None:
    """Damage: 0.05 counts as small, a picture without a lesion as either, or "" as a class."""
    rows = [
        image_score("a", "malignant", 0.05),
        image_score("b", "benign", 0.049),
        image_score("c", "", 0.0),
        image_score("d", "benign", 0.3),
    ]
    found = {name: index.tolist() for name, index in subgroups(rows).items()}
    assert found == {"all": [0, 1, 2, 3], "benign": [1, 3], "malignant": [0], "small": [1], "large": [0, 3]}


def test_empty_subgroups_are_left_out() -> None:
    """An external set without classes, all lesions small. Damage: a subgroup without pictures is reported."""
    found = {name: index.tolist() for name, index in subgroups([image_score("a", "", 0.01)]).items()}
    assert found == {"all": [0], "small": [0]}


def test_measures_are_means_of_the_metrics() -> None:
    """Damage: a metric is left out, or measured over all pictures instead of those asked for."""
    rows = columns([image_score("a", "b", 0.1, dice=d) for d in (0.1, 0.3, 0.9)])
    found = {name: measure(rows, np.array([0, 1, 1])) for name, measure in MEASURES.items()}
    assert list(found) == list(METRICS)
    assert found["dice"] == pytest.approx(0.7 / 3)
    assert found["hd95"] == pytest.approx(7 / 3)


def test_a_finished_run_is_read(tmp_path: Path) -> None:
    """Damage: the rows of scores come back as text, or scores of an older layout are accepted."""
    rows = [image_score("a", "benign", 0.1), image_score("b", "", 0.2)]
    write_rows(tmp_path / PER_IMAGE_FILE, rows)
    reported = {"config": {}, "img_size": 64, "test_ids": ["a", "b"], "test_digest": "d"}
    write_json(tmp_path / "scores.json", reported)
    assert read_run(tmp_path, ImageScore) == (reported, [rows])
    (tmp_path / PER_IMAGE_FILE).write_text("id,label,dice,iou,sensitivity,precision,hd95\na,benign,1,1,1,1,0\n")
    with pytest.raises(UserError, match="expected the columns id,group,label,area"):
        read_run(tmp_path, ImageScore)
