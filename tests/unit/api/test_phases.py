"""The phases as functions: settings as keywords, results that a notebook shows, and a package that imports quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import random_checkpoint

import medsegdiff
from medsegdiff.api import phases
from medsegdiff.data.config import CombineConfig
from medsegdiff.data.records import SampleSet
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.generators.joint_diffusion.config import TrainConfig

SMALL = {"steps": 2, "evals": 1, "batch_size": 4, "warmup_steps": 1, "img_size": 32, "bootstrap": 20, "device": "cpu"}


def test_generate_combine_and_segment(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: a function takes the settings of another command, or its result names another folder."""
    hashes = [{"image_hash": "ab" * 32, "perceptual_hash": "cd" * 32}]
    checkpoint = random_checkpoint(tmp_path / "best_model.safetensors", train_hashes=hashes)
    sampled = medsegdiff.generate(
        checkpoint_path=checkpoint, num_samples_per_class=2, output_dir=tmp_path / "synthetic", steps=2, device="cpu"
    )
    assert isinstance(sampled, medsegdiff.SamplesResult)
    assert sampled.counts == {"train": {"benign": 2, "malignant": 2}}
    assert "<table>" in sampled._repr_html_()
    assert "data:image/png" in sampled._repr_html_()
    combined = medsegdiff.combine(
        real_data=ellipses.root, synthetic_data=sampled.path, output_dir=tmp_path / "combined", balance=False
    )
    assert len(combined.dataset.select("train")) == len(ellipses.select("train")) + 4
    result = medsegdiff.train_segmentation(
        data_dir=combined.path, output_dir=tmp_path / "scores", encoder="mobilenet_v2", seeds=(0, 1), **SMALL
    )
    assert result.dice == result.scores["test"]["all"]["dice"]["value"]
    assert f"{result.dice:.3f} [" in result._repr_html_()
    picture = np.zeros((32, 32), np.uint8)
    assert result.load(seed=1).predict(picture).mask.shape == (32, 32)
    found = medsegdiff.predict(
        model_path=result.path / "seed_0", images=ellipses.root, output_dir=tmp_path / "found", device="cpu"
    )
    assert len(found.rows) == len(ellipses)
    assert "contact_sheet.png" in found._repr_html_()


def settled(kind: Any, name: str, config: Any = None, **settings: Any) -> Any:
    """What a phase makes of its arguments."""
    return phases._settled(name, kind, config, settings)


def test_settings_from_keywords_yaml_and_configurations(tmp_path: Path) -> None:
    """Damage: keywords lose against the file, nested ones are lost, or paths and tuples are refused."""
    file = tmp_path / "small.yaml"
    file.write_text("lr: 0.5\nmodel:\n  model_channels: 16\nbatch_size: 4\n")
    found = settled(TrainConfig, "train", file, data_dir=Path("d"), lr=0.1, model={"num_heads": 2})
    assert (found.data_dir, found.lr, found.batch_size) == ("d", 0.1, 4)
    assert (found.model.model_channels, found.model.num_heads) == (16, 2)
    assert settled(TrainConfig, "train", "busi_128", data_dir="d").img_size == 128
    assert settled(SegmentConfig, "segment", data_dir="d", seeds=(np.int64(1), 2)).seeds == [1, 2]
    whole = CombineConfig("a", "b", "c")
    assert settled(CombineConfig, "combine", whole) is whole
    assert settled(CombineConfig, "combine", whole, ratio=2.0).ratio == 2.0


def test_wrong_settings_are_reported_as_on_the_command_line() -> None:
    """Damage: a TypeError of the dataclass, without the name of the nearest setting."""
    with pytest.raises(medsegdiff.UserError, match=r"unknown setting lrr.*Did you mean lr\?"):
        medsegdiff.train(data_dir="d", lrr=3)
    with pytest.raises(medsegdiff.UserError, match="too few settings; expected --data_dir"):
        medsegdiff.train()
    with pytest.raises(medsegdiff.UserError, match="lr: found nothing; expected float"):
        medsegdiff.train(data_dir="d", lr=None)
    with pytest.raises(medsegdiff.UserError, match="lr: found -1"):
        medsegdiff.train(data_dir="d", lr=-1)


def test_every_name_is_there() -> None:
    """Damage: a name moves, and `import medsegdiff` offers one that fails when it is used."""
    for name in medsegdiff.__all__:
        assert getattr(medsegdiff, name) is not None
    assert set(medsegdiff.__all__) <= set(dir(medsegdiff))
    with pytest.raises(AttributeError, match="no attribute 'generator'"):
        medsegdiff.generator  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Damage: the API is imported at once, so that `import medsegdiff` takes the seconds that torch takes."""
    code = "import sys, medsegdiff; print(sorted({'torch', 'numpy', 'cv2', 'matplotlib', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
