"""What is measured of a sample and stands in its columns attribute:<name>."""

from __future__ import annotations

import math

import numpy as np

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.hashing import to_grey
from medsegdiff.features.lesion_shape import lesion_descriptors

KNOTS = 17  # quantiles by which values of a name are known: every sixteenth
# Of `features.lesion_shape.DESCRIPTORS` those that say something of their own
MEASURED = (
    "area", "depth", "lateral", "depth_to_width", "irregularity", "sharpness", "echogenicity", "posterior", "count",
)  # fmt: skip


def measure(image: np.ndarray, mask: np.ndarray, aspect: float = 1.0) -> dict[str, float]:
    """`MEASURED` of a (H, W) or (H, W, 3) uint8 image and its (H, W) mask; `aspect`: true width over height of a pixel.

    As `lesion_descriptors` defines them. A name is left out where there is nothing to measure.
    """
    found = lesion_descriptors(to_grey(image), mask, aspect)
    return {name: float(f"{found[name]:.5g}") for name in MEASURED if not math.isnan(found[name])}


def measure_pair(
    image: np.ndarray, mask: np.ndarray | None, arrays: ArraySpec, aspect: float = 1.0
) -> dict[str, float]:
    """The same of a mask of pixel values; nothing where there is no mask, or one that does not say what is lesion."""
    if mask is None or not arrays.is_binary:
        return {}
    return measure(image, arrays.index_map(mask), aspect)


def knots_of(values: np.ndarray) -> list[float]:
    """`KNOTS` quantiles of values (n,), each counted once; none of fewer than two. NaN where nothing is known."""
    known = np.unique(values[~np.isnan(values)])
    if len(known) < 2:
        return []
    return [float(f"{q:.6g}") for q in np.quantile(known, np.linspace(0, 1, KNOTS), method="nearest")]
