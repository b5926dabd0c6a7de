"""What needs which packages: sampling takes few, and whatever is missing is named with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny_networks import random_checkpoint

from medsegdiff.engine.packages import EXTRAS

HIDE = f"import sys\nsys.modules.update(dict.fromkeys({sorted(EXTRAS)!r}))\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where nothing of the extras is installed."""
    return subprocess.run(
        [sys.executable, "-c", HIDE + textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_preparing_sampling_combining_and_reading_need_no_extra(tmp_path: Path) -> None:
    """Damage: an import of TensorBoard, smp or scikit-learn on the way to a sample."""
    hashes = [{"image_hash": "ab" * 32, "perceptual_hash": "cd" * 32}]
    random_checkpoint(tmp_path / "best_model.safetensors", train_hashes=hashes)
    done = python(f"""
        import medsegdiff
        from medsegdiff.cli import main
        for line in (
            "phantom --output_dir {tmp_path}/raw --num_benign 12 --num_malignant 12",
            "prepare --input_dir {tmp_path}/raw --output_dir {tmp_path}/real",
            "generate --checkpoint_path {tmp_path}/best_model.safetensors --output_dir {tmp_path}/synthetic"
            " --num_samples_per_class 1 --steps 2 --chunk_size 1 --device cpu",
            "combine --real_data {tmp_path}/real --synthetic_data {tmp_path}/synthetic"
            " --output_dir {tmp_path}/combined",
        ):
            assert main(line.split()) == 0, line
        generator = medsegdiff.load_generator("{tmp_path}/best_model.safetensors", device="cpu", steps=2)
        assert generator.sample(1).images.shape == (1, 16, 16)
        assert len(medsegdiff.load_dataset("{tmp_path}/combined")) > 20
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("train --data_dir x", "train"),
        ("segment --data_dir x", "segment"),
        ("evaluate --real_data x --synthetic_data y", "segment"),
        ("predict --model_path x --images y", "segment"),
    ],
)
def test_a_missing_extra_is_named(command: str, extra: str) -> None:
    """Damage: ModuleNotFoundError with a traceback, which does not say what to install."""
    done = python(f"from medsegdiff.cli import main\nraise SystemExit(main({command.split()!r}))")
    assert done.returncode == 2, done.stderr
    assert f"pip install 'medsegdiff[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_names_the_extra_too() -> None:
    """Damage: only the command line translates it."""
    done = python("""
        import medsegdiff
        try:
            medsegdiff.load_segmenter
        except medsegdiff.UserError as error:
            print(error)
    """)
    assert "medsegdiff[segment]" in done.stdout
