"""Small inputs for every job: ellipses of 32 pixels, a checkpoint of a tiny network, pairs sampled from it, a
phantom."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

TINY_MODEL = "--model.model_channels 8 --model.channel_mult 1 2 --model.transformer_depth 1 --model.num_heads 2"
# 12 steps; states after 3, 6, 9 and 12, evaluations after 6 and 12
TRAIN = (
    "--img_size 32 --batch_size 4 --num_epochs 4 --lr 3e-3 --warmup_steps 2 --ema_lengths 0.05 0.1 --precision fp32 "
    f"--device cpu --evals 2 --save_every 3 --eval_samples 4 --eval_steps 2 {TINY_MODEL}"
)
# 6 pairs a class in chunks of 2
GENERATE = "--num_samples_per_class 6 --chunk_size 2 --steps 2 --precision fp32 --device cpu"
COMBINE = "--duplicate_bits 0"
# 8 steps; states after 3, 4, 6 and 8, evaluations after 4 and 8
SEGMENT = (
    "--img_size 32 --steps 8 --evals 2 --save_every 3 --batch_size 4 --warmup_steps 2 --bootstrap 20 --precision fp32 "
    "--device cpu --model linknet --encoder tu-mobilenetv3_small_050"
)
FLAGS = {"prepare": "--folds 2", "train": TRAIN, "generate": GENERATE, "combine": COMBINE, "segment": SEGMENT}


def make_inputs(folder: Path, jobs: Iterable[str]) -> int:
    """real/, synthetic/ (samples), checkpoint/best_model.safetensors, and raw/ where `jobs` need it; returns 0."""
    from medsegdiff.cli import run
    from medsegdiff.data.phantom import PhantomConfig, write_phantom

    sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))
    from sample_sets import ellipse_pairs

    ellipse_pairs(folder / "real", {"train": 6, "val": 2, "test": 2})
    checkpoint = folder / "checkpoint" / "best_model.safetensors"
    write_checkpoint(folder / "real", checkpoint)
    argv = ["--checkpoint_path", str(checkpoint), "--output_dir", str(folder / "synthetic")]
    run("generate", [*argv, *GENERATE.split()])
    if "prepare" in jobs:
        write_phantom(PhantomConfig(str(folder / "raw"), num_benign=8, num_malignant=8, duplicates=0))
    return 0


def write_checkpoint(real: Path, path: Path) -> None:
    """A network with random weights. Its masks are noise of which half is lesion: one large connected part."""
    from tiny_networks import random_checkpoint

    from medsegdiff.data.records import read_samples

    pairs = read_samples(real)
    hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in pairs.select("train").records]
    random_checkpoint(
        path, img_size=32, classes=pairs.classes, lesion_classes=pairs.classes, train_hashes=hashes,
        aspects={label: [1.0, 1.25] for label in pairs.classes},
    )  # fmt: skip
