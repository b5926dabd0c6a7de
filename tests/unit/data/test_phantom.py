"""The simulated data set: layout, determinism, speckle statistics, and the signs that distinguishes classes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from medsegdiff.data.hashing import hash_distances, perceptual_hash
from medsegdiff.data.phantom import PhantomConfig, render_case, speckle_envelope, write_phantom
from medsegdiff.errors import UserError

Case = tuple[np.ndarray, np.ndarray]  # picture (H, W) uint8, inside (H, W) bool of its one lesion


def read(path: Path) -> np.ndarray:
    """The picture as stored: (H, W) or (H, W, 3)."""
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six benign, four malignant, one normal, three second recordings."""
    output = tmp_path_factory.mktemp("phantom") / "raw"
    return write_phantom(PhantomConfig(str(output), num_benign=6, num_malignant=4, num_normal=1, duplicates=3, seed=5))


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """Twenty cases of each lesion class, those with one lesion only."""
    found: dict[str, list[Case]] = {}
    for label in ("benign", "malignant"):
        rendered = [render_case(label, 11, index) for index in range(1, 24)]
        found[label] = [(image, masks[0] > 0) for image, masks in rendered if len(masks) == 1][:20]
    return found


def test_case_depends_on_its_own_seed_only(folder: Path, tmp_path: Path) -> None:
    """Damage: one generator shared by all cases instead of a SeedSequence for each."""
    few = write_phantom(PhantomConfig(str(tmp_path / "few"), num_benign=2, num_malignant=1, duplicates=0, seed=5))
    for name in ("benign/benign (2).png", "benign/benign (2)_mask.png", "malignant/malignant (1).png"):
        assert (few / name).read_bytes() == (folder / name).read_bytes(), name
    first, again, other = (render_case("benign", seed, 2)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert render_case("benign", 5, 2, width=230, height=190)[0].shape == (190, 230)


def test_layout_is_that_of_busi(folder: Path) -> None:
    """Damage: numbering from 0, second masks left out, or masks of another size than their picture."""
    assert sorted(p.name for p in folder.iterdir()) == ["PHANTOM.txt", "benign", "malignant", "normal"]
    assert "NOT patients" in (folder / "PHANTOM.txt").read_text()
    # 3 second recordings in turn over 3 classes: one more of each
    expected = {f"{label}/{label} ({n})" for label, count in (("benign", 7), ("malignant", 5), ("normal", 2))
                for n in range(1, count + 1)}  # fmt: skip
    pictures = {str(p.relative_to(folder)).removesuffix(".png") for p in folder.glob("*/*).png")}
    assert pictures == expected
    for stem in expected:
        image, masks = read(folder / f"{stem}.png"), sorted(folder.glob(f"{stem}_mask*.png"))
        assert image.dtype == np.uint8
        assert (folder / f"{stem}_mask.png") in masks
        for mask in map(read, masks):
            assert mask.shape == image.shape[:2]
            assert set(np.unique(mask)) == ({0} if stem.startswith("normal") else {0, 255})
    seconds = {str(p.relative_to(folder)) for p in folder.glob("*/*_mask_1.png")}
    assert seconds == {"benign/benign (3)_mask_1.png", "malignant/malignant (3)_mask_1.png"}
    assert len({read(folder / f"{stem}.png").shape[:2] for stem in expected}) == len(expected)


def test_some_files_are_rgb_with_a_coloured_overlay(folder: Path) -> None:
    """Damage: the overlay drawn in grey, or all pictures written as RGB."""
    coloured = {p.name: read(p) for p in folder.glob("*/*).png") if read(p).ndim == 3}
    assert sorted(coloured) == ["benign (4).png", "malignant (4).png"]
    for picture in coloured.values():
        differs = np.ptp(picture.astype(int), axis=2) > 0
        assert 10 < differs.sum() < 0.02 * differs.size


def test_second_recordings_look_alike_and_cases_do_not(folder: Path) -> None:
    """Damage: a second recording rendered from a new seed, or copied to the byte."""

    def picture(number: int) -> np.ndarray:
        return read(folder / f"benign/benign ({number}).png")

    hashes = [perceptual_hash(picture(number)) for number in (1, 2, 3, 5, 7)]
    distances = hash_distances(hashes, hashes)
    assert distances[0, 4] <= 68 < distances[np.triu_indices(4, 1)].min()  # 68 bits: what phase 1 calls a duplicate
    assert picture(1).shape != picture(7).shape


def test_speckle_is_rayleigh() -> None:
    """Damage: a real instead of a complex field (mean / std 1.32), or an unscaled point-spread function."""
    envelope = speckle_envelope(np.full((400, 400), 3.0), np.random.default_rng(0))
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, abs=0.06)
    assert np.mean(envelope**2) == pytest.approx(9.0, rel=0.05)
    border = np.concatenate([envelope[:2].ravel(), envelope[-2:].ravel()])
    assert np.mean(border**2) == pytest.approx(9.0, rel=0.2)
    intensity = envelope - envelope.mean()
    down, across = (np.mean(intensity * np.roll(intensity, 2, axis)) for axis in (0, 1))
    assert across > 1.5 * down  # grains are wider than tall


def test_lesion_is_dark_and_of_plausible_size(cases: dict[str, list[Case]]) -> None:
    """Damage: mask and picture of different lesions, or the strength of the lesion with the wrong sign."""
    for label in cases:
        for image, inside in cases[label]:
            ring = cv2.dilate(inside.astype(np.uint8), np.ones((21, 21))).astype(bool) & ~inside
            assert 0.02 < inside.mean() < 0.21
            assert image[inside].mean() < image[ring].mean() - 15


def test_benign_is_wide_and_malignant_tall(cases: dict[str, list[Case]]) -> None:
    """Damage: width and height of the outline swapped."""

    def aspect(inside: np.ndarray) -> float:
        return float(np.sum(inside.any(axis=0)) / np.sum(inside.any(axis=1)))

    assert np.mean([aspect(inside) for _, inside in cases["benign"]]) > 1.3
    assert np.mean([aspect(inside) for _, inside in cases["malignant"]]) < 0.95


def test_malignant_margin_is_less_compact(cases: dict[str, list[Case]]) -> None:
    """Damage: no spicules and no lobes on malignant outlines."""

    def roughness(inside: np.ndarray) -> float:
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outline = max(outlines, key=cv2.contourArea)
        return cv2.arcLength(outline, True) ** 2 / (4 * np.pi * cv2.contourArea(outline))  # 1 for a circle

    benign, malignant = ([roughness(inside) for _, inside in cases[label]] for label in ("benign", "malignant"))
    assert np.median(malignant) > 1.3 * np.median(benign)


def behind_minus_beside(image: np.ndarray, inside: np.ndarray) -> float:
    """Mean grey level below the middle of a lesion minus that of the same rows beside it."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    below = image[rows[-1] + 4 :].astype(float)
    quarter, gap = np.ptp(columns) // 4, 12
    behind = below[:, columns[0] + quarter : columns[-1] - quarter]
    beside = np.hstack([below[:, : max(columns[0] - gap, 0)], below[:, columns[-1] + gap :]])
    return float(behind.mean() - beside.mean())


def test_enhancement_behind_benign_and_shadow_behind_malignant(cases: dict[str, list[Case]]) -> None:
    """Damage: attenuation applied at its own depth instead of added up along the beam."""
    benign, malignant = (
        np.array([behind_minus_beside(*case) for case in cases[label]]) for label in ("benign", "malignant")
    )
    assert benign.mean() > 10
    assert malignant.mean() < -20
    assert benign.min() > malignant.max() - 10


@pytest.mark.parametrize("name", ["num_benign", "num_malignant", "num_normal", "duplicates", "seed"])
def test_negative_count_is_reported(name: str, tmp_path: Path) -> None:
    """Damage: a negative count taken as an empty range."""
    with pytest.raises(UserError, match=rf"{name}: found -1; expected a whole number of 0 or more"):
        write_phantom(PhantomConfig(str(tmp_path / "raw"), **{name: -1}))
    assert not list(tmp_path.iterdir())


def test_no_case_is_reported(tmp_path: Path) -> None:
    """Damage: the check of the sum left out, so that second recordings of nothing divide by zero."""
    with pytest.raises(UserError, match="at least one case"):
        write_phantom(PhantomConfig(str(tmp_path / "raw"), num_benign=0, num_malignant=0))


def test_output_is_kept_or_refused_but_never_mixed(tmp_path: Path) -> None:
    """Damage: an existing folder overwritten, or remains of an interrupted run taken over."""

    def config(**changes: int) -> PhantomConfig:
        return PhantomConfig(str(tmp_path / "raw"), **{"num_benign": 1, "num_malignant": 0, "duplicates": 0, **changes})

    (tmp_path / "raw.partial" / "benign").mkdir(parents=True)
    (tmp_path / "raw.partial" / "benign" / "left over.png").touch()
    (tmp_path / "raw.partial" / "fingerprint.json").write_text("{}")
    output = write_phantom(config())
    assert not (tmp_path / "raw.partial").exists()
    assert sorted(p.name for p in (output / "benign").iterdir()) == ["benign (1).png", "benign (1)_mask.png"]
    before = (output / "PHANTOM.txt").stat().st_mtime_ns
    assert write_phantom(config()) == output
    assert (output / "PHANTOM.txt").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        write_phantom(config(seed=1))
    (output / "PHANTOM.txt").unlink()
    with pytest.raises(UserError, match="other files"):
        write_phantom(config())
    assert (output / "benign" / "benign (1).png").is_file()
