"""Folders of schema 1 and a checkpoint of version 2, made by version 0.1, are read as they were meant."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.records import read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.base import load_generator

FIXTURES = Path(__file__).parent / "record" / "fixtures"


def test_folders_of_schema_1_are_read() -> None:
    """Damage: a column of schema 2 asked of an old row; synthetic samples taken for real ones; pixels read as another
    class."""
    real, synthetic, combined = (read_samples(FIXTURES / f"{name}_v1") for name in ("pairs", "synthetic", "combined"))
    for samples in (real, synthetic, combined):
        assert samples.arrays == ArraySpec()
        assert samples.info["schema_version"] == 1
        for record in samples.records:
            assert set(samples.read_mask(record).ravel().tolist()) <= {0, 255}
            assert samples.read_image(record).shape == (record.height, record.width)
            assert (record.subject, record.text, record.attributes) == ("", "", {})
    assert Counter(r.split for r in real.records) == {"train": 8, "val": 3, "test": 2}
    assert not any(r.is_synthetic for r in real.records)
    assert all(r.is_synthetic for r in synthetic.records)
    kinds = Counter((r.split, r.is_synthetic) for r in combined.records)
    assert kinds["train", True] > 0
    assert kinds["val", True] == kinds["test", True] == 0
    assert combined.learnt


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Damage: a folder of a later version read as if nothing had changed."""
    (tmp_path / "dataset.json").write_text(json.dumps({"schema_version": 99, "classes": ["a"]}))
    (tmp_path / "metadata.csv").write_text("id\n")
    with pytest.raises(UserError, match="schema version 99"):
        read_samples(tmp_path)


def test_a_checkpoint_of_version_2_says_what_it_is() -> None:
    """Damage: settings, conditions or weights of an old card that are lost."""
    card = load_generator(FIXTURES / "checkpoint_v1.safetensors").card
    assert card.arrays == ArraySpec()
    assert card.conditions[0]["name"] == "label"
    learnt = {hashes["image_hash"] for hashes in card.train_hashes}
    assert learnt == {r.image_hash for r in read_samples(FIXTURES / "pairs_v1").select("train").records}
