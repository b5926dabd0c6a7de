"""Which sampled pairs are let through. Only what cannot be a labelled lesion is refused: this is no quality filter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medsegdiff.data.mask_files import LARGEST_LESION
from medsegdiff.features.lesion_shape import largest_component

SMALLEST_LESION = 0.002  # share of the picture; the smallest lesion of BUSI covers 0.28 %
LACK = 0.5  # share of the least that train pictures show of a mask class, below which it is lacking
MAIN_PART = 0.5  # least share of the mask that its largest connected part has to hold


def label_map_fault(shares: Mapping[str, float], always_shown: Mapping[str, float]) -> str | None:
    """Why a label map of which mask classes cover these shares is refused, or None.

    `always_shown`: of those that every train picture of its class shows, the least share.
    """
    return next((f"no {name}" for name, least in always_shown.items() if shares[name] < LACK * least), None)


def mask_fault(mask: np.ndarray, has_lesion: bool) -> str | None:
    """Why a (H, W) mask is no lesion mask ("empty", "too small", "too large", "scattered"), or None if it is one.

    A class without lesions has to have an empty mask ("not empty").
    """
    area = float((mask > 0).mean())
    if not has_lesion:
        return "not empty" if area > 0 else None
    if area == 0:
        return "empty"
    if area < SMALLEST_LESION:
        return "too small"
    if area > LARGEST_LESION:
        return "too large"
    if float(largest_component(mask).mean()) < MAIN_PART * area:
        return "scattered"
    return None
