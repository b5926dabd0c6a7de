"""Our network beside those of diffusers, MONAI and denoising_diffusion_pytorch, each as its own documentation has it.

    python benchmarks/peers.py --real_data samples --run_dir runs/peers --reference_models_dir runs/reference_models

does all three parts, each of which can be had alone by its name:

    speed   parameters, FLOPs, training images/s, peak memory, seconds a pair, share of the measured matrix-product
            peak; on a GPU images/s over batch size as well
    train   the same wall-clock for each (20 minutes, 3 on a GPU), then distance, agreement, privacy and relative Dice
            of what it samples, all on val; no figure is taken on test
    table   docs/results/benchmarks.md, .json and the picture, from what the other two left in --run_dir

What is finished is kept in --run_dir and not done again. Measure on a machine that does nothing else.
`--batch 4 train` trains the peers once more, with another batch than the documented one; both stand in the table.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from peer_arms import arm_names
from peer_nets import PEERS
from peer_speed import measure, measure_memory
from peer_table import write_tables
from peer_train import GIVE_UP, run_all

from medsegdiff.data.records import read_samples
from medsegdiff.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("speed", "train", "table")
SHOWN_DATA, SHOWN_RUN, SHOWN_REFERENCE_MODELS = "data/busi_prepared", "runs/peers", "runs/judges"


def parser() -> argparse.ArgumentParser:
    on_gpu = torch.cuda.is_available()
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all of them")
    made.add_argument("--real_data", required=True, help="sample folder of real pairs")
    made.add_argument("--run_dir", type=Path, required=True, help="folder for everything that the run makes")
    made.add_argument(
        "--reference_models_dir", help="where reference models are kept; default: the user's cache folder"
    )
    made.add_argument("--config", default=str(ROOT / "configs" / "busi_128.yaml"), help="settings file of our network")
    made.add_argument("--arms", nargs="+", choices=arm_names(), default=arm_names(), help="networks")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of torch")
    speed = made.add_argument_group("speed")
    speed.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of the pictures, pixels")
    speed.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    speed.add_argument("--speed_batch", type=int, default=16 if on_gpu else 4, help="pairs a step at 128 px")
    speed.add_argument("--rounds", type=int, default=20 if on_gpu else 5, help="rounds of timing, all networks in turn")
    train = made.add_argument_group("train")
    train.add_argument("--minutes", type=float, default=3 if on_gpu else 20, help="training of each network")
    train.add_argument("--train_threads", type=int, help="threads of this part; default: --threads")
    train.add_argument("--size", type=int, default=128, help="side of the pictures, pixels")
    train.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    train.add_argument("--batch", type=int, help="pairs a step of the peers; default: as their documentation has it")
    train.add_argument("--part", type=int, default=64 if on_gpu else 4, help="pairs that a peer computes at once")
    train.add_argument("--pairs", type=int, default=250, help="pairs of each class to sample")
    train.add_argument("--chunk", type=int, default=250 if on_gpu else 25, help="pairs sampled together")
    train.add_argument(
        "--give_up", type=int, default=GIVE_UP, help="first samples of a class without a lesion; 0: never"
    )
    train.add_argument("--bootstrap", type=int, default=200, help="resamples of the evaluation's intervals")
    train.add_argument("--no_judge", dest="judge", action="store_false", help="leave the evaluation out")
    train.add_argument("--dice_steps", type=int, default=600, help="steps of the segmenters; 0: no relative Dice")
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    return made


def command(options: argparse.Namespace) -> list[str]:
    """The commands to make these tables again, with the folders of the documentation and what was not default."""
    line = f"python benchmarks/peers.py --real_data {SHOWN_DATA} --run_dir {SHOWN_RUN}"
    line += f" --reference_models_dir {SHOWN_REFERENCE_MODELS}"
    defaults = parser().parse_args(["--real_data", "", "--run_dir", ""])
    hidden = {"parts", "real_data", "run_dir", "reference_models_dir", "config", "batch"}
    for name, value in vars(options).items():
        if name not in hidden and (name == "threads" or value != getattr(defaults, name)):
            words = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
            line += " ".join([f" --{'no_judge' if name == 'judge' else name}", *map(str, words)])
    batches = sorted({folder.name.rpartition("_batch_")[2] for folder in options.run_dir.glob("*_batch_*")}, key=int)
    return [line, *[f"{line} --batch {batch}" for batch in batches]]


def data_line(real_data: str) -> str:
    """How many real pairs there are, without where they lie."""
    pairs = read_samples(Path(real_data))
    counts = ", ".join(f"{split} {len(pairs.select(split))}" for split in ("train", "val"))
    return f"real BUSI, split by groups of near-duplicates ({counts} pairs)"


def main() -> None:
    made = parser()
    options = made.parse_args()
    if options.parts == ["memory"]:  # the child process of `speed`
        print(json.dumps(measure_memory(options)))
        return
    if wrong := set(options.parts) - set(PARTS):
        made.error(f"no such part: {', '.join(sorted(wrong))}; known: {', '.join(PARTS)}")
    parts = options.parts or list(PARTS)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    try:
        if "speed" in parts:
            measure(options)
        if "train" in parts:
            run_all(options)
        if "table" in parts:
            print(write_tables(options.run_dir, command(options), data_line(options.real_data)))
    except (UserError, ImportError) as error:
        packages = ", ".join(sorted({recipe.package for recipe, _ in PEERS.values()}))
        hint = f" (pip install 'medsegdiff[bench]' has {packages})" if isinstance(error, ImportError) else ""
        made.exit(2, f"error: {error}{hint}\n")


if __name__ == "__main__":
    main()
