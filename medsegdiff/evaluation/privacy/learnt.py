"""Whether the pictures that the audit asks about are those that the generator learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medsegdiff.data.records import LEARNT, SampleRecord


@dataclass(frozen=True)
class Learnt:
    """What the generator learnt against the train split of the real set; numbers of pictures."""

    total: int
    absent: int  # learnt, and not in train: copies of these cannot be found
    spare: int  # in train, and not learnt: these are as held-out ones


def compare_learnt(info: Mapping[str, Any], train: Iterable[SampleRecord]) -> Learnt | None:
    """Compare what a synthetic set's dataset.json says with all of train; None where it says nothing.

    A generated set has hashes of the content (`checkpoint.train_hashes`), a combined one perceptual hashes alone.
    """
    checkpoint = info.get("checkpoint")
    hashes = checkpoint.get("train_hashes") if isinstance(checkpoint, Mapping) else None
    if hashes:
        known, here = {h["image_hash"] for h in hashes}, {r.image_hash for r in train}
    else:
        known, here = set(info.get(LEARNT, [])), {r.perceptual_hash for r in train}
    return Learnt(len(known), len(known - here), len(here - known)) if known else None
