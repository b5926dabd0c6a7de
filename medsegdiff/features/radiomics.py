"""Radiomic features of image and lesion: what an ultrasound picture's grey values are like, without a network.

The Frechet distance of such features needs no pretrained weights and suits medical pictures better than features of
photographs do (Konz et al., "Frechet radiomic distance", 2024). First-order, co-occurrence and run-length features are
defined as by the Image Biomarker Standardisation Initiative (Zwanenburg et al., Radiology 295(2), 2020, and its
reference manual, arXiv:1612.07003; chapter numbers below), on fixed bins of grey values, which are comparable between
pictures, and averaged over four directions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pywt
from skimage.feature import graycomatrix

from medsegdiff.engine.progress import progress_bar

LEVELS = 32  # bins of the 256 grey values
SMALLEST_LESION = 16  # pixels below which a lesion has no texture
FARTHEST = 10.0  # standard deviations at which a feature is cut, so that one odd picture does not decide
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
FINE, COARSE = 1, 4  # pixels between the two points of a co-occurrence, at 128 pixels a side
WAVELET, WAVELET_LEVELS = "db2", 3

FIRST_ORDER = ("mean", "deviation", "skewness", "kurtosis", "entropy", "percentile 10", "median", "percentile 90")
CO_OCCURRENCE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
RUN_LENGTHS = ("short runs", "long runs", "grey non-uniformity", "length non-uniformity", "run percentage")
WAYS = ("horizontal", "vertical", "diagonal")
BANDS = tuple(f"{way} detail, scale {level}" for level in range(1, WAVELET_LEVELS + 1) for way in WAYS)
PICTURE = (
    *FIRST_ORDER,
    *(f"fine co-occurrence {name}" for name in CO_OCCURRENCE),
    *(f"coarse co-occurrence {name}" for name in CO_OCCURRENCE),
    *RUN_LENGTHS,
    *BANDS,
)
LESION = (*FIRST_ORDER, *(f"fine co-occurrence {name}" for name in CO_OCCURRENCE), *RUN_LENGTHS, *BANDS[:6])
NAMES = (*(f"picture: {name}" for name in PICTURE), *(f"lesion: {name}" for name in LESION))


def radiomics(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N, F) features `NAMES` of (N, S, S) uint8 images and their boolean masks, in their own units.

    NaN for those of a lesion of fewer than `SMALLEST_LESION` pixels.
    """
    both = zip(images, masks, strict=True)
    rows = [pair_radiomics(*pair) for pair in progress_bar(both, "radiomics", len(images), leave=False, unit="picture")]
    return np.stack(rows) if rows else np.zeros((0, len(NAMES)))


def standardised(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, F) features in standard deviations of the (K, F) `reference` from its mean, within +-`FARTHEST`.

    A picture without a lesion has the mean of the reference (0) for features of the lesion. A feature that is the same
    in all of the reference is in its own units.
    """
    mean, deviation = (_over_present(f, reference) for f in (np.mean, np.std))
    scaled = (features - mean) / np.where(deviation > 1e-9, deviation, 1.0)
    return np.nan_to_num(np.clip(scaled, -FARTHEST, FARTHEST), nan=0.0)


def without_lesion(masks: np.ndarray) -> int:
    """How many of (N, S, S) masks have too small a lesion for its features."""
    return int((masks.sum(axis=(1, 2)) < SMALLEST_LESION).sum())


def pair_radiomics(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(F,) features `NAMES` of a (S, S) uint8 image and its boolean mask, in their own units."""
    everywhere = np.ones(mask.shape, dtype=bool)
    bins = (image // (256 // LEVELS)).astype(np.uint8)
    coarse = max(2, round(COARSE * len(image) / 128))
    bands = wavelet_bands(image)
    features = [
        first_order(image.ravel()),
        co_occurrence(bins, everywhere, FINE),
        co_occurrence(bins, everywhere, coarse),
        run_lengths(bins, everywhere),
        _energies(bands, everywhere, WAVELET_LEVELS),
    ]
    if mask.sum() < SMALLEST_LESION:
        return np.concatenate([*features, np.full(len(LESION), np.nan)])
    top, bottom, left, right = _box(mask)
    part, where = bins[top:bottom, left:right], mask[top:bottom, left:right]
    lesion = [first_order(image[mask]), co_occurrence(part, where, FINE), run_lengths(part, where)]
    return np.concatenate([*features, *lesion, _energies(bands, mask, 2)])


def first_order(grey: np.ndarray) -> np.ndarray:
    """(8,) `FIRST_ORDER` of K grey values 0..255 (IBSI 3.3, entropy 3.4.18); skewness and kurtosis 0 where constant."""
    values = grey.astype(np.float64)
    mean, deviation = values.mean(), values.std()
    z = (values - mean) / deviation if deviation > 0 else np.zeros_like(values)
    square = z * z
    shape = [(square * z).mean(), (square * square).mean() - 3] if deviation > 0 else [0.0, 0.0]
    shares = np.bincount(grey // (256 // LEVELS), minlength=LEVELS) / len(grey)
    return np.array([mean, deviation, *shape, _entropy(shares), *np.percentile(values, [10, 50, 90])])


def co_occurrence(bins: np.ndarray, where: np.ndarray, distance: int) -> np.ndarray:
    """(6,) `CO_OCCURRENCE` of a (H, W) picture of `LEVELS` bins (IBSI 3.6), of pairs of pixels that lie in `where`.

    The mean over four directions. Correlation is 1 where all pixels are alike; all 0 where there is no pair at all.
    """
    # What lies outside is a bin of its own, and is taken out again
    inside = np.where(where, bins + 1, 0).astype(np.uint8)
    counts = graycomatrix(inside, [distance], ANGLES, LEVELS + 1, symmetric=True)[1:, 1:, 0].astype(np.float64)
    total = counts.sum(axis=(0, 1))
    if not total.any():
        return np.zeros(len(CO_OCCURRENCE))
    p = np.moveaxis(counts[..., total > 0] / total[total > 0], -1, 0)  # (directions, LEVELS, LEVELS)
    i, j = np.mgrid[:LEVELS, :LEVELS]
    mean = (p * i).sum(axis=(1, 2))
    variance = (p * (i - mean[:, None, None]) ** 2).sum(axis=(1, 2))
    product = (p * (i - mean[:, None, None]) * (j - mean[:, None, None])).sum(axis=(1, 2))
    correlation = np.where(variance > 1e-12, product / np.maximum(variance, 1e-12), 1.0)
    apart = abs(i - j)
    over = [(p * w).sum(axis=(1, 2)).mean() for w in (apart**2, apart, 1 / (1 + apart**2))]
    energy = np.sqrt((p**2).sum(axis=(1, 2))).mean()
    return np.array([*over, energy, correlation.mean(), np.mean([_entropy(q.ravel()) for q in p])])


def run_lengths(bins: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(5,) `RUN_LENGTHS` of a (H, W) picture of bins within `where` (IBSI 3.7): runs are pixels of one bin in a line.

    Short run emphasis, logarithm of long run emphasis (which one black corner multiplies), grey level and run length
    non-uniformity (both normalised), run percentage; of each the mean over four directions. 0 where there is no pixel.
    """
    count = int(where.sum())
    if not count:
        return np.zeros(len(RUN_LENGTHS))
    inside = np.where(where, bins.astype(np.int16), -1)
    directions = []
    for lines in _lines(inside):
        levels, lengths = _runs(lines)
        n, size = len(lengths), lengths.astype(np.float64)
        grey = (np.bincount(levels) / n) ** 2
        length = (np.bincount(lengths) / n) ** 2
        directions.append([(size**-2).mean(), np.log((size**2).mean()), grey.sum(), length.sum(), n / count])
    return np.mean(directions, axis=0)


def _lines(inside: np.ndarray) -> list[np.ndarray]:
    """The picture (H, W) as rows of lines in four directions, with -1 behind every line."""
    height, width = inside.shape
    wide = np.full((height, width + height), -1, inside.dtype)
    wide[:, :width] = inside
    rows = np.pad(inside, ((0, 0), (0, 1)), constant_values=-1)
    columns = np.pad(inside.T, ((0, 0), (0, 1)), constant_values=-1)
    # A row shorter by one than the padded one moves every row a pixel on, so that diagonals become columns
    falling = wide.ravel()[: height * (width + height - 1)].reshape(height, -1)
    wide = wide.copy()
    wide[:, :width] = inside[:, ::-1]
    rising = wide.ravel()[: height * (width + height - 1)].reshape(height, -1)
    return [rows, columns, *(np.pad(d.T, ((0, 0), (0, 1)), constant_values=-1) for d in (falling, rising))]


def _runs(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin and length of every run of equal bins in lines that end with -1; runs of -1 are none."""
    flat = lines.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(flat)]]))
    levels = flat[starts]
    return levels[levels >= 0], lengths[levels >= 0]


def wavelet_bands(image: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Squared details of a (S, S) uint8 picture, finest scale first, each (horizontal, vertical, diagonal)."""
    coefficients = pywt.wavedec2(image.astype(np.float64) / 255, WAVELET, mode="periodization", level=WAVELET_LEVELS)
    return [tuple(band**2 for band in level) for level in coefficients[:0:-1]]


def _energies(bands: list[tuple[np.ndarray, ...]], mask: np.ndarray, levels: int) -> np.ndarray:
    """(3 * levels,) base-10 logarithms of the mean energy of each band within a mask that is not empty."""
    energies = []
    for number, level in enumerate(bands[:levels], start=1):
        side = len(mask) // 2**number
        share = mask.reshape(side, 2**number, side, 2**number).mean(axis=(1, 3))
        where = share >= min(0.5, share.max())  # something is left of lesions smaller than a coefficient
        energies += [band[where].mean() for band in level]
    return np.log10(np.array(energies) + 1e-6)  # squared, a difference of one grey level is 1.5e-5


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _entropy(shares: np.ndarray) -> float:
    """In bits, of shares that sum to 1."""
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def _over_present(statistic: Callable[..., np.ndarray], features: np.ndarray) -> np.ndarray:
    """(F,) a statistic of each column of (N, F) features over the pictures that have it; 0 where none has."""
    present = [column[~np.isnan(column)] for column in features.T]
    return np.array([float(statistic(column)) if len(column) else 0.0 for column in present])
