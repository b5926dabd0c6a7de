"""Real pictures among the synthetic ones, found by their content alone: no statistics, no network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medsegdiff.data.duplicates import SAME_PICTURE_BITS
from medsegdiff.data.hashing import HASH_SIDE, content_hash, hash_distances, perceptual_hash
from medsegdiff.data.records import SampleRecord
from medsegdiff.evaluation.sets import Pairs, Sets

PLAIN = 2.0  # grey values: a picture of less standard deviation shows nobody, and all of them have one hash


@dataclass(frozen=True)
class Leaks:
    """What was found; ids are those of real pictures."""

    exact: list[str | None]  # a synthetic picture: the real picture, train or held out, that it is to the pixel
    same: list[str | None]  # the train picture whose perceptual hash it has nearly, as it is or mirrored
    bits: int  # up to which two hashes are taken for one picture; below 0 nothing is
    near_duplicates: int  # held-out pictures that have nearly the hash of a train picture

    @property
    def copies(self) -> int:
        """Synthetic pictures that are a real one by either sign."""
        return sum(a is not None or b is not None for a, b in zip(self.exact, self.same, strict=True))


def find_leaks(sets: Sets, real: Iterable[SampleRecord]) -> Leaks:
    """Real pictures among the synthetic ones; `real` are all records of the real folder, for exact copies.

    Two hashes are of one picture up to `SAME_PICTURE_BITS`, but never as far apart as some held-out picture is from
    train: in a set of nearly equal pictures (a phantom seen again and again) such a similarity is no sign. Plain
    pictures have no say in that: two blank frames would be a distance of 0.
    """
    known = {record.image_hash: record.id for record in real}
    for pairs in (sets.held_out, sets.train):
        known |= {content_hash(image): name for image, name in zip(pairs.images, pairs.ids, strict=True)}
    shows = _shows(sets.synthetic)
    exact: list[str | None] = []
    for image, record, something in zip(sets.synthetic.images, sets.synthetic.records, shows, strict=True):
        found = known.get(record.image_hash) or known.get(content_hash(image))
        exact.append(found if something else None)
    common = _distances(sets.held_out, sets.train).min(axis=1)
    bits = min(SAME_PICTURE_BITS, int(common.min()) - 1)
    near_duplicates = common <= SAME_PICTURE_BITS
    distances = _distances(sets.synthetic, sets.train)
    nearest, ids = distances.argmin(axis=1), sets.train.ids
    near = distances.min(axis=1) <= bits
    return Leaks(
        exact, [ids[k] if yes else None for k, yes in zip(nearest, near, strict=True)], bits, int(near_duplicates.sum())
    )


def _shows(pairs: Pairs) -> np.ndarray:
    """(N,) whether a picture shows anything."""
    return np.asarray(pairs.images.std(axis=(1, 2)) >= PLAIN)


def _distances(first: Pairs, second: Pairs) -> np.ndarray:
    """(N, K) bits between pictures: the smaller number of the first ones as they are and mirrored.

    A plain picture is as far from all others as if no bit were equal.
    """
    turned = (first.images, np.ascontiguousarray(first.images[:, :, ::-1]))
    hashes = [perceptual_hash(image) for image in second.images]
    both = [hash_distances([perceptual_hash(image) for image in images], hashes) for images in turned]
    return np.where(_shows(first)[:, None] & _shows(second)[None], np.minimum(*both), HASH_SIDE**2)
