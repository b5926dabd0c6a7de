"""The Python in the documentation runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import medsegdiff
from medsegdiff.data.records import SampleSet

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
README = ROOT / "README.md"


def blocks_of(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_every_block_runs(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: a name of the API is changed, and not on the page."""
    blocks = blocks_of(PAGE)
    assert len(blocks) == 6
    synthetic = medsegdiff.generate(
        checkpoint_path="busi-128", num_samples_per_class=2, steps=2, chunk_size=2, output_dir=tmp_path / "synthetic"
    )
    names: dict[str, Any] = {"folder": ellipses.root, "synthetic": synthetic.path, "work": tmp_path, "torch": torch}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["pairs"].labels == ["malignant"] * 4
    assert names["pairs"].images.shape == names["pairs"].masks.shape == (4, 128, 128)
    assert names["item"]["image"].shape == names["item"]["mask"].shape == (1, 128, 128)
    assert 0 <= names["result"].dice <= 1


def test_the_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the first lines that anybody types do not run."""
    (block,) = blocks_of(README)
    assert len(block.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), names)
    assert names["pairs"].images.shape == (4, 128, 128)
    assert len(names["images"]) == 2
    assert (tmp_path / "pairs.png").is_file()
