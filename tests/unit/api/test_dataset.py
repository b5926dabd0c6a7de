"""Sample folders as data sets of torch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import medsegdiff
from medsegdiff.data.records import SampleSet


def test_items_are_the_pictures_of_the_folder(ellipses: SampleSet) -> None:
    """Damage: images are not scaled, or masks are those of another row."""
    found = medsegdiff.load_dataset(ellipses.root)
    assert len(found) == len(ellipses)
    for item, record in zip((found[i] for i in range(len(found))), ellipses.records, strict=True):
        image = torch.from_numpy(ellipses.read_image(record)).float() / 255
        assert torch.equal(item["image"], image[None])
        assert torch.equal(item["mask"], torch.from_numpy(ellipses.read_mask(record) > 0)[None].float())
        assert (item["id"], found.classes[item["label"]], item["group"]) == (record.id, record.label, record.group)


def test_a_loader_makes_batches(ellipses: SampleSet) -> None:
    """Damage: items hold None or arrays of unlike sizes, which a DataLoader cannot stack."""
    found = medsegdiff.load_dataset(ellipses.root, "train", size=24)
    batch = next(iter(DataLoader(found, batch_size=4)))
    assert batch["image"].shape == batch["mask"].shape == (4, 1, 24, 24)
    assert batch["label"].dtype == torch.int64
    assert 0 < float(batch["mask"].mean()) < 1


def test_selections_and_transforms(ellipses: SampleSet) -> None:
    """Damage: a selection loses size or transform, or an unknown split is an empty data set."""
    found = medsegdiff.load_dataset(ellipses.root, size=24, transform=lambda item: item["id"])
    val = found.select("val", "benign")
    assert {val[i] for i in range(len(val))} == {r.id for r in ellipses.select("val", "benign").records}
    with pytest.raises(medsegdiff.UserError, match="split: found 'vall'; expected one of train, val, test"):
        found.select("vall")
    with pytest.raises(medsegdiff.UserError, match="label: found 'normal'; expected one of benign, malignant"):
        medsegdiff.load_dataset(ellipses.root, label="normal")
    assert "val: " in repr(found)


def test_new_splits_keep_groups_whole(ellipses: SampleSet) -> None:
    """Damage: pictures are shuffled one by one, so that a patient stands in train and test."""
    found = medsegdiff.load_dataset(ellipses.root)
    again = found.resplit(val=0.2, test=0.3, seed=3)
    places: dict[str, set[str]] = {}
    for record in again.records:
        places.setdefault(record.group, set()).add(record.split)
    assert all(len(splits) == 1 for splits in places.values())
    assert {r.split for r in again.records} == {"train", "val", "test"}
    assert [r.split for r in found.records] == [r.split for r in ellipses.records]  # nothing else has changed
    with pytest.raises(medsegdiff.UserError, match="add up to less than 1"):
        found.resplit(0.5, 0.5)


def test_pandas_is_asked_for_only_when_needed(ellipses: SampleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: pandas is imported with the package, or its absence is a traceback."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(medsegdiff.UserError, match=r"pip install 'medsegdiff\[hub\]'"):
        medsegdiff.load_dataset(ellipses.root).to_pandas()


def test_table(ellipses: SampleSet) -> None:
    """Damage: paths are relative to a folder that the table does not name."""
    pytest.importorskip("pandas")
    table = medsegdiff.load_dataset(ellipses.root, "train").to_pandas()
    assert len(table) == len(ellipses.select("train"))
    assert set(table["split"]) == {"train"}
    assert np.all([name.startswith(str(ellipses.root)) for name in table["image_file_name"]])
