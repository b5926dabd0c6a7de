"""How to train on real and synthetic pairs together: ratios and mixings, compared on val.

    python benchmarks/mixing.py --run_dir runs/busi_128

After benchmarks/busi_128_cpu.py has sampled its pairs: combines them with the real ones in every way of `MIXES`, trains
the U-Net of phase 5 on each at equal steps (finished runs are not trained again), and writes docs/results/mixing.md and
mixing.json. Phase 5 scores test at its end; these scores are not read here. `--arms` names the ways to train, so that
two processes may share the work; `--table_only` writes the table alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from busi_128_cpu import CHOSEN, MIXES, ROOT, mix_commands, segment_command

from medsegdiff.engine.files import SCORES_FILE, read_json, write_bytes, write_json

RESULTS = ROOT / "docs" / "results"
REAL = "real"


def title(name: str) -> str:
    """What the table calls an arm."""
    if name == REAL:
        return "real only"
    ratio, mixing = MIXES[name]
    often = "all that balance the classes" if ratio is None else f"{ratio:g} for each real one"
    return f"{often}, " + ("mixed" if mixing == "all" else "synthetic ones first, the real share rising to 1")


def commands(run: str, name: str, seeds: list[int]) -> list[str]:
    """What has to be run for an arm."""
    if name == REAL:
        return [segment_command(run, REAL, f"{run}/real", seeds)]
    return list(mix_commands(run, name, seeds).values())


def reported(run: Path, name: str) -> dict[str, Any]:
    """Numbers of train pairs, and val Dice of every seed."""
    scores = read_json(run / f"segmentation_{name}" / SCORES_FILE)
    return {"train_pairs": scores["pairs"]["train"]} | {name: scores[name] for name in ("val_dice", "steps", "runs")}


def best_of(found: dict[str, dict[str, Any]]) -> str:
    """The way of MIXES with the highest mean Dice on val."""
    return max((name for name in found if name != REAL), key=lambda name: statistics.mean(found[name]["val_dice"]))


def alike(found: dict[str, dict[str, Any]], what: str) -> str:
    """What all arms have in common; `SystemExit` where they have not, since then they cannot be compared."""
    values = {json.dumps(row[what]) for row in found.values()}
    if len(values) > 1:
        raise SystemExit(f"error: arms with other {what}: {', '.join(sorted(values))}; run this without --table_only")
    return ", ".join(map(str, dict.fromkeys(json.loads(values.pop()))))


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """One row an arm, the best of MIXES in bold."""
    best = best_of(found)
    rows = ["| synthetic pairs | train pairs | val Dice of the seeds | mean |", "|---|---|---|---|"]
    for name, row in found.items():
        mark = "**" if name == best else ""
        seeds = ", ".join(f"{v:.3f}" for v in row["val_dice"])
        rows.append(
            f"| {mark}{title(name)}{mark} | {row['train_pairs']} | {seeds} | {statistics.mean(row['val_dice']):.3f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/busi_128"), help="folder of busi_128_cpu.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the segmentation networks")
    parser.add_argument("--arms", nargs="*", default=[REAL, *MIXES], choices=[REAL, *MIXES], help="what to train")
    parser.add_argument("--table_only", action="store_true", help="only write the table of what is finished")
    options = parser.parse_args()
    for name in () if options.table_only else options.arms:
        for line in commands(str(options.run_dir), name, options.seeds):
            print(f"$ python {line}", flush=True)
            subprocess.run([sys.executable, *shlex.split(line)], cwd=ROOT, check=True)
    done = [name for name in (REAL, *MIXES) if (options.run_dir / f"segmentation_{name}" / SCORES_FILE).is_file()]
    found = {name: reported(options.run_dir, name) for name in done}
    text = [
        "# Real and synthetic pairs together",
        "",
        f"The U-Net of phase 5, {alike(found, 'steps')} steps in every row, on the pairs of",
        f"[busi_128_cpu.md](busi_128_cpu.md), {alike(found, 'runs').replace('_', ' ')}, scored on the",
        "96 val pictures, which also picked the weights. Written by `python benchmarks/mixing.py`; the way in bold is",
        "the arm of that page called chosen on val. Chance between seeds is as large as most differences.",
        "",
        *table(found),
    ]
    write_json(RESULTS / "mixing.json", found)  # not before all arms are known to be comparable
    write_bytes(RESULTS / "mixing.md", ("\n".join(text) + "\n").encode())
    print(*table(found), sep="\n")
    if len(found) == 1 + len(MIXES) and best_of(found) != CHOSEN:
        raise SystemExit(f"error: {best_of(found)} is best on val, but busi_128_cpu.CHOSEN is {CHOSEN}; change it")


if __name__ == "__main__":
    main()
