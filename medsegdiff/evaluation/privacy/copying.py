"""A first test for copied patients: are synthetic pictures nearer to the pictures trained on than to held-out ones?

Without copying, the nearest real neighbour of a synthetic picture is a train picture as often as a held-out one, when
there are equally many of both. Similarity is the correlation of fine detail after small shifts and mirroring
(`medsegdiff.data.duplicates.detail`), which finds a copy whatever its brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.duplicates import MAX_SHIFT, detail, detail_windows
from medsegdiff.data.records import SampleSet
from medsegdiff.errors import require
from medsegdiff.evaluation.privacy.rules import CURRENT
from medsegdiff.statistics.bootstrap import centred_interval, equal_subsets, resample_choices
from medsegdiff.statistics.interval import Interval

SUBSETS = 20  # random choices of as many train pictures as there are held-out ones
SAME_SCENE = PrepareConfig.duplicate_correlation  # similarity from which `prepare` takes two pictures for one scene
Groups = tuple[np.ndarray, np.ndarray, np.ndarray]  # of synthetic, train and held-out pictures; alike ones share one


def similarity(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
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
    groups: Groups | None = None,
) -> dict[str, Any]:
    """How often the nearest real picture of a synthetic one is a train picture, with equally many of both.

    nearest_to_train: `nearest_share`; 0.5 is no copying. beyond_held_out: the share of synthetic pictures that are more
    like a train picture than 95 % of held-out pictures are (0.05 is expected). copies: synthetic pictures that show the
    scene of a train picture, being more like it than `SAME_SCENE` and than any held-out picture is to train. verdict:
    "fail" where there are copies, which the shares may be blind to, or the lower bound of the first is above 0.5, else
    "pass" where its upper bound is at most 0.6, else "too few pictures to decide".

    `groups`: names of what belongs together; without them every picture stands for itself.
    """
    to_train, to_held = similarity(synthetic, train), similarity(synthetic, held_out)
    strangers = similarity(held_out, train).max(axis=1)
    if groups is None:
        groups = (np.arange(len(synthetic)), np.arange(len(train)), np.arange(len(held_out)))
    share = nearest_share(to_train, to_held, groups, bootstrap=bootstrap, seed=seed)
    best, limit = to_train.max(axis=1), float(np.percentile(strangers, 95))
    copies = int((best > max(SAME_SCENE, float(strangers.max()))).sum())
    return {
        "synthetic": len(to_train),
        "train": len(train),
        "held_out": len(held_out),
        "compared": min(len(train), len(held_out)),
        "nearest_to_train": share.to_json(),
        "beyond_held_out": float((best > limit).mean()),
        "copies": copies,
        "most_alike": float(best.max()),
        "held_out_95": limit,
        "verdict": "fail" if copies else verdict_of(share),
    }


def verdict_of(share: Interval) -> str:
    """What the interval of `nearest_share` says."""
    if share.low > CURRENT.copying:
        return "fail"
    return "pass" if share.high <= CURRENT.allowed else "too few pictures to decide"


def nearest_share(
    to_train: np.ndarray, to_held_out: np.ndarray, groups: Groups, *, bootstrap: int, seed: int
) -> Interval:
    """Share of N pictures nearer to train than to as many held-out ones, by similarities (N, T), (N, H).

    Averaged over random choices of train, with a 95 % bootstrap interval over groups of synthetic and of real pictures:
    chance decides which real pictures are in train, and an interval over synthetic ones alone takes that for copying
    (docs/results/copying_calibration.md). It is on the wide side, since every resample is of one choice.
    """
    random, everything = np.random.default_rng(seed), np.arange(len(to_train))
    train, held = (np.ascontiguousarray(side.T) for side in (to_train, to_held_out))  # choosing rows is cheap

    def share(rows: np.ndarray, some_train: np.ndarray, some_held: np.ndarray) -> float:
        return nearer(train[some_train].max(axis=0)[rows], held[some_held].max(axis=0)[rows])

    value = np.mean([share(everything, *equal_subsets(*groups[1:], random)) for _ in range(SUBSETS)])
    resampled = np.array([share(*resample_choices(*groups, random)) for _ in range(bootstrap)])
    return centred_interval(value, resampled).within(0, 1)


def nearer(first: np.ndarray, second: np.ndarray) -> float:
    """Share of (N,) pictures for which the first similarity is the larger one; a tie counts half."""
    return float((first > second).mean() + 0.5 * (first == second).mean())


def copying_of(synthetic: SampleSet, real: SampleSet, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """`copying_test` of synthetic samples against train and against val + test of a real one."""
    rows = {
        split: [r for r in real.records if (r.split == "train") == (split == "train")]
        for split in ("train", "held_out")
    }
    for split, found in rows.items():
        require(
            bool(found), str(real.root), f"no {split.replace('_', '-')} picture", "some of both", "Prepare it anew."
        )
    sets = ((synthetic, synthetic.records), (real, rows["train"]), (real, rows["held_out"]))
    images = ([pairs.read_image(r) for r in records] for pairs, records in sets)
    names = [np.unique([r.group for r in records], return_inverse=True)[1] for _, records in sets]
    return copying_test(*images, bootstrap=bootstrap, seed=seed, groups=(names[0], names[1], names[2]))
