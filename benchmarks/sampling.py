"""Which sampler, how many network calls, how much guidance? Curves on val for one checkpoint.

    python benchmarks/sampling.py --checkpoint_path FILE --real_data PAIRS --run_dir runs/sampling
        [--judges_dir runs/judges] [--guide_path EARLIER_FILE]

Every setting draws the same numbers of pairs from the same noise; `medsegdiff evaluate` compares them with val. The
test split is not looked at. Finished settings are kept in --run_dir. Writes docs/results/sampling.md and .json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from judging import ROOT, drawn_and_judged
from torch import Tensor

from medsegdiff.checkpoint import ModelCard, load_checkpoint
from medsegdiff.data.transforms import generator
from medsegdiff.diffusion.condition import Condition
from medsegdiff.diffusion.denoiser import Denoiser
from medsegdiff.diffusion.noise import highest_sigma, lowest_sigma, sigma_table
from medsegdiff.files import read_json, write_json

RESULTS = ROOT / "docs" / "results"
CALLS = {"dpmpp_2m": 1, "ddim": 1, "ddpm": 1, "heun": 2}  # network calls a step
STEPS = 20  # of `generate`, where no setting says otherwise
GUIDANCE = (0.7, 1.5, 2.0, 3.0)
INTERVALS = ((0.3, 5.0), (1.0, 5.0), (0.0, 100.0))


def settings(guide: str | None) -> dict[str, dict[str, Any]]:
    """Name -> flags of `generate`: samplers by steps without guidance, then guidance at the default sampler."""
    found: dict[str, dict[str, Any]] = {}
    for sampler, steps in (
        ("dpmpp_2m", (6, 10, 14, 20, 40)),
        ("ddim", (10, 20, 40)),
        ("heun", (5, 10, 20)),
        ("ddpm", (40,)),
    ):
        for n in steps:
            found[f"{sampler} {n}"] = {"sampler": sampler, "steps": n}
    found["dpmpp_2m 200"] = {"sampler": "dpmpp_2m", "steps": 200}
    for weight in GUIDANCE:
        found[f"class guidance {weight}"] = {"guidance": weight}
        if guide:
            found[f"autoguidance {weight}"] = {"guidance": weight, "guide_path": guide}
    for low, high in INTERVALS[1:]:
        found[f"class guidance 2 at {low}..{high}"] = {"guidance": 2.0, "guidance_low": low, "guidance_high": high}
    return found


def calls(flags: dict[str, Any]) -> int:
    """Network calls a pair, those of the guidance left out."""
    return int(flags.get("steps", STEPS)) * CALLS[flags.get("sampler", "dpmpp_2m")]


def seconds_a_level(denoiser: Denoiser, card: ModelCard, batch: int = 25, rounds: int = 5) -> dict[str, float]:
    """Median seconds of a network call for one pair, in batches as they are drawn: at high noise, and at low."""
    x = torch.randn(batch, 2, card.img_size, card.img_size, generator=generator(0))
    label = torch.zeros(batch, dtype=torch.long)
    times: dict[str, list[float]] = {"high": [], "low": []}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, level in (("high", highest_sigma(card.diffusion)), ("low", lowest_sigma(card.diffusion))):
                started = time.perf_counter()
                denoiser(x, torch.full((batch, 2), level), Condition(label))
                times[name].append((time.perf_counter() - started) / batch)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def seconds_a_pair(calls: int, table: Tensor, denoiser: Denoiser, times: dict[str, float]) -> float:
    """Seconds of the calls of one pair at the levels of `table` (T + 1, M): small pictures and full ones.

    A guided pair is taken to have two calls at every level, which is what it costs at most.
    """
    high = denoiser.by_size(table[:-1])[1] / (len(table) - 1)
    return calls * (high * times["high"] + (1 - high) * times["low"])


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| setting | network calls | s a pair | Fréchet radiomics | agreement, Dice | masks with specks "
        "| nearest to train |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        share, low, high = row["nearest_to_train"]
        lines.append(
            f"| {name} | {row['calls']} | {row['seconds']:.2f} | {row['frechet']:.1f} | {row['agreement']:.3f} | "
            f"{row['specks']:.2f} | {share:.2f} [{low:.2f}, {high:.2f}] |"
        )
    row = next(iter(found.values()))
    lines.append(f"| real val pictures | | | {row['frechet_floor']:.1f} | {row['agreement_real']:.3f} | 0 | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_path", type=Path, required=True)
    parser.add_argument("--guide_path", help="a less trained checkpoint of the same run, for autoguidance")
    parser.add_argument("--real_data", required=True)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--judges_dir", type=Path)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of each class")
    parser.add_argument("--only", nargs="+", help="names of settings; default: all")
    options = parser.parse_args()
    chosen = settings(options.guide_path)
    for name, flags in chosen.items():
        folder = options.run_dir / name.replace(" ", "_")
        if (folder / "figures.json").is_file() or (options.only and name not in options.only):
            continue
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        words += ["--num_samples_per_class", str(options.pairs)]
        told = drawn_and_judged(folder, options.checkpoint_path, options.real_data, options.judges_dir, words)
        guided = 2 if flags.get("guidance", 1) != 1 else 1  # at most: outside the interval it is one call
        write_json(folder / "figures.json", told | {"calls": calls(flags) * guided})
    files = {name: options.run_dir / name.replace(" ", "_") / "figures.json" for name in chosen}
    found = {name: read_json(file) for name, file in files.items() if file.is_file()}
    denoiser, card, _ = load_checkpoint(options.checkpoint_path)
    times = seconds_a_level(denoiser, card)
    for name, row in found.items():
        table_of = sigma_table("joint", card.diffusion, chosen[name].get("steps", STEPS))
        row["seconds"] = seconds_a_pair(row["calls"], table_of, denoiser, times)
    told = {"seconds_a_level": times, "settings": found}
    (RESULTS / "sampling.json").write_text(json.dumps(told, indent=2) + "\n")
    notes = RESULTS / "sampling_notes.md"
    words = notes.read_text() + "\n" if notes.is_file() else ""
    (RESULTS / "sampling.md").write_text("# Sampler, network calls, guidance\n\n" + words + table(found))


if __name__ == "__main__":
    main()
