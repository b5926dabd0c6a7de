"""Which sampler, how many network calls, how much guidance? Curves on val for one checkpoint.

    python benchmarks/sampling.py --checkpoint_path FILE --real_data samples --run_dir runs/sampling
        [--reference_models_dir runs/reference_models] [--guidance_checkpoint EARLIER_FILE]

Every setting samples the same numbers of pairs from the same noise; `medsegdiff evaluate` compares them with val. The
test split is not looked at. Finished settings are kept in --run_dir. Writes docs/results/sampling.md and .json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from evaluated import ROOT, sampled_and_evaluated
from torch import Tensor

from medsegdiff.data.records import content_digest, read_samples
from medsegdiff.engine.device import autocast, settle_precision
from medsegdiff.engine.files import read_json, write_json
from medsegdiff.engine.rng import generator
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard, load_checkpoint
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.noise import highest_sigma, lowest_sigma, sigma_table
from medsegdiff.generators.joint_diffusion.sampling_settings import MASK_GUIDANCE, SamplingSettings
from medsegdiff.synthesis.config import GenerateConfig

RESULTS = ROOT / "docs" / "results"
DEFAULTS = SamplingSettings(mask_guidance=MASK_GUIDANCE).settled(
    DiffusionConfig()
)  # what `generate` does where no setting says otherwise
PLAIN = {"mask_guidance": 1, "sigma_scale": 1}


def settings(guidance_model: str | None) -> dict[str, dict[str, Any]]:
    """Name -> flags of `generate`: one change at a time, but for those that compare samplers as they are."""
    found: dict[str, dict[str, Any]] = {"default": {}}
    found |= {f"mask guidance {w}": {"mask_guidance": w} for w in (1, 1.5, 3)}
    found |= {f"noise scaled {share}": {"sigma_scale": share} for share in (0.9, 0.8)}
    found |= {f"{n} steps": {"steps": n} for n in (8, 11, 20, 40, 200)}
    found |= {f"unguided, noise not scaled, {n} steps": PLAIN | {"steps": n} for n in (DEFAULTS.steps, 20, 200)}
    found |= {f"{name} {n}": {"sampler": name, "steps": n} for name, n in (("ddim", 15), ("heun", 8), ("ddpm", 40))}
    found |= {f"class guidance {w}": {"guidance": w} for w in (1.5, 2.0)}
    if guidance_model:
        found |= {f"autoguidance {w}": {"guidance": w, "guidance_checkpoint": guidance_model} for w in (1.5, 2.0)}
    found |= {f"guidance at {a}..{b}": {"guidance_low": a, "guidance_high": b} for a, b in ((0.1, 5), (0.3, 80))}
    return found


def calls(flags: dict[str, Any], diffusion: DiffusionConfig) -> int:
    """Network calls a pair; a call that asks the network twice counts as two."""
    config = dataclasses.replace(DEFAULTS, **{k: v for k, v in flags.items() if hasattr(DEFAULTS, k)})
    guidance, table = config.guide(), sigma_table("joint", diffusion, config.steps)
    second = guidance.calls(table[1:]) if config.sampler == "heun" else 0  # of all rows but the last, which is 0
    return guidance.calls(table) + second


def seconds_a_level(denoiser: Denoiser, card: ModelCard, batch: int = 25, rounds: int = 5) -> dict[str, float]:
    """Median seconds of a network call for one pair, in batches as they are sampled: at high noise, and at low.

    In the number type that `generate` chooses on this machine.
    """
    cpu = torch.device("cpu")  # where checkpoints are loaded
    x = torch.randn(batch, 2, card.img_size, card.img_size, generator=generator(0))
    label = torch.zeros(batch, dtype=torch.long)
    times: dict[str, list[float]] = {"high": [], "low": []}
    with torch.inference_mode(), autocast(cpu, settle_precision(GenerateConfig("", ""), cpu).precision):
        for _ in range(rounds + 1):
            for name, level in (("high", highest_sigma(card.diffusion)), ("low", lowest_sigma(card.diffusion))):
                started = time.perf_counter()
                denoiser(x, torch.full((batch, 2), level), {"label": label})
                times[name].append((time.perf_counter() - started) / batch)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def seconds_a_pair(calls: int, table: Tensor, denoiser: Denoiser, times: dict[str, float]) -> float:
    """Seconds of the calls of one pair at the levels of `table` (T + 1, M): small pictures and full ones.

    Guidance is taken to be spread over both as the levels are, which is a little too much for the small ones.
    """
    high = denoiser.by_size(table[:-1])[1] / (len(table) - 1)
    return calls * (high * times["high"] + (1 - high) * times["low"])


def known_by(checkpoint: str, val: str, flags: dict[str, Any], pairs: int) -> dict[str, Any]:
    """What decides the figures of a setting: the checkpoints, the val pictures, every setting of `generate`."""
    plain = GenerateConfig("", "", num_samples_per_class=pairs, **dataclasses.asdict(DEFAULTS))
    settings = dataclasses.asdict(dataclasses.replace(plain, **flags))
    guidance_model = (
        load_checkpoint(Path(settings["guidance_checkpoint"]))[2] if settings["guidance_checkpoint"] else None
    )
    settings = {name: value for name, value in settings.items() if not name.endswith(("_path", "_dir"))}
    return {"checkpoint": checkpoint, "guidance_model": guidance_model, "val": val, "settings": settings}


def is_done(file: Path, of: dict[str, Any]) -> bool:
    """Whether figures are there already; `SystemExit` where something else decided them."""
    if not file.is_file():
        return False
    if (known := read_json(file).get("of")) != of:
        raise SystemExit(f"error: {file}: found figures of {known}; expected {of}. Give another --run_dir.")
    return True


def between(row: dict[str, Any], name: str, digits: int) -> str:
    return ", ".join(f"{end:.{digits}f}" for end in row[f"{name}_interval"])


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| setting | network calls | s a pair | Fréchet radiomics | agreement, Dice | lesions | masks with specks "
        "| nearest to train |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        share, low, high = row["nearest_to_train"]
        lines.append(
            f"| {name} | {row['calls']} | {row['seconds']:.2f} | {row['frechet']:.1f} [{between(row, 'frechet', 1)}] | "
            f"{row['agreement']:.3f} [{between(row, 'agreement', 3)}] | "
            f"{row['lesions']:.2f} | {row['specks']:.2f} | {share:.2f} [{low:.2f}, {high:.2f}] |"
        )
    row = next(iter(found.values()))
    lines.append(f"| real val pictures | | | {row['frechet_floor']:.1f} | {row['agreement_real']:.3f} | | 0 | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_path", type=Path, required=True)
    parser.add_argument("--guidance_checkpoint", help="a less trained checkpoint of the same run, for autoguidance")
    parser.add_argument("--real_data", required=True)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--reference_models_dir", type=Path)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of each class")
    parser.add_argument("--only", nargs="+", help="names of settings; default: all")
    options = parser.parse_args()
    chosen = settings(options.guidance_checkpoint)
    denoiser, card, digest = load_checkpoint(options.checkpoint_path)
    val = content_digest(read_samples(Path(options.real_data)).select("val").records)
    known_as = {name: known_by(digest, val, flags, options.pairs) for name, flags in chosen.items()}
    for name, flags in chosen.items():
        if options.only and name not in options.only:
            continue
        folder = options.run_dir / name.replace(" ", "_")
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        words += ["--num_samples_per_class", str(options.pairs)]
        if not is_done(folder / "figures.json", of := known_as[name]):
            reported = sampled_and_evaluated(
                folder, options.checkpoint_path, options.real_data, options.reference_models_dir, words
            )
            write_json(folder / "figures.json", reported | {"of": of})
    files = {name: options.run_dir / name.replace(" ", "_") / "figures.json" for name in chosen}
    done = [name for name in chosen if is_done(files[name], known_as[name])]
    found = {name: {k: v for k, v in read_json(files[name]).items() if k != "of"} for name in done}
    times = seconds_a_level(denoiser, card)
    for name, row in found.items():
        table_of = sigma_table("joint", card.diffusion, chosen[name].get("steps", DEFAULTS.steps))
        row["calls"] = calls(chosen[name], card.diffusion)
        row["seconds"] = seconds_a_pair(row["calls"], table_of, denoiser, times)
    reported = {"seconds_a_level": times, "settings": found}
    (RESULTS / "sampling.json").write_text(json.dumps(reported, indent=2) + "\n")
    notes = RESULTS / "sampling_notes.md"
    words = notes.read_text() + "\n" if notes.is_file() else ""
    (RESULTS / "sampling.md").write_text("# Sampler, network calls, guidance\n\n" + words + table(found))


if __name__ == "__main__":
    main()
