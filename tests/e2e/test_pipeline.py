"""The five scripts, with the flags that a user types, on a small phantom, in the user's folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from medsegdiff.data.phantom import PhantomConfig, write_phantom
from medsegdiff.data.records import class_counts, read_samples

REPOSITORY = Path(__file__).parents[2]
SETTINGS = """
img_size: 32
batch_size: 8
num_epochs: 70
lr: 3e-3
warmup_steps: 10
precision: fp32
evals: 2
eval_samples: 8
eval_steps: 4
model:
  model_channels: 16
  channel_mult: [1, 2]
  transformer_depth: 1
  num_heads: 2
"""
PREPARE = "prepare_busi_dataset.py --input_dir ./busi --output_dir ./data/busi_processed"
TRAIN = "train_medsegdiff.py --data_dir ./data/busi_processed --config settings.yaml"
GENERATE = (
    "generate_synthetic.py --checkpoint_path ./checkpoints/best_model.pth --num_samples_per_class 16 "
    "--output_dir ./synthetic_busi --steps 8 --chunk_size 8 --max_redraws 60 --precision fp32"
)
COMBINE = (
    "create_combined_dataset.py --real_data ./data/busi_processed --synthetic_data ./synthetic_busi "
    "--output_dir ./data/busi_combined"
)
SEGMENT = (
    "train_segmentation.py --data_dir ./data/busi_combined --model unet --img_size 32 --steps 6 --evals 2 "
    "--batch_size 8 --bootstrap 100 --precision fp32"
)


def script(line: str, folder: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python <script> <flags>` in a folder that is not the repository."""
    name, *flags = line.split()
    out, err = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder), redirected[0], redirected[1]:
        patch.setattr(sys, "argv", [name, *flags])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPOSITORY / name), run_name="__main__")
    assert isinstance(stop.value.code, int)
    return stop.value.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all five phases have run."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_phantom(PhantomConfig(str(folder / "busi"), num_benign=16, num_malignant=12, duplicates=1))
    (folder / "settings.yaml").write_text(SETTINGS)
    for line in (PREPARE, TRAIN, GENERATE, COMBINE, SEGMENT):
        status, out, err = script(line, folder)
        assert status == 0, f"{line}\n{out}\n{err}"
        (folder / f"{line.split()[0]}.log").write_text(out)
    return folder


def test_a_script_needs_nothing_but_its_folder(folder: Path) -> None:
    """Damage: a script that finds the package only where PYTHONPATH or the current folder leads to it."""
    command = [sys.executable, str(REPOSITORY / PREPARE.split()[0]), *PREPARE.split()[1:]]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prepared_pairs(folder: Path) -> None:
    """Damage: an exit status of 0 without an output; a split without one of the classes."""
    pairs = read_samples(folder / "data" / "busi_processed")
    counts = class_counts(pairs.records)
    assert sum(n for row in counts.values() for n in row.values()) == 29
    assert all(counts[split][label] > 0 for split in ("train", "val", "test") for label in pairs.classes)


def test_training_leaves_all_its_files(folder: Path) -> None:
    """Damage: no best model, no sample grid, no TensorBoard scalars."""
    checkpoints = folder / "checkpoints"
    for name in ("best_model.safetensors", "last_model.safetensors", "history.jsonl", "summary.json"):
        assert (checkpoints / name).is_file()
    assert len(list((checkpoints / "samples").glob("*.png"))) == 2
    assert any((checkpoints / "tensorboard").iterdir())
    assert not list(checkpoints.rglob("*.pth"))


def test_generated_pairs(folder: Path) -> None:
    """Damage: classes in the shares of the real data."""
    pairs = read_samples(folder / "synthetic_busi")
    assert class_counts(pairs.records) == {"train": {"benign": 16, "malignant": 16}}
    assert all(pairs.read_mask(r).any() for r in pairs.records)
    assert "benign" in (folder / "generate_synthetic.py.log").read_text()


def test_combined_pairs(folder: Path) -> None:
    """Damage: synthetic pairs in val or test; real test pairs left out; a class balance that is not reported."""
    real, combined = (read_samples(folder / "data" / name) for name in ("busi_processed", "busi_combined"))
    synthetic = [r for r in combined.records if r.is_synthetic]
    assert synthetic
    assert {r.split for r in synthetic} == {"train"}
    for split in ("val", "test"):
        assert combined.select(split).records == real.select(split).records
    train = Counter(r.label for r in combined.select("train").records)
    assert train["benign"] == train["malignant"]
    balance = json.loads((folder / "data" / "busi_combined" / "class_balance.json").read_text())
    assert balance["text"].endswith("-> 50/50")
    assert "-> 50/50" in (folder / "create_combined_dataset.py.log").read_text()


def test_scores(folder: Path) -> None:
    """Damage: scores of val for test; means without intervals; no scores per image."""
    scores = json.loads((folder / "segmentation" / "scores.json").read_text())
    real = read_samples(folder / "data" / "busi_processed").select("test")
    assert sorted(scores["test_ids"]) == sorted(r.id for r in real.records)
    for subgroup in ("all", "benign", "malignant"):
        dice = scores["test"][subgroup]["dice"]
        assert 0 <= dice["low"] <= dice["value"] <= dice["high"] <= 1
    with (folder / "segmentation" / "per_image.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(real)
    assert (folder / "segmentation" / "overlays.png").is_file()


def test_the_same_training_command_again(folder: Path) -> None:
    """Damage: training anew, or an error, where a run is finished."""
    best = folder / "checkpoints" / "best_model.safetensors"
    before = best.read_bytes(), best.stat().st_mtime_ns
    seconds = json.loads((folder / "checkpoints" / "summary.json").read_text())["seconds"]
    status, _, err = script(TRAIN, folder)
    assert status == 0, err
    assert (best.read_bytes(), best.stat().st_mtime_ns) == before
    assert json.loads((folder / "checkpoints" / "summary.json").read_text())["seconds"] == seconds


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("prepare_busi_dataset.py --input_dir x --output_dir y --sed 1", "Did you mean --seed?"),
        ("train_medsegdiff.py --batch_size 8", "expected --data_dir"),
        ("train_medsegdiff.py --data_dir nowhere", "nowhere: found nothing; expected a folder with metadata.csv"),
        ("generate_synthetic.py --checkpoint_path x --output_dir y --seed one", "--seed: found one; expected int"),
        ("create_combined_dataset.py --real_data x --synthetic_data y", "expected --output_dir"),
        ("train_segmentation.py --data_dir x --epochs many", "--epochs: found many; expected int"),
    ],
)
def test_bad_input_is_one_line_and_status_2(line: str, text: str, tmp_path: Path) -> None:
    """Damage: a script that drops the status of `main`, or a traceback for bad input."""
    status, _, err = script(line, tmp_path)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert text in err
    assert list(tmp_path.iterdir()) == []
