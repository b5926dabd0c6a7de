"""Characteristics of lesions in the terms of the BI-RADS lexicon, from image and mask, in true geometry.

Lengths are in heights of the picture, which is the depth that was scanned: pictures carry no scale in millimetres. A
pixel of a resized S x S picture is 1/S high and aspect/S wide. Grey values are the levels 0 to 255 of a log-compressed
picture, so that differences between them are ratios of echo strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.measure import find_contours

SMOOTHING = 1 / 64  # blur of the mask before its outline is traced; pixel stairs would count as margin otherwise
MARGIN = 0.01  # width of the bands just within and just outside of the outline; wider ones hardly notice a blur
RING = 0.06  # width of the surroundings that a lesion is compared with
ROOM = 0.03  # how much of the picture there has to be below a lesion
SPECK = 1 / 1024  # share of the picture below which a part of the mask is no lesion, unless it is the largest
MIN_PIXELS = 8  # of a region whose mean grey is taken


@dataclass(frozen=True)
class Descriptor:
    """A characteristic of a lesion."""

    name: str  # of its column
    title: str  # in plain English
    unit: str  # how to read the number
    more: str  # what a lesion with a larger value is
    less: str  # ... and one with a smaller value
    main: bool = True  # shown in the figure


DESCRIPTORS = (
    Descriptor("area", "area", "share of the squared picture height", "larger", "smaller"),
    Descriptor("depth", "depth of the centre", "0 skin, 1 bottom", "deeper", "nearer to the skin"),
    Descriptor("lateral", "lateral place of the centre", "0 left, 1 right", "further right", "further left", False),
    Descriptor("depth_to_width", "depth-to-width ratio", "above 1: taller than wide", "taller", "flatter"),
    Descriptor("circularity", "circularity", "1: a circle", "rounder", "less round", False),
    Descriptor("solidity", "solidity", "1: no dents", "less dented", "more dented"),
    Descriptor("irregularity", "margin irregularity", "0: an ellipse", "more irregular", "smoother in outline"),
    Descriptor("sharpness", "margin sharpness", "step of grey, in its local spread", "sharper", "more blurred"),
    Descriptor("echogenicity", "echogenicity", "grey levels above surroundings", "less dark", "darker"),
    Descriptor("posterior", "posterior features", "grey levels; below 0: shadow", "brighter behind", "darker behind"),
    Descriptor("count", "number of lesions", "parts of the mask", "more per picture", "fewer per picture", False),
    Descriptor("specks", "specks of the mask", "parts too small for a lesion", "more", "fewer", False),
)
NAMES = tuple(d.name for d in DESCRIPTORS)
GREY_NAMES = ("sharpness", "echogenicity", "posterior")  # those that need the image
SHAPE_NAMES = tuple(name for name in NAMES if name not in GREY_NAMES)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a (H, W) mask, as uint8 {0, 1}; all zero for an empty mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(mask.shape, np.uint8)
    return (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)


def lesion_descriptors(image: np.ndarray, mask: np.ndarray, aspect: float = 1.0) -> dict[str, float]:
    """`DESCRIPTORS` of a (H, W) uint8 image and its (H, W) mask; `aspect` is width over height of a pixel.

    Those of `lesion_shape`, and of the largest part: sharpness: mean grey in a band just outside of the outline minus
    that just within, taken without sign, over the standard deviation of grey beside that band; 0 for no margin to be
    seen. echogenicity: mean of the lesion minus mean of a ring around it. posterior: mean below the lesion minus mean
    beside that region. NaN where there is no lesion, and no room around or below.
    """
    found = dict.fromkeys(NAMES, math.nan) | lesion_shape(mask, aspect)
    part = largest_component(mask) > 0
    return found | _grey(image.astype(np.float64), part, mask > 0, aspect) if part.any() else found


def lesion_shape(mask: np.ndarray, aspect: float = 1.0) -> dict[str, float]:
    """What a (H, W) mask alone says of its lesions; `aspect` is width over height of a pixel.

    area: of all lesions. count, specks: how many parts the mask has; a speck is smaller than `SPECK`, and no lesion.
    All others describe the largest part. depth, lateral: centroid. depth_to_width: extents of the outline, above 1
    "taller than wide", a BI-RADS sign of malignancy. circularity: 4 pi area / perimeter^2. solidity: area over that of
    the convex hull. irregularity: perimeter over that of the ellipse with the same second moments, minus 1: 0 for an
    ellipse within 0.005 (from 128 rows on; pixel stairs of a smaller mask add up to 0.02).

    NaN where there is nothing to measure: an empty mask (area, count and specks are 0), no outline left after
    smoothing (a lesion of a few pixels).
    """
    found = dict.fromkeys(SHAPE_NAMES, math.nan)
    found["area"] = float((mask > 0).sum()) * aspect / mask.shape[0] ** 2
    sizes = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    found["specks"] = float(np.sum(sizes < min(SPECK * mask.size, sizes.max(initial=0))))
    found["count"] = len(sizes) - found["specks"]
    return found | _shape(largest_component(mask) > 0, aspect) if len(sizes) else found


def descriptor_matrix(images: np.ndarray, masks: np.ndarray, aspects: np.ndarray) -> np.ndarray:
    """(N, 12) `lesion_descriptors` of N pairs, NaN where there is nothing to measure."""
    rows = [list(lesion_descriptors(*pair).values()) for pair in zip(images, masks, aspects, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(images), len(NAMES))


def outline(part: np.ndarray, aspect: float) -> np.ndarray:
    """(K, 2) depth and lateral place, in picture heights, of the closed outer outline of a (H, W) mask of one lesion.

    Where the smoothed mask is one half, between pixels (marching squares): the length of a chain of pixels depends on
    the direction of the margin, and overstates it by up to 8 %. No point where the lesion is too small for that.
    """
    size = part.shape[0]
    sigma = SMOOTHING * size
    pad = 2 + math.ceil(4 * sigma)
    box = _around(part, 0)
    corner = np.array([side.start for side in box])
    soft = gaussian_filter(np.pad(part[box], pad).astype(np.float64), (sigma, sigma / aspect))
    lines = find_contours(soft, 0.5)
    if not lines:
        return np.zeros((0, 2))
    return (max(lines, key=len) + corner - pad + 0.5) * np.array([1 / size, aspect / size])


def _shape(part: np.ndarray, aspect: float) -> dict[str, float]:
    """Position and shape of one lesion, a (H, W) mask that is not empty."""
    size = part.shape[0]
    rows, columns = np.nonzero(part)
    found = {"depth": (rows.mean() + 0.5) / size, "lateral": (columns.mean() + 0.5) / part.shape[1]}
    line = outline(part, aspect)
    if len(line) > 2:
        perimeter = float(np.hypot(*np.diff(line, axis=0).T).sum())
        moments = cv2.moments(line.astype(np.float32))
        area, hull = moments["m00"], float(cv2.contourArea(cv2.convexHull(line.astype(np.float32))))
        if not area > 0 or not hull > 0:  # a speck whose smoothed outline encloses nothing has a place and no shape
            return {name: float(value) for name, value in found.items()}
        found["depth_to_width"] = np.ptp(line[:, 0]) / np.ptp(line[:, 1])
        found["circularity"] = 4 * math.pi * area / perimeter**2
        found["solidity"] = min(1.0, area / hull)
        found["irregularity"] = perimeter / _ellipse_perimeter(moments) - 1
    return {name: float(value) for name, value in found.items()}


def _ellipse_perimeter(moments: Mapping[str, float]) -> float:
    """Perimeter of the ellipse with these second moments; Ramanujan, Quarterly J. Pure Applied Mathematics 45, 1914."""
    within = np.array([[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]]) / moments["m00"]
    a, b = 2 * np.sqrt(np.maximum(np.linalg.eigvalsh(within), 1e-12))
    h = ((a - b) / (a + b)) ** 2
    return float(math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h))))


def _grey(grey: np.ndarray, part: np.ndarray, lesions: np.ndarray, aspect: float) -> dict[str, float]:
    """Sharpness, echogenicity and posterior features of `part`, one of the `lesions` of a picture."""
    size = grey.shape[0]
    posterior = _posterior(grey, part, lesions)
    window = _around(part, math.ceil(RING * size / min(1, aspect)) + 1)  # all that is compared with the lesion
    grey, part, lesions = grey[window], part[window], lesions[window]
    sampling = (1 / size, aspect / size)
    outside = distance_transform_edt(~part, sampling=sampling)  # of the pixel's centre to the nearest in the lesion
    inside = distance_transform_edt(part, sampling=sampling)
    reach = max(MARGIN + 0.5 / size, 1.01 * max(1, aspect) / size)  # the outline lies between pixels; one at least
    outer, inner = (outside > 0) & (outside <= reach) & ~lesions, part & (inside <= reach)
    near = ((outside > 0) & (outside <= RING) & ~lesions, part & (inside <= RING))
    found = {"echogenicity": _difference(grey, part, near[0]), "posterior": posterior}
    step = _difference(grey, outer, inner)
    spread = math.sqrt(sum(float(grey[side].var()) for side in near) / 2) if all(side.any() for side in near) else 0
    # the grey of a flat picture has no spread, and no step either
    found["sharpness"] = abs(step) / max(spread, 1.0)
    return found


def _around(part: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The box of a mask that is not empty, and `margin` pixels around it."""
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    return slice(max(0, rows[0] - margin), rows[-1] + 1 + margin), slice(
        max(0, columns[0] - margin), columns[-1] + 1 + margin
    )


def _difference(grey: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean grey of one region minus that of another, NaN where one of them is too small."""
    if min(int(first.sum()), int(second.sum())) < MIN_PIXELS:
        return math.nan
    return float(grey[first].mean() - grey[second].mean())


def _posterior(grey: np.ndarray, part: np.ndarray, lesions: np.ndarray) -> float:
    """Mean grey right below a lesion minus that of tissue on both sides at the same depth.

    As deep as the lesion, or to the bottom of the picture where that is nearer, and each side half as wide as it.
    The outer eighths of the lesion are left out: shadows of its edges are no posterior feature. NaN without room.
    """
    rows, columns = np.nonzero(part)
    top, left, right = int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    height, width = top - int(rows.min()), right - left
    bottom = min(top + height, grey.shape[0])
    if bottom - top < max(2, ROOM * grey.shape[0]):
        return math.nan
    below, beside = np.zeros_like(part), np.zeros_like(part)
    below[top:bottom, left + width // 8 : right - width // 8] = True
    beside[top:bottom, max(0, left - max(2, width // 2)) : right + max(2, width // 2)] = True
    beside[top:bottom, left:right] = False
    return _difference(grey, below & ~lesions, beside & ~lesions)
