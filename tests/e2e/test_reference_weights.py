"""The weights that come with the project: what a new user samples in the first minute, and what they learnt from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.prepare import prepare
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "pretrained"
WEIGHTS = sorted(FOLDER.glob("*.safetensors"))


def test_there_are_weights_with_a_card() -> None:
    """Damage: weights left out of the repository, or handed on without their card."""
    assert [path.name for path in WEIGHTS] == ["busi-128.safetensors"]
    assert (FOLDER / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_they_draw_pairs(path: Path, tmp_path: Path) -> None:
    """Damage: weights of another network, rounded noise frequencies, or masks that have nothing to do with images."""
    assert path.stat().st_size < 40e6
    with safe_open(path, framework="pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    assert kinds == {"torch.bfloat16", "torch.float32"}  # buffers keep their digits
    sampled = GenerateConfig(str(path), str(tmp_path / "pairs"), num_samples_per_class=4, chunk_size=4, device="cpu")
    pairs = generate(sampled)
    assert len(pairs) == 8
    darker = []
    for record in pairs.records:
        image, mask = pairs.read_image(record).astype(float), pairs.read_mask(record) > 0
        assert 20 < image.mean() < 150
        assert image.std() > 15
        assert 0.002 < mask.mean() < 0.8
        darker.append(image[mask].mean() < image[~mask].mean())
    assert np.mean(darker) >= 0.75  # lesions are hypoechoic


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_they_saw_the_train_split_alone(path: Path, tmp_path: Path) -> None:
    """Damage: weights trained on val or test pictures, or on another split than `prepare` makes by default."""
    folder = os.environ.get("MEDSEGDIFF_DATA")
    if not folder:
        pytest.skip("MEDSEGDIFF_DATA does not name a folder with busi/Dataset_BUSI_with_GT, the published data set")
    real = prepare(PrepareConfig(str(Path(folder) / "busi" / "Dataset_BUSI_with_GT"), str(tmp_path / "busi")))
    learnt = {hashes["image_hash"] for hashes in load_checkpoint(path)[1].train_hashes}
    assert learnt == {record.image_hash for record in real.select("train").records}
    held_out = {r.image_hash for split in ("val", "test") for r in real.select(split).records}
    assert not learnt & held_out
