"""The five scripts, as a user runs them, on a small phantom: each in a process of its own, in the user's folder."""

from __future__ import annotations

import csv
import json
import os
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


def script(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python <script> <flags>` in a folder that is not the repository."""
    name, *flags = line.split()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / name), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all five phases have run."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_phantom(PhantomConfig(str(folder / "busi"), num_benign=16, num_malignant=12, duplicates=1))
    (folder / "settings.yaml").write_text(SETTINGS)
    for line in (PREPARE, TRAIN, GENERATE, COMBINE, SEGMENT):
        done = script(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        (folder / f"{line.split()[0]}.log").write_text(done.stdout)
    return folder


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
    synthetic = [r for r in combined.records if r.source.startswith("synthetic:")]
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
        assert 0 <= dice["low"] <= dice["mean"] <= dice["high"] <= 1
    with (folder / "segmentation" / "per_image.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(real)
    assert (folder / "segmentation" / "overlays.png").is_file()


def test_the_same_training_command_again(folder: Path) -> None:
    """Damage: training anew, or an error, where a run is finished."""
    best = folder / "checkpoints" / "best_model.safetensors"
    before = best.read_bytes(), best.stat().st_mtime_ns
    seconds = json.loads((folder / "checkpoints" / "summary.json").read_text())["seconds"]
    done = script(TRAIN, folder)
    assert done.returncode == 0, done.stderr
    assert (best.read_bytes(), best.stat().st_mtime_ns) == before
    assert json.loads((folder / "checkpoints" / "summary.json").read_text())["seconds"] == seconds


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("prepare_busi_dataset.py --input_dir x --output_dir y --sed 1", "Did you mean --seed?"),
        ("train_medsegdiff.py --batch_size 8", "expected --data_dir"),
        ("train_medsegdiff.py --data_dir nowhere", "nowhere: found nothing; expected a folder with metadata.csv"),
        ("generate_synthetic.py --checkpoint_path x --output_dir y --precision fp7", "--precision: found fp7"),
        ("create_combined_dataset.py --real_data x --synthetic_data y", "expected --output_dir"),
        ("train_segmentation.py --data_dir x --epochs many", "--epochs: found many; expected int"),
    ],
)
def test_bad_input_is_one_line_and_status_2(line: str, text: str, tmp_path: Path) -> None:
    """Damage: a script that drops the status of `main`, or a traceback for bad input."""
    done = script(line, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert list(tmp_path.iterdir()) == []
