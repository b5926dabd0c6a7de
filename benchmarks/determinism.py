"""What stays the same: one set of pairs sampled again in other ways, compared pixel by pixel.

    python benchmarks/determinism.py --checkpoint_path runs/x/checkpoints/best_model.pth --run_dir runs/determinism

Writes docs/determinism.md between its two marks. Masks are compared as they are sampled, so a pair whose first mask was
refused in one run alone would show up as a whole different pair.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsegdiff.data.records import SampleSet, read_samples

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "determinism.md"
MARKS = ("<!-- measured -->", "<!-- end of measured -->")
BASE = {"--precision": "fp32", "--chunk_size": "8", "--num_samples_per_class": "12"}
RUNS: dict[str, tuple[str, dict[str, str], int]] = {
    "again": ("the same command, other folder", {}, 2),
    "fewer": ("fewer pairs, 5 a class", {"--num_samples_per_class": "5"}, 2),
    "chunk_3": ("--chunk_size 3", {"--chunk_size": "3"}, 2),
    "chunk_20": ("--chunk_size 20", {"--chunk_size": "20"}, 2),
    "one_thread": ("one thread instead of two", {}, 1),
    "bf16": ("--precision bf16 instead of fp32", {"--precision": "bf16"}, 2),
}


def sample(checkpoint: str, folder: Path, flags: dict[str, str], threads: int) -> SampleSet:
    """Sample in a process of its own with so many threads."""
    words = [w for flag in (BASE | flags).items() for w in flag]
    command = [sys.executable, str(ROOT / "generate_synthetic.py"), "--checkpoint_path", checkpoint]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*command, "--output_dir", str(folder), *words], env=environment, check=True)
    return read_samples(folder)


def compare(one: SampleSet, other: SampleSet) -> dict[str, Any]:
    """Shares of pixels over the pairs that both have."""
    ids = {r.id: r for r in one.records}
    couples = [(ids[r.id], r) for r in other.records if r.id in ids]
    images = np.concatenate(
        [np.abs(one.read_image(a).astype(int) - other.read_image(b).astype(int)).ravel() for a, b in couples]
    )
    masks = np.concatenate([(one.read_mask(a) == other.read_mask(b)).ravel() for a, b in couples])
    return {
        "pairs": len(couples),
        "identical": float((images == 0).mean()),
        "one level": float((images <= 1).mean()),
        "largest": int(images.max()),
        "masks": float(masks.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_path", required=True)
    parser.add_argument("--run_dir", required=True)
    parser.add_argument("--leave_out", nargs="*", default=[], choices=list(RUNS), help="runs to leave out")
    options = parser.parse_args()
    run = Path(options.run_dir)
    base = sample(options.checkpoint_path, run / "base", {}, 2)
    flags = " ".join(f"{k} {v}" for k, v in BASE.items())
    lines = [
        "`python benchmarks/determinism.py --checkpoint_path FILE --run_dir runs/determinism`,",
        f"base `{flags}`, seed 0, two threads, {platform.machine()} CPU, torch {torch.__version__};",
        f"checkpoint {base.info['fingerprint']['checkpoint_sha256']}, {base.records[0].width} px. "
        "Grey levels are 0 to 255.",
        "",
        "| sampled again with | pairs | pixels identical | within one level | largest difference | mask pixels alike |",
        "|---|---|---|---|---|---|",
    ]
    for name, (title, changed, threads) in RUNS.items():
        if name in options.leave_out:
            continue
        found = compare(base, sample(options.checkpoint_path, run / name, changed, threads))
        shares = [f"{100 * found[key]:.4f} %" for key in ("identical", "one level", "masks")]
        lines.append(f"| {title} | {found['pairs']} | {shares[0]} | {shares[1]} | {found['largest']} | {shares[2]} |")
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(before + "\n".join([MARKS[0], "", *lines, "", MARKS[1]]) + after)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
