"""External test sets: recognised by their layout, read into memory, without the pictures that training knew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medsegdiff.data.arrays import BINARY, ArraySpec, resize_anisotropic
from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.dataset import SampleTensors, from_channels, load_tensors, to_channels
from medsegdiff.data.duplicates import SAME_PICTURE_BITS, duplicate_groups, scene_correlations
from medsegdiff.data.hashing import Frame, content_hash, hash_distances, perceptual_hash
from medsegdiff.data.readers import RawSample, ReadOptions, read_raw
from medsegdiff.data.records import SampleRecord, SampleSet, content_digest, read_samples
from medsegdiff.engine.files import DATASET_FILE, require_folder
from medsegdiff.errors import UserError

SPLIT = "external"


@dataclass(frozen=True)
class ExternalSet:
    """Pairs to score on that have nothing to do with training."""

    name: str  # of the layout; of a sample folder its own
    data: SampleTensors  # labels index into the classes that were asked for, -1 where the class is unknown or another
    left_out: int  # pictures that training knew as well
    near_synthetic: int  # pictures kept that a synthetic one comes close to
    digest: str  # of the content, wherever the folder lies


def read_external(
    folder: Path,
    img_size: int,
    classes: list[str],
    known: Sequence[str],
    synthetic: Sequence[str] = (),
    arrays: ArraySpec | None = None,
    frame: Frame | None = None,
) -> ExternalSet:
    """The pairs of a raw data set in a layout that `prepare` reads, or of a sample folder, at `img_size` x `img_size`.

    `known`: perceptual hashes of the real pictures that training knew; near-duplicates of them, by the number of bits
    that `prepare` splits by, are left out. `synthetic`: those of its synthetic pictures, which leave out none, so that
    arms with other synthetic pairs are scored on the same pictures; copies are counted. `arrays`: what the model takes
    (grey images and binary masks unless set). `frame`: what of the real pictures the known hashes are of. Groups are
    patients where these are known, else near-duplicates as `prepare` finds them by default; those of samples stay.
    Raises `UserError` for another layout or other arrays, several data sets in one folder, files that are missing or
    broken, synthetic pairs, and a set that training knew whole.
    """
    where, spec = f"--test_data {folder}", arrays or ArraySpec()
    require_folder(folder, "a data set to test on")
    if (folder / DATASET_FILE).is_file():
        pairs = read_samples(folder)
        _check_arrays(where, pairs.arrays, spec)
        name, data, own = folder.resolve().name, _from_pairs(pairs, img_size), pairs.frame
    else:
        (name, data), own = _from_layout(folder, img_size, spec), None
    near = hash_distances(_looks(data, own, frame), list(known)) <= PrepareConfig.duplicate_bits
    fresh = [i for i in range(len(data)) if not near[i].any()]
    if not fresh:
        raise UserError(where, "pictures of train and val only", "pictures that training has not seen", "Leave it out.")
    records = tuple(data.records[i] for i in fresh)
    labels = torch.tensor([classes.index(r.label) if r.label in classes else -1 for r in records])
    kept = SampleTensors(data.images[fresh], data.masks[fresh], labels, records, spec)
    copied = hash_distances(_looks(kept, own, None), list(synthetic)) <= SAME_PICTURE_BITS
    return ExternalSet(name, kept, len(data) - len(fresh), int(copied.any(axis=1).sum()), content_digest(records))


def _looks(data: SampleTensors, own: Frame | None, frame: Frame | None) -> list[str]:
    """Perceptual hashes within `frame`; the records have those within the `own` frame of the set."""
    if own == frame:
        return [r.perceptual_hash for r in data.records]
    return [perceptual_hash(from_channels(image), frame) for image in data.images.numpy()]


def _from_pairs(pairs: SampleSet, img_size: int) -> SampleTensors:
    """All pairs of a sample folder, whatever their split."""
    for record in pairs.records:
        if record.is_synthetic:
            where = f"--test_data {pairs.root}, {record.id}"
            raise UserError(where, "a synthetic pair", "real pairs to test on", "Give a data set of real pairs.")
    found = load_tensors(pairs, img_size, what="external set")
    records = tuple(dataclasses.replace(r, split=SPLIT, fold=-1) for r in found.records)
    return dataclasses.replace(found, records=records)


def _check_arrays(where: str, found: ArraySpec, spec: ArraySpec) -> None:
    """Raise `UserError` unless arrays of an external set are those that the model takes."""
    if not found.same_as(spec):
        raise UserError(where, str(found), f"{spec}, as training had", "Test on a data set of that kind.")


def _from_layout(folder: Path, img_size: int, spec: ArraySpec) -> tuple[str, SampleTensors]:
    """Name of the layout and its pairs."""
    values = None if spec.mask_values == BINARY else spec.mask_values
    options = ReadOptions(mask_classes=values, colour="grey" if spec.channels == 1 else "rgb")
    found = read_raw(folder, options=options)
    _check_arrays(f"--test_data {folder}", found.arrays, spec)
    raw = found.samples
    images = torch.from_numpy(np.stack([to_channels(resize_anisotropic(pair.image, img_size)) for pair in raw]))
    masks = torch.from_numpy(np.stack([spec.coverage(np.asarray(pair.mask), img_size) for pair in raw]))
    labels = torch.zeros(len(raw), dtype=torch.int64)
    return found.layout, SampleTensors(images, masks, labels, _records(found.layout, raw), spec)


def _records(name: str, raw: list[RawSample]) -> tuple[SampleRecord, ...]:
    hashes = [perceptual_hash(pair.image) for pair in raw]
    subjects = [pair.subject for pair in raw]
    # patients say more, and comparing 1,875 pictures with each other takes most of a minute
    correlations = None if all(subjects) else scene_correlations([pair.image for pair in raw])
    near = duplicate_groups(hashes, PrepareConfig.duplicate_bits, correlations, PrepareConfig.duplicate_correlation)
    groups = [f"{name}-{number}" for number in near]
    return tuple(
        SampleRecord(
            id=pair.name,
            image_file_name=pair.source,
            mask_file_name="" if pair.mask is None else pair.source,
            label=pair.label,
            split=SPLIT,
            fold=-1,
            group=f"{name}-{pair.subject}" if pair.subject else group,
            source=f"{name}:{pair.source}",
            pixel_aspect=1.0,
            width=pair.image.shape[1],
            height=pair.image.shape[0],
            image_hash=content_hash(pair.image),
            mask_hash="" if pair.mask is None else content_hash(pair.mask),
            perceptual_hash=hash,
            text=pair.text,
            modality=pair.modality,
            subject=pair.subject,
            attributes=pair.attributes,
        )
        for pair, group, hash in zip(raw, groups, hashes, strict=True)
    )
