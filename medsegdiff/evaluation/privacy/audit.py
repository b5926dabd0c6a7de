"""One measure of similarity put to the test of planted copies, and to the question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medsegdiff.evaluation.privacy.neighbours import Alike, Statistics, statistics
from medsegdiff.evaluation.privacy.planted import KINDS, altered
from medsegdiff.evaluation.privacy.rules import CURRENT, AuditRules
from medsegdiff.evaluation.sets import Pairs, Sets

CLOSEST = 1e-6  # distance 1 - s that counts for equal pictures
CHOICE = 3  # purpose of random numbers

# (N, S, S) uint8 pictures, and all K train or all held-out ones -> (N, K) similarities, higher for more alike, the
# mirrored picture included
Similarity = Callable[[np.ndarray, Pairs], np.ndarray]


@dataclass(frozen=True)
class Found:
    """How many planted copies of a kind a measure finds, shares from 0 to 1."""

    detected: float  # more alike to train than 95 % of held-out pictures
    attributed: float  # nearest train picture is the one that was copied, or of its group


@dataclass(frozen=True)
class Audit:
    """What one measure of similarity says."""

    statistics: Statistics
    planted: dict[str, Found]
    nearest: np.ndarray  # (N,) row number of the train picture that a synthetic one is most like
    similarity: np.ndarray  # (N,) to it
    baseline: np.ndarray  # (H,) of held-out pictures to the train picture that they are most like
    # Similarity of most altered copies and of no held-out picture; infinite where there is none such
    alarm_threshold: float

    def beyond(self, percentile: float) -> float:
        """Share of synthetic pictures more alike to train than this percentile of held-out pictures."""
        return float((self.similarity > np.percentile(self.baseline, percentile)).mean())

    @property
    def unmistakable(self) -> int | None:
        """Synthetic pictures that are as alike to a train picture as planted copies are, which the shares may miss.

        None where that says nothing.
        """
        return None if math.isinf(self.alarm_threshold) else int((self.similarity > self.alarm_threshold).sum())


def audit(sets: Sets, similarity: Similarity, *, resamples: int, seed: int, rules: AuditRules = CURRENT) -> Audit:
    """Statistics and controls by one measure, as a version of the audit has them. None of the sets may be empty."""
    train, held_out = sets.train, sets.held_out
    alike = Alike(
        to_train=similarity(sets.synthetic.images, train),
        to_held_out=similarity(sets.synthetic.images, held_out),
        baseline=similarity(held_out.images, train),
        within=similarity(held_out.images, held_out),
        train_groups=train.groups,
        held_out_groups=held_out.groups,
        synthetic_groups=sets.synthetic.groups,
        percentile=rules.limit_percentile,
    )
    limit, baseline = alike.limit, alike.baseline.max(axis=1)
    rows = np.random.default_rng([seed, CHOICE]).permutation(len(train))[: rules.planted]
    copies = np.concatenate([altered(train.images[rows], kind, seed) for kind in KINDS])
    planted = similarity(copies, train)
    changed = planted.max(axis=1)[len(rows) :]  # all but the exact ones, which come first
    return Audit(
        statistics(alike, resamples=resamples, seed=seed),
        controls(planted, train.groups, rows, limit),
        alike.to_train.argmax(axis=1),
        alike.to_train.max(axis=1),
        baseline,
        alarm(changed, baseline, len(alike.to_train), rules),
    )


def alarm(changed: np.ndarray, baseline: np.ndarray, count: int, rules: AuditRules = CURRENT) -> float:
    """Similarity to train beyond which one of `count` pictures alone is an alarm.

    As alike as most altered copies `changed` are, and more than the most alike of as many strangers would be but for
    one set in twenty, which the tail of held-out similarities `baseline` says: the chance of a distance 1 - s below d
    falls like a power of d, so that -log(1 - s) has an exponential tail (Hill 1975). Infinite where few copies are
    left.
    """
    near, copies = (-np.log(np.maximum(1 - values, CLOSEST)) for values in (baseline, changed))
    start = float(np.percentile(near, 100 * (1 - rules.tail)))
    beyond = near[near > start] - start
    strangers = start + (
        float(beyond.mean()) * math.log(max(1.0, rules.tail * count / rules.false_alarm)) if len(beyond) else 0.0
    )
    low, high = np.percentile(copies, [rules.alarm_percentile, 100 - rules.alarm_percentile])
    alarm_threshold = max(float(low), strangers)
    return 1 - math.exp(-alarm_threshold) if near.max() < alarm_threshold < high else math.inf


def controls(planted: np.ndarray, groups: np.ndarray, rows: np.ndarray, limit: float) -> dict[str, Found]:
    """How many of the copies of train pictures `rows` (P,) are found.

    `planted` (6 P, T) are similarities of the copies, kind after kind, to train pictures of `groups` (T,).
    """
    beyond = (planted.max(axis=1) > limit).reshape(len(KINDS), -1)
    right = (groups[planted.argmax(axis=1)] == np.tile(groups[rows], len(KINDS))).reshape(beyond.shape)
    return {kind: Found(float(beyond[k].mean()), float(right[k].mean())) for k, kind in enumerate(KINDS)}
