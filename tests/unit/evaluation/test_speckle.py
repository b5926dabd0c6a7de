"""Speckle: made from a known point-spread function, and what damage does to the comparison."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from evaluation_sets import context, sampled, three_sets
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

from medsegdiff.evaluation.sections.speckle import run
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.speckle import (
    BANDS,
    DETREND,
    NAMES,
    autocovariance,
    radial_spectrum,
    speckle_features,
    width_at_half,
)

EMPTY = np.zeros((128, 128), bool)


def speckle(down: float, across: float, seed: int, size: int = 128) -> np.ndarray:
    """(size, size) intensity of fully developed speckle, mean and standard deviation 100, above a grey of 1000.

    Complex white noise under a Gaussian point-spread function of standard deviations in pixels.
    """
    field = np.random.default_rng(seed).normal(size=(2, size, size))
    intensity = (gaussian_filter(field, (0, down, across), mode="wrap") ** 2).sum(axis=0)
    return 1000 + 50 * intensity * 4 * math.pi * down * across


def predicted_width(along: float, other: float, blur: float) -> float:
    """Full width at half maximum of the autocovariance of such speckle minus its Gaussian blur; all in one unit.

    The field's autocorrelation is exp(-t^2 / 4 s^2), so that of intensity (Siegert) exp(-t^2 / 2 s^2): 2.355 s wide.
    Taking away a blur of variance D convolves it with delta - 2 G(D) + G(2 D).
    """

    def covariance(t: float) -> float:
        def part(D: float) -> float:
            widths = [s**2 / (s**2 + D) for s in (along, other)]
            return math.sqrt(widths[0] * widths[1]) * math.exp(-(t**2) / 2 / (along**2 + D))

        return part(0) - 2 * part(blur**2) + part(2 * blur**2)

    return 2 * float(brentq(lambda t: covariance(t) - covariance(0) / 2, 0, 5 * along))


@pytest.mark.parametrize(("down", "across", "aspect"), [(1.5, 1.5, 1.0), (1.0, 2.5, 1.0), (1.2, 1.6, 1.5)])
def test_grains_have_the_size_of_the_point_spread_function(down: float, across: float, aspect: float) -> None:
    """Closed form for three point-spread functions. Damage: axes are swapped, half widths are reported, or the shape
    of pixels is left out."""
    found = [speckle_features(speckle(down, across, seed), EMPTY, aspect) for seed in range(12)]
    blur = 128 * DETREND  # in pixel heights, as all of these
    axial = predicted_width(down, across * aspect, blur)
    lateral = predicted_width(across * aspect, down, blur)
    assert np.mean([f["axial_length"] for f in found]) * 1.28 == pytest.approx(axial, rel=0.06)
    assert np.mean([f["lateral_length"] for f in found]) * 1.28 == pytest.approx(lateral, rel=0.06)
    if down == across:  # and without the blur, nearly
        assert axial == pytest.approx(2 * math.sqrt(2 * math.log(2)) * down, rel=0.1)


def test_the_spectrum_is_that_of_the_point_spread_function() -> None:
    """Power of intensity: variance 2 pi s^2 exp(-2 pi^2 s^2 f^2). Damage: power is not in squared grey levels, the
    window is not made up for, or frequencies are off by a band."""
    sigma = 1.0
    found = np.mean([radial_spectrum(speckle(sigma, sigma, seed), EMPTY) for seed in range(12)], axis=0)
    frequency = (np.arange(100 * BANDS) + 0.5) / (200 * BANDS)  # cycles per pixel
    power = 100**2 * 2 * math.pi * sigma**2 * np.exp(-2 * math.pi**2 * sigma**2 * frequency**2)
    rings = [x.reshape(BANDS, 100).sum(axis=1) for x in (power * frequency, frequency)]
    expected = 10 * np.log10(rings[0] / rings[1])
    assert found[1:] == pytest.approx(expected[1:], abs=1.0)
    assert found[0] == pytest.approx(expected[0], abs=2.0)  # the mean of a patch, taken away, was part of it


@pytest.mark.parametrize("aspect", [0.8, 1.4])
def test_white_noise_is_flat(aspect: float) -> None:
    """Damage: a band's power is summed instead of averaged, or the power of rounding is left out."""
    noise = 100 + np.random.default_rng(0).normal(0, 5, (8, 128, 128))
    found = np.mean([radial_spectrum(image, EMPTY, aspect) for image in noise], axis=0)
    assert found[1:] == pytest.approx(np.full(BANDS - 1, 10 * math.log10(25 + 1 / 12)), abs=0.4)


def test_envelope_of_exponential_and_symmetric_noise() -> None:
    """Intensity has a skewness of 2 and a ratio of 1; noise of 10 about 100 none and 10. Damage: the cube is not
    divided by the spread's, or the ratio is upside down."""
    rayleigh = speckle_features(speckle(0.5, 0.5, 0) - 1000, EMPTY)
    normal = speckle_features(100 + np.random.default_rng(0).normal(0, 10, (128, 128)), EMPTY)
    assert rayleigh["skewness"] == pytest.approx(2, abs=0.25)
    assert rayleigh["snr"] == pytest.approx(1, abs=0.15)
    assert normal["skewness"] == pytest.approx(0, abs=0.1)
    assert normal["snr"] == pytest.approx(10, rel=0.05)
    assert normal["grey_sd"] == pytest.approx(10, rel=0.05)


def test_blur_smooths_and_noise_roughens() -> None:
    """Damage: the finest third is not the finest, or lengths do not follow grains."""
    image = speckle(1.5, 2.0, 0)
    plain, blurred = (speckle_features(gaussian_filter(image, s), EMPTY) for s in (0, 1.5))
    noisy = speckle_features(image + np.random.default_rng(1).normal(0, 100, image.shape), EMPTY)
    assert blurred["fine"] < plain["fine"] - 5
    assert noisy["fine"] > plain["fine"] + 5
    assert noisy["axial_length"] < 0.8 * plain["axial_length"] < 0.7 * blurred["axial_length"]


def test_the_lesion_is_no_tissue() -> None:
    """A lesion full of bright stripes changes nothing outside of it. Damage: the mask is ignored anywhere."""
    mask = EMPTY.copy()
    mask[50:80, 40:90] = True
    image = 0.1 * speckle(1.5, 2.0, 0)
    striped = image.copy()
    striped[50:80, 40:90] = 100 * (np.arange(50) % 2)
    plain, found = speckle_features(image, mask), speckle_features(striped, mask)
    outside = [name for name in NAMES if name != "lesion_grey_sd"]
    assert [found[n] for n in outside] == pytest.approx([plain[n] for n in outside])
    assert found["lesion_grey_sd"] > 4 * plain["lesion_grey_sd"]


def test_autocovariance_by_hand() -> None:
    """Stripes 1, 1, -1, -1 down: 1, 0, -1 at lags 0, 1, 2, so half at lag 1/2. Damage: pixels without a partner
    count, or the width is reported from one side only."""
    stripes = np.tile(np.array([1.0, 1, -1, -1] * 4)[:, None], (1, 16))
    where = np.ones((16, 16), bool)
    where[:, 3:5] = False
    found = autocovariance(stripes, where, 2)
    assert found == pytest.approx([1, 1 / 15, -1], abs=1e-9)
    assert width_at_half(np.array([2.0, 0.0])) == pytest.approx(1)
    assert math.isnan(width_at_half(np.array([2.0, 1.5])))
    assert math.isnan(width_at_half(np.zeros(3)))


def textured(count: int, seed: int, prefix: str, grain: float = 1.0) -> Pairs:
    """Sampled pictures whose noise has grains."""
    pairs = sampled(count, seed, prefix)
    noise = np.random.default_rng(seed).normal(size=pairs.images.shape)
    grains = gaussian_filter(noise, (0, grain, grain)) * 2 * math.sqrt(math.pi) * grain
    return dataclasses.replace(
        pairs, images=(np.where(pairs.masks, 60, 140) + 12 * grains).clip(0, 255).astype(np.uint8)
    )


def test_sets_of_one_kind_have_one_speckle() -> None:
    """Damage: sets of the same kind are called smoother or rougher, or a feature is named as far off."""
    section = run(context(three_sets()))
    assert section.values["farthest"] == []
    assert any("neither smoother nor rougher" in sentence for sentence in section.text)
    assert abs(section.values["fine_db"]["synthetic"]["value"]) < 0.5
    assert list(section.values["subgroups"]) == ["all", "benign", "malignant"]
    assert [len(t.rows) for t in section.tables] == [len(NAMES) + 1] * 3
    assert len(section.figures) == 1
    assert section.figures[0].png[:4] == b"\x89PNG"
    assert {len(values) for values in section.per_pair.values()} == {40}


@pytest.mark.parametrize(("grain", "word", "sign"), [(1.4, "smoother", -1), (0.7, "rougher", 1)])
def test_coarser_and_finer_grains_are_reported(grain: float, word: str, sign: int) -> None:
    """Damage: the difference is taken the wrong way round, or distances do not exceed the baseline."""
    own, train, held_out = textured(40, 3, "synthetic", grain), textured(60, 1, "train"), textured(40, 2, "held")
    sets = dataclasses.replace(three_sets(own), train=train, held_out=held_out)
    section = run(context(sets))
    assert any(f"Synthetic pictures are {word} than real ones" in sentence for sentence in section.text)
    assert sign * section.values["fine_db"]["synthetic"]["value"] > 2
    for reported in section.values["subgroups"].values():
        assert sign * (reported["axial_length"]["real_mean"] - reported["axial_length"]["synthetic_mean"]) > 0.3
        assert reported["axial_length"]["distance"]["low"] > reported["axial_length"]["baseline"]["high"]
        assert (
            reported["log_spectral_distance"]["distance"]["low"] > reported["log_spectral_distance"]["baseline"]["high"]
        )


@pytest.mark.parametrize("grey", [0, 128])
def test_flat_pictures_have_no_grain(grey: int) -> None:
    """Black and grey. Damage: a division by no spread gets out, or a flat grey picture is called speckled."""
    found = speckle_features(np.full((128, 128), grey, np.uint8), EMPTY)
    assert not np.isinf(list(found.values())).any()
    assert math.isnan(found["axial_length"])
    assert math.isnan(found["snr"])
    if grey:
        assert found["grey_sd"] == 0
        assert found["fine"] == pytest.approx(10 * math.log10(1 / 12))


def test_bad_sets_are_reported_and_do_not_crash() -> None:
    """Black pictures, masks that fill the picture, three pictures. Damage: NaN gets out, or nothing is said."""
    own = sampled(40, 3, "synthetic")
    black = dataclasses.replace(own, images=np.zeros_like(own.images))
    full = dataclasses.replace(own, masks=np.ones_like(own.masks))
    for synthetic in (black, full, own.rows([0, 1, 2])):
        section = run(context(three_sets(synthetic)))
        assert json.dumps([section.values, section.per_pair], allow_nan=False)
        assert any("10" in line for line in section.skipped)
        assert "fine_db" not in section.values
