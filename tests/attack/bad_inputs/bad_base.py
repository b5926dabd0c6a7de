"""What the cases of bad input share: small good inputs to spoil, and how a command line is run on them."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from medsegdiff.cli import main
from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.prepare import prepare
from medsegdiff.data.records import write_sample, write_samples
from medsegdiff.engine.files import write_png

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))  # also where no pytest has done so
from tiny_networks import random_checkpoint

CLASSES = ["benign", "malignant"]
SHAPE = (40, 48)
TINY = """
img_size: 16
batch_size: 4
num_epochs: 2
evals: 1
eval_samples: 2
eval_steps: 2
precision: fp32
device: cpu
model:
  model_channels: 8
  channel_mult: [1, 1]
  transformer_depth: 0
  num_heads: 1
"""
# Files that say that a run is finished, or that a later phase would take.
FINISHED = (
    "dataset.json", "scores.json", "summary.json", "description.json", "report.json", "*.safetensors", "PHANTOM.txt",
)  # fmt: skip
EXPLODED = "exploded"  # the file that an opened pickle would make


@dataclass(frozen=True)
class Case:
    """One bad input and the command line that meets it."""

    wrong: str  # in one phrase
    command: str  # as typed behind `medsegdiff`, in the folder of the case
    parts: tuple[str, ...]  # what the message has to contain
    spoil: Callable[[Path], object] = lambda folder: None  # makes the bad input in that folder
    around: Callable[[Path], AbstractContextManager[object]] = lambda folder: nullcontext()  # holds while it runs


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    lines: list[str]  # on stderr, as a terminal shows them, without progress bars
    before: dict[str, bytes]  # files that say "finished"
    after: dict[str, bytes]
    exploded: bool  # whether a pickle ran its code


def scene(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(H, W) uint8 smooth noise; no two alike."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(shape), (0, 0), 3)
    return np.asarray(np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8))


def disc(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(H, W) uint8 mask of one lesion."""
    return np.asarray(cv2.circle(np.zeros(shape, np.uint8), (24, 20), 8, 255, -1))


def write_raw(folder: Path, count: int = 4) -> None:
    """A raw folder in the layout of BUSI, `count` pictures a class."""
    for seed, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for number in range(1, count + 1):
            write_png(folder / label / f"{label} ({number}).png", scene(100 * seed + number))
            write_png(folder / label / f"{label} ({number})_mask.png", disc())


def build_base(base: Path) -> Path:
    """All good inputs, each under the name that the command lines use."""
    logging.getLogger("medsegdiff").setLevel(logging.WARNING)
    write_raw(base / "raw")
    write_raw(base / "few", 2)
    (base / "tiny.yaml").write_text(TINY)
    config = PrepareConfig(str(base / "raw"), str(base / "real"), val_fraction=0.25, test_fraction=0.25, folds=2)
    real = prepare(config)
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in real.select("train").records]
    records = [
        write_sample(
            base / "synthetic", scene(500 + n), disc(), id=f"syn_{label}_{n}", label=label, split="train",
            group=f"syn_{label}_{n}", source="synthetic:0123456789ab", generator="0123456789ab",
        )
        for n, label in enumerate(CLASSES * 2)
    ]  # fmt: skip
    info = {"checkpoint": {"train_hashes": hashes}}
    write_samples(base / "synthetic", records, classes=CLASSES, fingerprint={"phase": "generate"}, **info)
    random_checkpoint(base / "model.safetensors", train_hashes=hashes)
    return base


def run(case: Case, base: Path, folder: Path) -> Outcome:
    """Copy what the command names from `base` to the empty `folder`, spoil it, and run the command there."""
    for source in base.iterdir():
        if source.name in re.split(r"[\s/]", case.command):
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / source.name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        case.spoil(folder)
    before = finished(folder)
    err = io.StringIO()
    redirected = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err)
    with contextlib.chdir(folder), case.around(folder), redirected[0], redirected[1]:
        status = main(shlex.split(case.command))
    lines = [stable(line, folder) for line in shown(err.getvalue())]
    return Outcome(status, lines, before, finished(folder), (folder / EXPLODED).exists())


def finished(folder: Path) -> dict[str, bytes]:
    """Files below `folder` that a later run would take for finished, with their bytes."""
    found = [path for name in FINISHED for path in sorted(folder.rglob(name)) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def shown(text: str) -> list[str]:
    """Lines as a terminal shows them: what a carriage return overwrites is gone. Without blank ones and bars."""
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line and not re.search(r"\d+%\|", line)]


def stable(line: str, folder: Path) -> str:
    """A line without what differs from machine to machine: the folder, process numbers, words of a library."""
    line = line.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    line = re.sub(r"\(process \d+\)", "(process 1234)", line)
    return re.sub(r"a damaged file \(.*\);", "a damaged file (...);", line)


def first(root: Path, split: str = "train") -> dict[str, str]:
    """The first row of metadata.csv in a split."""
    with (root / "metadata.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["split"] == split)


def edit(root: Path, **changes: str) -> None:
    """Change cells of the first row of metadata.csv."""
    with (root / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[0] |= changes
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def without_permission(folder: Path) -> Iterator[None]:
    """`folder` read-only, and root as bound by that as everybody else: without CAP_DAC_OVERRIDE and _READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits
    assert libc.capget(header, sets) == 0
    kept = sets[0]
    sets[0] &= ~0b110
    folder.chmod(0o555)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = kept
        libc.capset(header, sets)
        folder.chmod(0o755)


@contextmanager
def another_job(folder: Path, beside: bool) -> Iterator[None]:
    """A process of its own that holds the lock of `folder`, as a run does."""
    code = "import sys; from pathlib import Path; from medsegdiff.engine.locks import locked\n"
    code += "with locked(Path(sys.argv[1]), bool(sys.argv[2])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder.resolve()), "beside" if beside else ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate()
