"""Near-duplicates: what is found, what is kept apart, chains, and frames that stand in two classes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medsegdiff.data.duplicates import SAME_PICTURE_BITS, class_conflicts, duplicate_groups, scene_correlations
from medsegdiff.data.hashing import content_hash, hash_bits, hash_distances, perceptual_hash


def scene(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    """(H, W) uint8 noise of several scales, darker with depth."""
    rng = np.random.default_rng(seed)
    noise = np.sum([s * cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) for s in (3, 8, 20)], axis=0)
    noise = noise - np.linspace(0, 3, height)[:, None]
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def hash_of(bits: np.ndarray) -> str:
    """The hexadecimal hash of 256 bits."""
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


def test_hash_survives_size_gain_and_calipers() -> None:
    """Damage: hashing at native size, or without leaving out the mean, moves the hash."""
    image = scene(1)
    marked = cv2.line(image.copy(), (80, 90), (130, 90), 255, 1)
    small = cv2.resize(image, (140, 120), interpolation=cv2.INTER_AREA)
    dark = (image * 0.8).astype(np.uint8)
    distances = hash_distances([perceptual_hash(image)], [perceptual_hash(i) for i in (marked, small, dark)])
    assert distances.max() <= SAME_PICTURE_BITS
    assert hash_distances([perceptual_hash(image)], [perceptual_hash(scene(2))])[0, 0] > 78


def test_hash_distance_counts_bits() -> None:
    """Damage: comparing hexadecimal digits instead of bits."""
    bits = np.zeros(256, int)
    bits[[0, 1, 100]] = 1
    assert hash_distances([hash_of(bits)], [hash_of(np.zeros(256))])[0, 0] == 3
    assert hash_bits([]).shape == (0, 256)


def test_content_hash_knows_the_shape() -> None:
    """Damage: hashing the bytes alone makes 2 x 8 and 4 x 4 alike."""
    pixels = np.arange(16, dtype=np.uint8)
    assert content_hash(pixels.reshape(2, 8)) != content_hash(pixels.reshape(4, 4))


@pytest.mark.parametrize(("distance", "groups"), [(78, 1), (79, 2)])
def test_threshold_is_included(distance: int, groups: int) -> None:
    """Damage: < instead of <=."""
    bits = np.zeros(256, int)
    bits[:distance] = 1
    assert len(set(duplicate_groups([hash_of(np.zeros(256)), hash_of(bits)], 78))) == groups


def test_groups_are_connected_components() -> None:
    """Damage: joining only with the first picture of a group tears chains apart."""
    chain = [hash_of((np.arange(256) < n).astype(int)) for n in (0, 40, 80)]
    far = hash_of(np.arange(256) % 2)
    assert duplicate_groups([chain[0], far, chain[2], chain[1]], 40).tolist() == [0, 1, 0, 0]
    assert duplicate_groups([], 40).tolist() == []


def test_shifted_view_is_found_by_correlation() -> None:
    """Damage: correlating without trying shifts."""
    image = scene(3, 240, 300)
    views = [image[:220, :280], image[14:234, 16:296], scene(4, 220, 280)]
    hashes = [perceptual_hash(v) for v in views]
    found = scene_correlations(views)
    assert found[0, 1] > 0.6 > found[0, 2]
    assert np.allclose(found, found.T)
    assert duplicate_groups(hashes, 0, found, 0.6).tolist() == [0, 0, 1]


def test_correlation_of_flat_pictures_is_finite() -> None:
    """Damage: dividing by a norm of zero."""
    assert np.isfinite(scene_correlations([np.zeros((50, 60), np.uint8), scene(1)])).all()


def test_conflict_names_all_copies() -> None:
    """Damage: naming only pairs across classes keeps the copy of a copy."""
    row = [hash_of((np.arange(256) < n).astype(int)) for n in (0, 30, 60, 160)]
    labels = ["malignant", "benign", "benign", "benign"]
    assert class_conflicts(row, labels) == {0: 1, 1: 0, 2: 0}


def test_similar_scene_of_another_class_is_no_conflict() -> None:
    """Damage: using the threshold of groups for conflicts throws good pictures away."""
    row = [hash_of((np.arange(256) < n).astype(int)) for n in (0, SAME_PICTURE_BITS + 1)]
    assert class_conflicts(row, ["benign", "malignant"]) == {}
