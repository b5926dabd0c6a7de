"""Real pictures among the synthetic ones, told by their content alone: no statistics, no network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medsegdiff.data.duplicates import SAME_PICTURE_BITS
from medsegdiff.data.hashing import content_hash, hash_distances, perceptual_hash
from medsegdiff.data.records import PairRecord
from medsegdiff.evaluation.sets import Pairs, Sets

PLAIN = 2.0  # grey values: a picture of less standard deviation shows nobody, and all of them have one hash


@dataclass(frozen=True)
class Leaks:
    """What was found; ids are those of real pictures."""

    exact: list[str | None]  # a synthetic picture: the real picture, train or held out, that it is to the pixel
    same: list[str | None]  # the train picture whose perceptual hash it has nearly, as it is or mirrored
    bits: int  # up to which two hashes are taken for one picture; below 0 nothing is

    @property
    def copies(self) -> int:
        """Synthetic pictures that are a real one by either sign."""
        return sum(a is not None or b is not None for a, b in zip(self.exact, self.same, strict=True))


def find_leaks(sets: Sets, real: Iterable[PairRecord]) -> Leaks:
    """Real pictures among the synthetic ones; `real` are all records of the real folder, for exact copies.

    Two hashes are of one picture up to `SAME_PICTURE_BITS`, but never as far apart as some held-out picture is from
    train: in a set of nearly equal pictures (a phantom seen again and again) such a likeness is no sign.
    """
    known = {record.image_hash: record.id for record in real}
    for pairs in (sets.held_out, sets.train):
        known |= {content_hash(image): name for image, name in zip(pairs.images, pairs.ids, strict=True)}
    shows = sets.synthetic.images.std(axis=(1, 2)) >= PLAIN
    exact: list[str | None] = []
    for image, record, something in zip(sets.synthetic.images, sets.synthetic.records, shows, strict=True):
        found = known.get(record.image_hash) or known.get(content_hash(image))
        exact.append(found if something else None)
    train = [perceptual_hash(image) for image in sets.train.images]
    bits = min(SAME_PICTURE_BITS, int(_distances(sets.held_out, train).min()) - 1)
    distances = _distances(sets.synthetic, train)
    nearest, ids = distances.argmin(axis=1), sets.train.ids
    near = (distances.min(axis=1) <= bits) & shows
    return Leaks(exact, [ids[k] if yes else None for k, yes in zip(nearest, near, strict=True)], bits)


def _distances(pairs: Pairs, hashes: list[str]) -> np.ndarray:
    """(N, K) bits between pictures and hashes: the smaller number of as they are and mirrored."""
    turned = (pairs.images, np.ascontiguousarray(pairs.images[:, :, ::-1]))
    both = [hash_distances([perceptual_hash(image) for image in images], hashes) for images in turned]
    return np.minimum(*both)
