"""Speckle of a picture, in tissue outside of the lesion and in true geometry.

Speckle is the grain that interference of echoes makes: its grey values have a distribution of their own, and its grains
the size of the scanner's point-spread function (Wagner et al., "Statistics of speckle in ultrasound B-scans", IEEE
Trans. Sonics and Ultrasonics 30(3), 1983). Pictures are log-compressed by an unknown curve, so envelope statistics
that need linear echoes (Nakagami's m) cannot be had; the spread and skewness of grey stand for them.

Lengths are in heights of the picture. A pixel of a resized S x S picture is 1/S high and aspect/S wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import fft2
from scipy.ndimage import binary_dilation, gaussian_filter

DETREND = 1 / 24  # standard deviation of the blur that is taken for anatomy, not speckle
AWAY = 1 / 64  # distance from a lesion at which its margin no longer counts as tissue
NO_ECHO = 6  # local mean grey below which there is no signal: outside of the scanned field, deep shadow
MIN_TISSUE = 0.1  # share of a picture that has to be tissue with echoes
MIN_LESION = 1 / 256  # share of a picture that the inner part of a lesion has to be
MAX_LAG = 1 / 6  # farthest lag of the autocovariance
PATCH, MIN_PATCH = 1 / 4, 16  # side of the patches whose power spectra are averaged: of the picture's, and pixels
WHOLE = 0.95  # share of a patch that has to be tissue
BANDS = 16  # of the radial spectrum, equally wide up to the highest frequency that the height of the picture has
ROUNDING = 1 / 12  # power of rounding to whole grey levels; keeps the logarithm of an empty band finite


@dataclass(frozen=True)
class Feature:
    """A figure of speckle."""

    name: str
    title: str
    unit: str


# Thirds of the spectrum, in BANDS of `radial_spectrum`; power in dB
THIRDS = {"coarse": slice(0, 5), "middle": slice(5, 11), "fine": slice(11, 16)}

FEATURES = (
    Feature("snr", "local signal-to-noise ratio", "mean over spread of grey nearby"),
    Feature("grey_sd", "speckle contrast", "spread of grey after removing anatomy, grey levels"),
    Feature("skewness", "skewness of speckle", "0: symmetric"),
    Feature("axial_length", "grain size in depth", "per cent of the picture height"),
    Feature("lateral_length", "grain size across", "per cent of the picture height"),
    Feature("lesion_grey_sd", "speckle contrast within the lesion", "grey levels"),
    Feature("coarse", "power of the coarsest third of frequencies", "dB"),
    Feature("middle", "power of the middle third of frequencies", "dB"),
    Feature("fine", "power of the finest third of frequencies", "dB"),
)
NAMES = tuple(f.name for f in FEATURES)


def speckle_features(
    image: np.ndarray, mask: np.ndarray, aspect: float = 1.0, bands: np.ndarray | None = None
) -> dict[str, float]:
    """`FEATURES` of a (S, S) uint8 or float image and its (S, S) mask; `aspect` is width over height of a pixel.

    `bands` is the `radial_spectrum` of the same, where it is known already.

    Grey minus a blur of `DETREND` is taken for speckle. snr: median of local mean over local standard deviation.
    axial_length, lateral_length: full width at half maximum of the autocovariance of speckle, along depth and across,
    in per cent of the picture height. lesion_grey_sd: the same as grey_sd, within the lesion.
    coarse, middle, fine: mean of `radial_spectrum` over `THIRDS`.

    NaN where there is too little tissue (`MIN_TISSUE`) or nothing varies; within the lesion where it is too small.
    """
    found = dict.fromkeys(NAMES, math.nan)
    grey = np.asarray(image, dtype=np.float64)
    size = grey.shape[0]
    tissue = tissue_of(grey, mask, aspect)
    if tissue.mean() >= MIN_TISSUE:
        mean, speckle = _detrend(grey, tissue, aspect)
        found |= _envelope(mean, speckle, tissue, aspect)
        reach = round(MAX_LAG * size)
        axial = width_at_half(autocovariance(speckle, tissue, reach))
        lateral = width_at_half(autocovariance(speckle.T, tissue.T, max(2, round(reach / aspect))))
        found["axial_length"], found["lateral_length"] = 100 * axial / size, 100 * lateral * aspect / size
    inside = ~binary_dilation(~(mask > 0), iterations=max(1, round(AWAY * size)))
    if inside.mean() >= MIN_LESION:
        found["lesion_grey_sd"] = float(_detrend(grey, inside, aspect)[1][inside].std())
    bands = radial_spectrum(image, mask, aspect) if bands is None else bands
    return found | {name: float(bands[third].mean()) for name, third in THIRDS.items()}


def tissue_of(image: np.ndarray, mask: np.ndarray, aspect: float) -> np.ndarray:
    """(S, S) bool: where a picture shows tissue that is not the lesion, nor its margin, nor without echo."""
    size = image.shape[0]
    away = AWAY * size
    rows, columns = (np.arange(-math.ceil(r), math.ceil(r) + 1) for r in (away, away / aspect))
    disc = (rows[:, None] / away) ** 2 + (columns / (away / aspect)) ** 2 <= 1
    lesion = binary_dilation(mask > 0, structure=disc)
    return np.asarray(~lesion & (_blur(image.astype(np.float64), DETREND, aspect) >= NO_ECHO))


def _blur(values: np.ndarray, length: float, aspect: float) -> np.ndarray:
    sigma = length * values.shape[0]
    return np.asarray(gaussian_filter(values, (sigma, sigma / aspect), mode="nearest"))


def _detrend(grey: np.ndarray, where: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) local mean of grey and grey minus it; only pixels `where` count, others are 0 in both."""
    weight = np.where(where, np.maximum(_blur(where.astype(np.float64), DETREND, aspect), 1e-6), 1)
    mean = _blur(grey * where, DETREND, aspect) / weight * where
    return mean, (grey - mean) * where


def _envelope(mean: np.ndarray, speckle: np.ndarray, tissue: np.ndarray, aspect: float) -> dict[str, float]:
    """How grey values of speckle are distributed."""
    values = speckle[tissue]
    spread = float(values.std())
    if spread < 1e-6:
        return {"grey_sd": 0.0}
    weight = np.maximum(_blur(tissue.astype(np.float64), DETREND, aspect), 1e-6)
    local = np.sqrt(_blur(speckle**2, DETREND, aspect) / weight)
    # a flat patch has no spread to divide by; rounding to whole grey levels is the least there can be
    snr = mean[tissue] / np.maximum(local[tissue], math.sqrt(ROUNDING))
    skewness = float(np.mean((values - values.mean()) ** 3)) / spread**3
    return {"snr": float(np.median(snr)), "grey_sd": spread, "skewness": skewness}


def autocovariance(values: np.ndarray, where: np.ndarray, reach: int) -> np.ndarray:
    """(reach + 1,) mean product of (H, W) values and those 0, 1, ... rows below; of pixels that are both `where`.

    The list ends early at the first lag at which fewer than 1 % of the pixels have a partner.
    """
    kept = values * where
    found = []
    for lag in range(min(reach, len(values) - 1) + 1):
        above, below = slice(0, len(values) - lag), slice(lag, None)
        partners = int(np.count_nonzero(where[above] & where[below]))
        if partners < 0.01 * where.size:
            break
        found.append(float(np.sum(kept[above] * kept[below])) / partners)
    return np.array(found)


def width_at_half(covariance: np.ndarray) -> float:
    """Full width at half maximum, in lags, of a (K,) autocovariance from lag 0; NaN where it never falls so low."""
    if not len(covariance) or covariance[0] <= 1e-9:
        return math.nan
    below = np.flatnonzero(covariance < covariance[0] / 2)
    if not len(below):
        return math.nan
    k = int(below[0])
    return 2 * (k - 1 + (covariance[k - 1] - covariance[0] / 2) / (covariance[k - 1] - covariance[k]))


def radial_spectrum(image: np.ndarray, mask: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """(BANDS,) log power of a (S, S) image in bands of radial frequency, in dB above one squared grey level.

    Mean over half-overlapping patches of `PATCH` that show tissue only, each without its mean and under a Hann
    window (Welch, IEEE Trans. Audio and Electroacoustics 15(2), 1967); white noise of variance v has 10 log10(v + 1/12)
    in all bands. Band k ends at (k + 1) / BANDS of the height's highest frequency, S / 2 cycles per picture
    height; frequencies across are in the same unit, so that a band is a ring in true geometry. NaN without a patch.
    """
    grey = np.asarray(image, dtype=np.float64)
    tissue = tissue_of(grey, mask, aspect)
    side = min(max(MIN_PATCH, round(PATCH * len(grey))), len(grey))
    patches = _patches(grey, side)[_patches(tissue, side).mean(axis=(1, 2)) >= WHOLE]
    if not len(patches):
        return np.full(BANDS, math.nan)
    window = np.outer(np.hanning(side + 1)[:-1], np.hanning(side + 1)[:-1])
    flat = (patches - patches.mean(axis=(1, 2), keepdims=True)) * window
    points = max(side, 2 * BANDS)  # small patches are padded, so that no band is empty
    power = (np.abs(fft2(flat, (points, points))) ** 2).mean(axis=0) / (window**2).sum()
    frequency = np.fft.fftfreq(points)
    band = np.ceil(np.hypot(frequency[:, None], frequency / aspect) * 2 * BANDS).astype(int) - 1
    used = (band >= 0) & (band < BANDS)
    counts = np.bincount(band[used], minlength=BANDS)
    mean = np.bincount(band[used], weights=power[used], minlength=BANDS) / np.maximum(counts, 1)
    return np.asarray(10 * np.log10(mean + ROUNDING))


def _patches(values: np.ndarray, side: int) -> np.ndarray:
    """(P, side, side) squares of a (H, W) picture, overlapping by half."""
    windows = np.lib.stride_tricks.sliding_window_view(values, (side, side))[:: side // 2, :: side // 2]
    return windows.reshape(-1, side, side)


def speckle_matrix(images: np.ndarray, masks: np.ndarray, aspects: np.ndarray) -> np.ndarray:
    """(N, 9 + BANDS) `FEATURES` and `radial_spectrum` of N pairs, NaN where there is nothing to measure."""
    rows = []
    for image, mask, aspect in zip(images, masks, aspects, strict=True):
        bands = radial_spectrum(image, mask, aspect)
        rows.append([*speckle_features(image, mask, aspect, bands).values(), *bands])
    return np.array(rows, dtype=np.float64).reshape(len(images), len(NAMES) + BANDS)
