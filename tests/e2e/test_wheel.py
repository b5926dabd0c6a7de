"""The wheel works outside of the checkout: weights, configurations and templates are in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_what_is_needed_and_no_more(installed: Path) -> None:
    """Damage: configurations or weights are left out, or tests and benchmarks are packed too."""
    package = installed / "medsegdiff"
    for name in ("configs/quickstart.yaml", "configs/busi_128.yaml", "pretrained/busi-128.safetensors", "py.typed"):
        assert (package / name).is_file(), name
    assert list((package / "evaluation" / "report").glob("*.j2"))
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"medsegdiff"}


def test_pairs_and_quickstart_settings_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Damage: files are looked for in the checkout, which a user does not have."""
    code = """
import medsegdiff, medsegdiff.quickstart
from medsegdiff.cli import parse
from medsegdiff.generators.joint_diffusion.config import TrainConfig
assert "site" in medsegdiff.__file__
pairs = medsegdiff.load_generator("busi-128", device="cpu", steps=2, batch_size=1).sample(1)
config = medsegdiff.quickstart.QuickstartConfig()
print(pairs.images.shape, parse("train", TrainConfig, ["--config", config.train_config, "--data_dir", "x"]).img_size)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(1,", "128,", "128)", "64"]
