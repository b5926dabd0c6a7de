"""What today's code makes of fixed inputs, in numbers and hashes: the golden record that `test_record.py` holds.

`python tests/golden/record/recorder.py` writes record.json anew. Do that only for a figure that has to change, and say
in the commit which one, why, and by how much. Pictures and weights are the same to the bit on one kind of machine with
the same versions, in fp32 with one thread; elsewhere the small numbers beside the hashes have to be close.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.numpy import load_file

from medsegdiff.cli import run

HERE = Path(__file__).parent
RECORD_FILE = HERE / "record.json"
CHECKPOINT = HERE / "checkpoint_v2.safetensors"  # of the training below, made by version 0.1
INPUTS = HERE / "inputs"  # a schema 1 folder of phantoms, made by version 0.1
WEIGHTS = HERE.parents[2] / "pretrained" / "busi-128.safetensors"
THUMB = 8  # side of the small copies that are compared on other machines


def machine() -> str:
    """What the last bits depend on."""
    name = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    parts = (platform.machine(), name.partition(":")[2].strip(), torch.backends.cpu.get_cpu_capability())
    return ", ".join((*parts, f"torch {torch.__version__}", f"numpy {np.__version__}", f"opencv {cv2.__version__}"))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch and OpenCV: sums of several come out in other orders."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def rows(folder: Path) -> list[dict[str, str]]:
    """metadata.csv of a folder."""
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path: Path) -> dict[str, Any]:
    """Hash of the pixels of a picture, and a small copy."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    small = cv2.resize(found, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    digest = hashlib.sha256(f"{found.shape}".encode() + found.tobytes()).hexdigest()
    return {"hash": digest, "thumb": small.flatten().tolist()}


def pictures(folder: Path, *names: str) -> dict[str, Any]:
    """`picture` of every file in these sub-folders."""
    files = sorted(path for name in names for path in (folder / name).glob("*.png"))
    return {str(path.relative_to(folder)): picture(path) for path in files}


def pairs(folder: Path) -> dict[str, Any]:
    """What matters of a folder of samples: pictures, labels, splits, folds, and which samples form a group."""
    found = rows(folder)
    groups = [[r["id"] for r in found if r["group"] == name] for name in dict.fromkeys(r["group"] for r in found)]
    several = [group for group in groups if len(group) > 1]
    columns = {r["id"]: [r[name] for name in ("label", "split", "fold", "pixel_aspect")] for r in found}
    return {"rows": columns, "groups": several, "pictures": pictures(folder, "images", "masks")}


def weights_hash(path: Path) -> dict[str, Any]:
    """A hash of all tensors whatever they are called, and their sum of squares."""
    tensors = load_file(path)
    digests = sorted(hashlib.sha256(f"{t.shape}".encode() + t.tobytes()).hexdigest() for t in tensors.values())
    total = float(sum((t.astype(np.float64) ** 2).sum() for t in tensors.values()))
    return {"hash": hashlib.sha256("".join(digests).encode()).hexdigest(), "sum_of_squares": total}


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists, by their path."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, below in items for k, v in leaves(below, f"{prefix}/{key}").items()}


def numbers(path: Path, *leave_out: str) -> list[float]:
    """All figures of a JSON file but those under `leave_out`, in ascending order: names of keys do not matter."""
    found = leaves(json.loads(path.read_text()))
    kept = {k: v for k, v in found.items() if not any(f"/{name}" in k for name in leave_out)}
    return sorted(round(float(v), 9) for v in kept.values() if isinstance(v, (int, float)) and not isinstance(v, bool))


def history(folder: Path) -> list[float]:
    """Val losses and sample quality of every evaluation of a training."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [round(float(v), 9) for line in lines for v in line.values()]


def generate(checkpoint: Path, output: Path) -> None:
    """Samples of the tiny training."""
    run("generate", f"--checkpoint_path {checkpoint} --output_dir {output} --precision fp32 --device cpu --steps 6 "
        "--num_samples_per_class 16 --chunk_size 8 --max_redraws 200".split())  # fmt: skip


def phases(work: Path) -> dict[str, Any]:
    """The five phases and `evaluate` on a phantom."""
    run("phantom", f"--output_dir {work}/raw --num_benign 26 --num_malignant 18 --duplicates 3".split())
    run("prepare", f"--input_dir {work}/raw --output_dir {work}/real".split())
    settings = work / "train.yaml"
    settings.write_text((HERE / "train.yaml").read_text())
    run("train", f"--config {settings} --data_dir {work}/real --output_dir {work}/checkpoints".split())
    checkpoint = f"--checkpoint_path {work}/checkpoints/best_model.safetensors"
    generate(work / "checkpoints" / "best_model.safetensors", work / "synthetic")
    run("combine", f"--real_data {work}/real --synthetic_data {work}/synthetic --output_dir {work}/combined".split())
    run("segment", f"--data_dir {work}/combined --output_dir {work}/segmentation --img_size 64 --steps 8 --evals 2 "
        "--batch_size 4 --bootstrap 100 --precision fp32 --device cpu".split())  # fmt: skip
    run("evaluate", f"--real_data {work}/real --synthetic_data {work}/synthetic --output_dir {work}/evaluation "
        f"{checkpoint} --reference_models_dir {work}/models --reference_model_steps 10 --embedding_steps 4 "
        "--bootstrap 40 --precision fp32 --device cpu".split())  # fmt: skip
    best = work / "checkpoints" / "best_model.safetensors"
    return {
        "prepare": pairs(work / "real"),
        "train": {"history": history(work / "checkpoints"), "weights": weights_hash(best)},
        "generate": pairs(work / "synthetic"),
        "combine": {"rows": pairs(work / "combined")["rows"]},
        "segment": numbers(work / "segmentation" / "scores.json", "seconds", "config"),
        "evaluate": numbers(work / "evaluation" / "report.json", "compared/config"),
    }


def reference(work: Path) -> dict[str, Any]:
    """Eight pairs of each class from the reference weights in every mode; given masks and images are `INPUTS`."""
    shared = f"--checkpoint_path {WEIGHTS} --precision fp32 --device cpu --chunk_size 8 --steps 8"
    given = INPUTS
    result = {}
    for mode in ("joint", "mask_first"):
        run("generate", f"{shared} --mode {mode} --num_samples_per_class 8 --output_dir {work}/{mode}".split())
        result[mode] = pairs(work / mode)
    run(
        "generate",
        f"{shared} --masks {given} --split train --num_samples_per_input 2 --output_dir {work}/mask_to_image".split(),
    )
    result["mask_to_image"] = pairs(work / "mask_to_image")
    run(
        "generate",
        f"{shared} --images {given} --split train --num_samples_per_input 2 --output_dir {work}/image_to_mask".split(),
    )
    result["image_to_mask"] = pictures(work / "image_to_mask", "masks", "samples", "mean", "one_call")
    return result


def record() -> dict[str, Any]:
    """The whole record."""
    with tempfile.TemporaryDirectory() as name, one_thread():
        work = Path(name)
        return {"machine": machine(), "phases": phases(work / "phases"), "reference": reference(work / "reference")}


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    text = json.dumps(record(), indent=1)
    RECORD_FILE.write_text(re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")
    sys.exit(0)
