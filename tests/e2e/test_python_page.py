"""The Python in the documentation runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import medsegdiff
from medsegdiff.data.records import SampleSet

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_every_block_runs(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: a name of the API is changed, and not on the page."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
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
