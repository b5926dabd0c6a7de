"""Near-duplicates by content: which pictures show the same scene, and which stand in two classes.

BUSI repeats many scenes: one frame cropped differently or with and without calipers, neighbouring frames of one sweep,
and some frames in two classes at once. Two pictures belong to one group where either sign says so:

- their perceptual hashes differ in few bits. Finds the same frame, whatever its crop, size, grey curve or calipers;
- their details correlate after a small shift. Finds neighbouring frames, other fields of view, other annotations.

Both thresholds were calibrated by eye on the published BUSI data set (780 pictures, 303 810 pairs), counting pairs that
really show the same scene of the same patient among those looked at:

    bits of 256            true / looked at      correlation (of pairs above 78 bits)   true / looked at
    30-49                  26 / 26               0.65 and more                          16 / 16
    50-78                  24 / 24               0.60-0.65                              10 / 12
    79-85                  7 / 9                 0.55-0.60                              10 / 21
    86-90                  9 / 27                0.50-0.55                              13 / 21

Below 30 bits lie 184 more pairs, all of them alike to numbers too (correlation of the grey values above 0.97). So the
defaults are 78 bits and 0.6: wrongly grouping two pictures costs little, a scene that crosses splits spoils a score. At
0.5 chains of chance similarities begin to tie benign to malignant pictures. Neither sign finds every second view of one
patient (another angle, another lesion): known patients are joined with what these signs find.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from medsegdiff.data.hashing import Frame, hash_distances, inside, to_grey

SAME_PICTURE_BITS = 40  # up to here two pictures are one frame, cropped or annotated differently (BUSI: all pairs are)
DETAIL_SIDE = 48  # side of the copies that are correlated, pixels
MAX_SHIFT = 4  # largest shift tried, pixels of these copies
NOISE_FLOOR = 4.0  # grey values; keeps flat black margins from being amplified


def detail(image: np.ndarray) -> np.ndarray:
    """(48, 48) float32 small grey copy of a uint8 image, evened to local mean 0 and about standard deviation 1.

    All breast ultrasound is bright above and dark below; what distinguishes scenes is what is left without that.
    """
    thumb = cv2.resize(to_grey(image), (DETAIL_SIDE, DETAIL_SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(thumb.astype(np.float32), (0, 0), 0.7)
    centred = small - cv2.GaussianBlur(small, (0, 0), 4.0)
    spread = np.sqrt(cv2.GaussianBlur(centred**2, (0, 0), 4.0))
    return np.asarray(centred / (spread + NOISE_FLOOR), dtype=np.float32)


def detail_windows(details: np.ndarray, top: int, left: int) -> np.ndarray:
    """(N, core^2) cuts of (N, 48, 48) details at an offset, each with mean 0 and length 1."""
    core = DETAIL_SIDE - 2 * MAX_SHIFT
    cut = details[:, top : top + core, left : left + core].reshape(len(details), -1)
    cut = cut - cut.mean(axis=1, keepdims=True)
    return np.asarray(cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-6))


def scene_correlations(images: Sequence[np.ndarray], frame: Frame | None = None) -> np.ndarray:
    """(N, N) largest correlation of the details of N uint8 images, within `frame`, over small shifts, -1..1."""
    details = np.stack([detail(inside(image, frame)) for image in images])
    middle = detail_windows(details, MAX_SHIFT, MAX_SHIFT)
    best = np.full((len(images), len(images)), -1.0, dtype=np.float32)
    for top in range(2 * MAX_SHIFT + 1):
        for left in range(2 * MAX_SHIFT + 1):
            np.maximum(best, middle @ detail_windows(details, top, left).T, out=best)
    return np.maximum(best, best.T)


def duplicate_groups(
    hashes: Sequence[str],
    bits: int,
    correlations: np.ndarray | None = None,
    correlation: float = 1.0,
    subjects: Sequence[str] = (),
) -> np.ndarray:
    """(N,) group numbers: connected components of pictures that are near each other.

    Near: N perceptual hashes differ in at most `bits` of 256, `correlations` (N, N) reach `correlation`, or the
    `subjects` of both are known ("" is not) and the same.
    Numbers count up from 0 in the order in which groups first appear.
    """
    if not hashes:
        return np.zeros(0, dtype=np.int64)
    near = hash_distances(hashes, hashes) <= bits
    if correlations is not None:
        near |= correlations >= correlation
    if len(subjects):
        known = np.array(subjects)
        near |= (known[:, None] == known[None]) & (known != "")
    return np.asarray(connected_components(csr_matrix(near), directed=False)[1], dtype=np.int64)


def class_conflicts(hashes: Sequence[str], labels: Sequence[str]) -> dict[int, int]:
    """Pictures that are the same frame as one of another class: {index: index of the nearest of another class}.

    All copies of such a frame are named, also those that are nearer to a copy of their own class.
    """
    groups = duplicate_groups(hashes, SAME_PICTURE_BITS)
    distances = hash_distances(hashes, hashes)
    names = np.array(labels)
    conflicts: dict[int, int] = {}
    for index, group in enumerate(groups):
        others = np.flatnonzero((groups == group) & (names != names[index]))
        if len(others):
            conflicts[index] = int(others[distances[index, others].argmin()])
    return conflicts
