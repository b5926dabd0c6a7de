"""External test sets: recognised by their layout, read into memory, without the pictures that training knew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.dataset import SampleTensors, load_tensors, resize_anisotropic
from medsegdiff.data.duplicates import SAME_PICTURE_BITS, duplicate_groups, scene_correlations
from medsegdiff.data.hashing import content_hash, hash_distances, perceptual_hash
from medsegdiff.data.readers import RawSample, bus_bra, bus_uclm, stu_hospital, udiat
from medsegdiff.data.readers.matching import contents
from medsegdiff.data.records import METADATA_FILE, SampleRecord, SampleSet, content_digest, read_samples
from medsegdiff.engine.files import DATASET_FILE, require_folder
from medsegdiff.errors import UserError

SPLIT = "external"


@dataclass(frozen=True)
class Reader:
    """A published layout."""

    find: Callable[[Path], Path | None]  # the data set's own folder, at the given one or below
    read: Callable[[Path], list[RawSample]]
    layout: str  # in short, for messages


READERS = {
    "stu_hospital": Reader(stu_hospital.find, stu_hospital.read, stu_hospital.LAYOUT),
    "bus_bra": Reader(bus_bra.find, bus_bra.read, bus_bra.LAYOUT),
    "bus_uclm": Reader(bus_uclm.find, bus_uclm.read, bus_uclm.LAYOUT),
    "udiat": Reader(udiat.find, udiat.read, udiat.LAYOUT),
}


@dataclass(frozen=True)
class ExternalSet:
    """Pairs to score on that have nothing to do with training."""

    name: str  # of the layout; of a sample folder its own
    data: SampleTensors  # labels index into the classes that were asked for, -1 where the class is unknown or another
    left_out: int  # pictures that training knew as well
    near_synthetic: int  # pictures kept that a synthetic one comes close to
    digest: str  # of the content, wherever the folder lies


def read_external(
    folder: Path, img_size: int, classes: list[str], known: Sequence[str], synthetic: Sequence[str] = ()
) -> ExternalSet:
    """The pairs of a data set in a published layout, or of a sample folder, at `img_size` x `img_size`.

    `known`: perceptual hashes of the real pictures that training knew; near-duplicates of them, by the number of bits
    that `prepare` splits by, are left out. `synthetic`: those of its synthetic pictures, which leave out none, so that
    arms with other synthetic pairs are scored on the same pictures; copies are counted. Groups are patients where these
    are known, else near-duplicates as `prepare` finds them by default; those of samples stay. Raises `UserError` for
    another layout, several data sets in one folder, files that are missing or broken, synthetic pairs, and a set that
    training knew whole.
    """
    where = f"--test_data {folder}"
    require_folder(folder, "a data set to test on")
    if (folder / METADATA_FILE).is_file() or (folder / DATASET_FILE).is_file():
        name, data = folder.resolve().name, _from_pairs(read_samples(folder), img_size)
    else:
        name, data = _from_layout(folder, img_size)
    near = hash_distances([r.perceptual_hash for r in data.records], list(known)) <= PrepareConfig.duplicate_bits
    fresh = [i for i in range(len(data)) if not near[i].any()]
    if not fresh:
        raise UserError(where, "pictures of train and val only", "pictures that training has not seen", "Leave it out.")
    records = tuple(data.records[i] for i in fresh)
    labels = torch.tensor([classes.index(r.label) if r.label in classes else -1 for r in records])
    kept = SampleTensors(data.images[fresh], data.masks[fresh], labels, records)
    copied = hash_distances([r.perceptual_hash for r in records], list(synthetic)) <= SAME_PICTURE_BITS
    return ExternalSet(name, kept, len(data) - len(fresh), int(copied.any(axis=1).sum()), content_digest(records))


def _from_pairs(pairs: SampleSet, img_size: int) -> SampleTensors:
    """All pairs of a sample folder, whatever their split."""
    for record in pairs.records:
        if record.is_synthetic:
            where = f"--test_data {pairs.root}, {record.id}"
            raise UserError(where, "a synthetic pair", "real pairs to test on", "Give a data set of real pairs.")
    found = load_tensors(pairs, img_size, what="external set")
    records = tuple(dataclasses.replace(r, split=SPLIT, fold=-1) for r in found.records)
    return dataclasses.replace(found, records=records)


def _from_layout(folder: Path, img_size: int) -> tuple[str, SampleTensors]:
    """Name of the layout and its pairs."""
    where = f"--test_data {folder}"
    roots = {name: root for name, reader in READERS.items() if (root := reader.find(folder)) is not None}
    if not roots:
        expected = (
            f"a sample folder, or one of these layouts: {'; '.join(reader.layout for reader in READERS.values())}"
        )
        raise UserError(where, contents(folder), expected, "Give the folder of the unpacked data set.")
    if len(roots) > 1:
        raise UserError(where, f"several data sets ({', '.join(roots)})", "one", "Give the folder of each of them.")
    [(name, root)] = roots.items()
    raw = READERS[name].read(root)
    if not raw:
        raise UserError(root, "no pair with a lesion", READERS[name].layout, "Unpack the data set completely.")
    images, masks = (
        torch.stack([torch.from_numpy(resize_anisotropic(getattr(pair, kind), img_size)) for pair in raw])[:, None]
        for kind in ("image", "mask")
    )
    return name, SampleTensors(images, masks, torch.zeros(len(raw), dtype=torch.int64), _records(name, raw))


def _records(name: str, raw: list[RawSample]) -> tuple[SampleRecord, ...]:
    hashes = [perceptual_hash(pair.image) for pair in raw]
    # patients say more, and comparing 1,875 pictures with each other takes most of a minute
    correlations = None if all(pair.patient for pair in raw) else scene_correlations([pair.image for pair in raw])
    near = duplicate_groups(hashes, PrepareConfig.duplicate_bits, correlations, PrepareConfig.duplicate_correlation)
    groups = [f"{name}-{number}" for number in near]
    return tuple(
        SampleRecord(
            id=pair.name,
            image_file_name=pair.source,
            mask_file_name=pair.source,
            label=pair.label,
            split=SPLIT,
            fold=-1,
            group=f"{name}-{pair.patient}" if pair.patient else group,
            source=f"{name}:{pair.source}",
            pixel_aspect=1.0,
            width=pair.image.shape[1],
            height=pair.image.shape[0],
            image_hash=content_hash(pair.image),
            mask_hash=content_hash(pair.mask),
            perceptual_hash=hash,
        )
        for pair, group, hash in zip(raw, groups, hashes, strict=True)
    )
