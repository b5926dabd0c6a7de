"""The copying test against sets whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from medsegdiff.evaluation.privacy import copying
from medsegdiff.evaluation.privacy.copying import copying_test, nearest_share, similarity

if TYPE_CHECKING:
    from sample_sets import WriteSamples


def textures(count: int, seed: int) -> list[np.ndarray]:
    """Smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.standard_normal((96, 96)).astype(np.float32), (0, 0), 3) for _ in range(count)]
    return [np.clip(128 + 40 * n / n.std(), 0, 255).astype(np.uint8) for n in noise]


def test_planted_copies_fail() -> None:
    """Damage: swap train and held-out in `copying_test`."""
    train, held_out = textures(40, 1), textures(40, 2)
    copies = [np.ascontiguousarray(np.clip(0.8 * p[:, ::-1] + 20, 0, 255).astype(np.uint8)) for p in train[:20]]
    result = copying_test(copies, train, held_out, bootstrap=500, seed=0)
    assert result["verdict"] == "fail"
    assert result["nearest_to_train"]["value"] > 0.95
    assert result["beyond_held_out"] == 1.0


def test_one_copy_among_many_fails() -> None:
    """Damage: a verdict by the shares alone, which one copy among many hardly moves; a copy of a stranger's scene."""
    train, held_out, sampled = textures(60, 21), textures(60, 22), textures(79, 23)
    quiet = copying_test([*sampled, held_out[0]], train, held_out, bootstrap=200, seed=0)
    reported = copying_test([*sampled, np.ascontiguousarray(train[0][:, ::-1])], train, held_out, bootstrap=200, seed=0)
    assert (quiet["copies"], reported["copies"]) == (0, 1)
    assert quiet["verdict"] != "fail"
    assert reported["verdict"] == "fail"
    assert reported["nearest_to_train"]["low"] < 0.5


def test_unrelated_pictures_are_as_near_to_either_set() -> None:
    """Damage: compare with all of train instead of as many as there are held-out pictures."""
    result = copying_test(textures(150, 3), textures(90, 4), textures(30, 5), bootstrap=500, seed=0)
    share = result["nearest_to_train"]
    assert abs(share["value"] - 0.5) < 0.12
    assert share["low"] < 0.5 < share["high"]
    assert result["compared"] == 30
    assert result["beyond_held_out"] < 0.2


def test_few_pictures_cannot_decide() -> None:
    """Damage: call everything that does not fail a pass."""
    result = copying_test(textures(6, 6), textures(30, 7), textures(30, 8), bootstrap=500, seed=0)
    assert result["verdict"] == "too few pictures to decide"


def test_many_pictures_of_a_few_kinds_say_little() -> None:
    """Synthetic pictures like twelve that no set holds, whose nearest real ones as many coins decide.

    Damage: an interval over synthetic pictures alone, which are many: chance looks like a finding.
    """
    rng, kinds = np.random.default_rng(3), textures(12, 10)
    sampled = [np.clip(p + rng.normal(0, 3, p.shape), 0, 255).astype(np.uint8) for p in kinds for _ in range(8)]
    share = copying_test(sampled, textures(20, 11), textures(20, 12), bootstrap=200, seed=0)["nearest_to_train"]
    assert share["high"] - share["low"] > 0.3  # of 96 coins: 0.2


def test_near_duplicates_are_taken_together() -> None:
    """Damage: single pictures chosen of train, of which all then show other scenes; groups of the wrong side."""
    rng, kinds = np.random.default_rng(0), np.arange(40)
    of_kind = rng.normal(size=(200, 40))  # similarity to scenes; those of train come four times, of held-out once
    to_train, groups = np.repeat(rng.normal(size=(200, 40)), 4, axis=1), (np.arange(200), np.repeat(kinds, 4), kinds)
    together = nearest_share(to_train, of_kind, groups, bootstrap=50, seed=0).value
    alone = nearest_share(to_train, of_kind, (groups[0], np.arange(160), kinds), bootstrap=50, seed=0).value
    assert together < 0.3  # ten scenes against forty
    assert alone > together + 0.1


def test_groups_are_handed_on(tmp_path: Path, write_ellipses: WriteSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the groups of another side, or none."""
    real = write_ellipses(tmp_path / "real", {"train": 4, "val": 1, "test": 2})
    seen: dict[str, Any] = {}
    monkeypatch.setattr(copying, "copying_test", lambda *images, **how: seen.update(how, sizes=[*map(len, images)]))
    halves = [dataclasses.replace(r, group=f"g{k // 2}") for k, r in enumerate(real.records)]
    pairs = dataclasses.replace(real, records=halves)
    copying.copying_of(pairs, pairs, bootstrap=10, seed=0)
    train = [r.group for r in halves if r.split == "train"]
    held_out = [r.group for r in halves if r.split != "train"]
    for found, expected in zip(seen["groups"], ([r.group for r in halves], train, held_out), strict=True):
        assert [*np.unique(expected, return_inverse=True)[1]] == [*found]
    assert seen["sizes"] == [len(halves), len(train), len(held_out)]


def test_similarity_finds_mirrored_shifted_copies() -> None:
    """Damage: leave mirroring out of `similarity`."""
    picture, other = textures(2, 9)
    moved = np.roll(picture[:, ::-1], 4, axis=1)
    assert similarity([moved], [picture])[0, 0] > 0.8
    assert similarity([moved], [other])[0, 0] < 0.5
