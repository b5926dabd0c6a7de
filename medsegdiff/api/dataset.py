"""Sample folders as data sets of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from medsegdiff.data.arrays import ArraySpec, resize_anisotropic
from medsegdiff.data.dataset import to_channels
from medsegdiff.data.records import SampleSet, class_counts, read_samples
from medsegdiff.data.schema import ATTRIBUTE, SPLITS, SampleRecord
from medsegdiff.data.splits import assign_splits
from medsegdiff.engine.packages import missing_package
from medsegdiff.errors import require, require_fraction

if TYPE_CHECKING:
    import pandas

Item = dict[str, Any]
Transform = Callable[[Item], Any]


class SampleDataset(Dataset[Any]):
    """Samples of a folder, each as a dictionary; `load_dataset` makes one.

    "image": float32 (C, H, W) in [0, 1]; "mask": float32 (K, H, W), the share of each pixel that a mask class covers
    (0 or 1 at native size); "label": number of the class in `classes`; "id" and "group": texts. A folder without masks
    has no "mask".
    """

    def __init__(self, samples: SampleSet, size: int | None = None, transform: Transform | None = None) -> None:
        require(size is None or size > 0, "size", size, "a number of pixels above 0")
        self.samples, self.size, self.transform = samples, size, transform

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of their numbers."""
        return self.samples.classes

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """What the channels of "mask" show."""
        return self.samples.arrays.foreground

    @property
    def records(self) -> tuple[SampleRecord, ...]:
        """The rows of metadata.csv that are selected."""
        return self.samples.records

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Samples by split and class."""
        return class_counts(self.records)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        image = self.samples.read_image(record)
        item: Item = {
            "image": _scaled(to_channels(image if self.size is None else resize_anisotropic(image, self.size)))
        }
        spec = self.samples.arrays
        if spec.foreground:
            mask = self.samples.read_mask(record)
            item["mask"] = _layers(mask, spec) if self.size is None else _scaled(spec.coverage(mask, self.size))
        item |= {"label": self.classes.index(record.label), "id": record.id, "group": record.group}
        return item if self.transform is None else self.transform(item)

    def __repr__(self) -> str:
        counts = "; ".join(
            f"{split}: {', '.join(f'{n} {label}' for label, n in by.items())}" for split, by in self.counts.items()
        )
        return f"SampleDataset({self.samples.root}, {counts or 'no samples'})"

    def select(self, split: str | None = None, label: str | None = None) -> SampleDataset:
        """The samples of one split and/or one class. Raises `UserError` for an unknown one."""
        require(split in (None, *SPLITS), "split", repr(split), f"one of {', '.join(SPLITS)}")
        require(label in (None, *self.classes), "label", repr(label), f"one of {', '.join(self.classes)}")
        return SampleDataset(self.samples.select(split, label), self.size, self.transform)

    def resplit(self, val: float = 0.15, test: float = 0.2, seed: int = 0) -> SampleDataset:
        """The same samples in new splits of these shares. Groups (patients, near-duplicates) stay whole.

        Nothing is written. Raises `UserError` for shares that leave no train split, and for a class with too few
        groups.
        """
        require_fraction("val", val)
        require_fraction("test", test)
        require(val + test < 1, "val and test", val + test, "shares that add up to less than 1")
        labels, groups = [r.label for r in self.records], [r.group for r in self.records]
        splits = assign_splits(labels, groups, val, test, seed)
        moved = tuple(dataclasses.replace(r, split=s) for r, s in zip(self.records, splits, strict=True))
        return SampleDataset(dataclasses.replace(self.samples, records=moved), self.size, self.transform)

    def fold(self, number: int) -> tuple[SampleDataset, SampleDataset]:
        """(train, val) of a fold of the cross-validation that `prepare` laid out. Raises `UserError` for another."""
        inside = [r for r in self.records if r.fold >= 0]
        known = sorted({r.fold for r in inside})
        require(
            number in known, "fold", number, f"one of {', '.join(map(str, known)) or 'none: prepare made no folds'}"
        )
        parts = [r for r in inside if r.fold != number], [r for r in inside if r.fold == number]
        train, val = (dataclasses.replace(self.samples, records=tuple(part)) for part in parts)
        return SampleDataset(train, self.size, self.transform), SampleDataset(val, self.size, self.transform)

    def to_pandas(self) -> pandas.DataFrame:
        """metadata.csv of the selected samples, a row each, with file names as paths.

        Raises `UserError` where pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise missing_package(error) or error from error
        return pandas.DataFrame([_row(self.samples.root, record) for record in self.records])


def _row(root: Path, record: SampleRecord) -> Mapping[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "attributes"}
    for name in ("image_file_name", "mask_file_name"):
        row[name] = str(root / row[name]) if row[name] else None
    return row | {f"{ATTRIBUTE}{name}": value for name, value in record.attributes.items()}


def _scaled(channels: Any) -> torch.Tensor:
    return torch.from_numpy(channels.copy()).float() / 255


def _layers(mask: Any, spec: ArraySpec) -> torch.Tensor:
    index = torch.from_numpy(spec.index_map(mask))
    return torch.stack([index == k for k in range(1, len(spec.foreground) + 1)]).float()


def load_dataset(
    path: str | Path,
    split: str | None = None,
    label: str | None = None,
    *,
    size: int | None = None,
    transform: Transform | None = None,
) -> SampleDataset:
    """A sample folder, as prepare, generate or combine wrote it, as a `torch.utils.data.Dataset`.

    `size`: side of the square that pictures are resized to; None leaves them as they are, of unlike sizes. `transform`
    is called on each dictionary. Raises `UserError` where the folder is none, or breaks its contract.
    """
    return SampleDataset(read_samples(Path(path)), size, transform).select(split, label)
