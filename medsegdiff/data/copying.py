"""A first test for copied patients: are synthetic pictures nearer to the pictures trained on than to held-out ones?

Without copying, the nearest real neighbour of a synthetic picture is a train picture as often as a held-out one, when
there are equally many of both. Likeness is the correlation of fine detail after small shifts and mirroring
(`medsegdiff.data.duplicates.detail`), which finds a copy whatever its brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medsegdiff.config import require
from medsegdiff.data.duplicates import MAX_SHIFT, detail, detail_windows
from medsegdiff.data.records import PairSet

SUBSETS = 20  # random choices of as many train pictures as there are held-out ones


def likeness(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """(N, K) largest correlation of the details of N and K (H, W) uint8 images, over shifts and mirroring."""
    a, b = (np.stack([detail(image) for image in images]) for images in (first, second))
    best = np.full((len(a), len(b)), -1.0, np.float32)
    for turned in (a, np.ascontiguousarray(a[:, :, ::-1])):
        middle = detail_windows(turned, MAX_SHIFT, MAX_SHIFT)
        for top in range(0, 2 * MAX_SHIFT + 1, 2):
            for left in range(0, 2 * MAX_SHIFT + 1, 2):
                np.maximum(best, middle @ detail_windows(b, top, left).T, out=best)
    return best


def copying_test(
    synthetic: Sequence[np.ndarray],
    train: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    *,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """How often the nearest real picture of a synthetic one is a train picture, with equally many of both.

    nearest_to_train: the share, averaged over random subsets of train, with a 95 % bootstrap interval over synthetic
    pictures; 0.5 is no copying. beyond_held_out: the share of synthetic pictures that are more like a train picture
    than 95 % of held-out pictures are (0.05 is expected). verdict: "fail" where the lower bound of the first is
    above 0.5, else "pass" where its upper bound is at most 0.6, else "too few pictures to tell".
    """
    to_train, to_held = likeness(synthetic, train), likeness(synthetic, held_out)
    limit = float(np.percentile(likeness(held_out, train).max(axis=1), 95))
    random = np.random.default_rng(seed)
    count = min(len(train), len(held_out))
    nearer = np.zeros(len(to_train))
    for _ in range(SUBSETS):
        some_train, some_held = (random.permutation(m.shape[1])[:count] for m in (to_train, to_held))
        nearer += to_train[:, some_train].max(axis=1) > to_held[:, some_held].max(axis=1)
    nearer /= SUBSETS
    draws = nearer[random.integers(len(nearer), size=(bootstrap, len(nearer)))].mean(axis=1)
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    verdict = "fail" if low > 0.5 else "pass" if high <= 0.6 else "too few pictures to tell"
    best = to_train.max(axis=1)
    return {
        "synthetic": len(to_train),
        "train": len(train),
        "held_out": len(held_out),
        "compared": count,
        "nearest_to_train": {"mean": float(nearer.mean()), "low": low, "high": high},
        "beyond_held_out": float((best > limit).mean()),
        "most_alike": float(best.max()),
        "held_out_95": limit,
        "verdict": verdict,
    }


def copying_of(synthetic: PairSet, real: PairSet, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """`copying_test` of a synthetic PAIRS against train and against val + test of a real one."""
    images = {
        split: [real.read_image(r) for r in real.records if (r.split == "train") == (split == "train")]
        for split in ("train", "held_out")
    }
    for split, found in images.items():
        require(
            bool(found), str(real.root), f"no {split.replace('_', '-')} picture", "some of both", "Prepare it anew."
        )
    drawn = [synthetic.read_image(r) for r in synthetic.records]
    return copying_test(drawn, images["train"], images["held_out"], bootstrap=bootstrap, seed=seed)
