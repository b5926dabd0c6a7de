"""docs/results/benchmarks.md, .json and their picture, from what a run left in its folder."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from peer_arms import OURS, arm_names, title_of
from peer_nets import PEERS
from peer_speed import CALLS, LONG_CALLS, SPEED_FILE, TRAIN_FACTOR
from peer_train import DICE_FILE, FIGURES_FILE, REAL

from medsegdiff.engine.files import make_folder, read_json, write_bytes, write_json, write_png

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
RESAMPLES = 5000
NONE = "-"
Row = dict[str, Any]


def machine() -> dict[str, str]:
    """What kind of machine this is; no name of it."""
    found = {"cpu": platform.machine(), "torch": torch.__version__}
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    formatted = dict(part.split(":", 1) for part in lines if ":" in part)
    if "Model name" in formatted:
        found["cpu"] = f"{formatted['Model name'].strip()}, {formatted.get('CPU(s)', '?').strip()} CPUs"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    for recipe, _ in PEERS.values():
        try:
            found[recipe.package] = metadata.version(recipe.package)
        except metadata.PackageNotFoundError:
            found[recipe.package] = "not installed"
    return found


def collect(run: Path) -> dict[str, Any]:
    """Everything that the tables say, from the JSON files of a run."""
    speed = run / SPEED_FILE
    order = {name: place for place, name in enumerate(arm_names())}
    figures = [read_json(file) for file in sorted(run.glob(f"*/seed_*/{FIGURES_FILE}"))]
    figures.sort(key=lambda f: (order[f["arm"]], not f["documented_batch"], f["trained"]["batch"], f["seed"]))
    real = {f.parts[-3].removeprefix("seed_"): read_json(f) for f in run.glob(f"{REAL}/seed_*/dice/{DICE_FILE}")}
    for found in figures:
        if "dice" in found and str(found["seed"]) in real:
            found["relative"] = relative_dice(found["dice"]["dice"], real[str(found["seed"])]["dice"])
    return {"speed": read_json(speed) if speed.is_file() else None, "arms": figures, "real": real}


def relative_dice(synthetic: list[float], real: list[float]) -> dict[str, float]:
    """Mean Dice of one segmenter over that of the other on the same pictures, with a paired 95 % bootstrap interval."""
    both = np.array([synthetic, real])
    picks = np.random.default_rng(0).integers(both.shape[1], size=(RESAMPLES, both.shape[1]))
    means = both[:, picks].mean(axis=2)
    low, high = np.percentile(means[0] / np.maximum(means[1], 1e-9), [2.5, 97.5])
    value = both[0].mean() / max(both[1].mean(), 1e-9)
    return {"value": float(value), "low": float(low), "high": float(high)}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def shown(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    if value is None:
        return NONE
    places = max(0, digits - 1 - int(np.baseline(np.log10(abs(value))))) if value else 0
    return f"{value:.{places}f}"


def interval(value: dict[str, float] | None) -> str:
    return NONE if value is None else f"{shown(value['value'])} [{shown(value['low'])}, {shown(value['high'])}]"


def ratio(a: float | None, b: float | None) -> str:
    """a / b."""
    return NONE if a is None or not b else f"{shown(a / b, 2)}x"


def speed_table(rows: dict[str, Row], peak: float | None) -> list[str]:
    """One size and number type; ratios to ours, in whichever direction more than 1 is in favour of ours."""
    header = [
        "network", "M parameters", "GFLOP a call and pair", "theirs / ours", "training images/s", "ours / theirs",
        "peak memory, GiB", "theirs / ours", "share of the matrix-product peak", f"s a pair, {CALLS} calls",
        f"s a pair, {LONG_CALLS} calls",
    ]  # fmt: skip
    ours = rows.get(OURS, {})
    lines = []
    for name, row in rows.items():
        memory = row["memory"].get("gib")
        if memory is None:
            lines.append([title_of(name), row["memory"]["failed"], *[""] * (len(header) - 2)])
            continue
        speed, flop, call = row["images_per_second"], row["gflop"], row["seconds_a_call"]
        share = f"{100 * TRAIN_FACTOR * flop * speed / peak:.0f} %" if peak else NONE
        lines.append([
            title_of(name), shown(row["parameters"] / 1e6), shown(flop), ratio(flop, ours.get("gflop")), shown(speed),
            ratio(ours.get("images_per_second"), speed), shown(memory),
            ratio(memory, ours.get("memory", {}).get("gib")), share, *drawn_in(row, call),
        ])  # fmt: skip
    return table(header, lines)


def drawn_in(row: dict[str, Any], call: float) -> list[str]:
    """Seconds a pair of the short walk and the long one; ours as measured: its calls at high noise are cheaper."""
    whole = row.get("sampling") or {"default": CALLS * call, "ddpm_1000": LONG_CALLS * call}
    return [shown(whole["default"]), shown(whole["ddpm_1000"])]


def speed_lines(speed: dict[str, Any]) -> list[str]:
    """A table for each size and number type, and what our sampler costs beside a DDPM of 1000 steps."""
    lines = [
        "Training steps of all networks in turn on pictures of this size (ours without the smaller ones that its "
        "settings take first), medians of the rounds. "
        "FLOPs of the forward pass by torch.utils.flop_counter, 2 a multiplication-addition, without Fourier "
        f"transforms; a training image counts {TRAIN_FACTOR} forward passes. Seconds a pair: one measured network call "
        "times their number; of ours, which sees pictures smaller where noise is high, as sampled. "
        "Memory: two training steps in a process of its own, above what it held before.",
    ]
    for key in sorted(speed["rows"], key=lambda key: (int(key.split()[0]), key.split()[1] != "fp32")):
        rows, (size, precision) = speed["rows"][key], key.split()
        lines += ["", f"### {size} px, {precision}", ""]
        if "failed" in rows:
            lines.append(f"{rows['failed'].capitalize()}.")
            continue
        peak, about = speed["peak"].get(precision), speed["about"][key]
        how = f"{about['threads']} threads, batches of {about['batch']}, {about['rounds']} rounds."
        lines += [f"{how} Matrix products: {shown(peak)} GFLOP/s measured here.", "", *speed_table(rows, peak)]
        sampling = rows.get(OURS, {}).get("sampling")
        if sampling:
            faster = ratio(sampling["ddpm_1000"], sampling["default"])
            lines += [
                "",
                f"A pair by our default sampler (at most {CALLS} calls, sampled whole): "
                f"{shown(sampling['default'])} s; "
                f"by 1000 steps of ddpm {shown(sampling['ddpm_1000'])} s ({sampling['timed_calls']} timed and "
                f"multiplied): {faster}.",
            ]
        if key in speed["sweep"]:
            lines += ["", "Training images/s over batch size:", "", *sweep_table(speed["sweep"][key])]
    return lines


def sweep_table(found: dict[str, dict[str, float]]) -> list[str]:
    """A column a batch size; empty where memory did not hold it."""
    batches = sorted({int(batch) for row in found.values() for batch in row})
    cells = [[title_of(name), *[shown(row.get(str(b))) for b in batches]] for name, row in found.items()]
    return table(["network", *map(str, batches)], cells)


def train_table(found: dict[str, Any]) -> list[str]:
    """One row an arm and seed."""
    header = [
        "network", "seed", "batch", "steps", "pairs seen", "minutes", "lesion masks", "Fréchet radiomics distance",
        "theirs / ours", "agreement, Dice", "privacy", "val Dice, synthetic only", "relative Dice",
    ]  # fmt: skip
    ours = {f["seed"]: f.get("evaluated", {}).get("frechet") or {} for f in found["arms"] if f["arm"] == OURS}
    lines = []
    for f in found["arms"]:
        trained, evaluated = f["trained"], f.get("evaluated", {})
        drawing = {k: v for k, v in f.get("drawing", {}).items() if k != "seconds"}.values()
        sampled, passed = (sum(d[key] for d in drawing) for key in ("sampled", "lesion_masks"))
        frechet = evaluated.get("frechet")
        lines.append([
            title_of(f["arm"]), str(f["seed"]), f"{trained['batch']}{'' if f['documented_batch'] else ' (chosen)'}",
            str(trained["steps"]), str(trained["pairs_seen"]), f"{trained['seconds'] / 60:.1f}",
            f"{100 * passed / sampled:.0f} %" if sampled else "the loss was not finite",
            evaluated.get("refused", interval(frechet)),
            ratio((frechet or {}).get("value"), ours.get(f["seed"], {}).get("value")),
            interval(evaluated.get("agreement")), evaluated.get("privacy") or NONE,
            shown(float(np.mean(f["dice"]["dice"]))) if "dice" in f else NONE, interval(f.get("relative")),
        ])  # fmt: skip
    return table(header, lines)


def train_lines(found: dict[str, Any]) -> list[str]:
    """The comparison at equal wall-clock, and what its numbers stand beside."""
    fingerprint = found["arms"][0]["trained"]["fingerprint"]
    first: Row = next((f["evaluated"] for f in found["arms"] if f.get("evaluated", {}).get("frechet")), {})
    real = ", ".join(f"{np.mean(r['dice']):.3f} (seed {seed})" for seed, r in sorted(found["real"].items()))
    lines = [
        f"{fingerprint['minutes']:g} minutes of training steps each, threads: {fingerprint['threads']}, "
        f"{fingerprint['size']} px, {fingerprint['precision']}; the number of steps comes from the time that they "
        "take, and "
        "schedules end with the budget. "
        f"Pairs are sampled with {CALLS} network calls by each library's quick sampler, ours with as many at most, "
        "those of its mask guidance counted, the masks held to the same rule "
        "(`generation/gates.py`). Distances and agreement: `medsegdiff evaluate --held_out val`. Relative Dice: val "
        "Dice of a segmenter that learnt these pairs over that of one that learnt the real train split, the same "
        "steps, paired over val pictures. Val also picks the segmenters' weights and, outside the time, "
        "the length of the average of ours where its settings keep several. No figure was taken on test.",
        "",
        *train_table(found),
        "",
        f"Real held-out pairs: Fréchet radiomics distance {interval(first.get('frechet_floor'))}, agreement "
        f"{interval(first.get('agreement_real'))}. Real only, val Dice: {real or NONE}.",
    ]
    if any(f["arm"] != OURS for f in found["arms"]):
        lines += ["", "![sampled pairs](benchmarks_pairs.png)", "", "The first pairs of each class, not chosen: "]
        lines[-1] += "; ".join(dict.fromkeys(label_of(f) for f in found["arms"] if "drawing" in f)) + "."
    return lines


def label_of(figures: Row) -> str:
    chosen = "" if figures["documented_batch"] else f", batch {figures['trained']['batch']}"
    return f"{title_of(figures['arm'])}{chosen}"


def recipe_table() -> list[str]:
    """How each peer is sized and trained, and where its documentation says so."""
    rows = []
    for recipe, _ in PEERS.values():
        values = {k: v for k, v in dataclasses.asdict(recipe).items() if v is not None}
        optimiser = f"{'AdamW' if recipe.weight_decay is not None else 'Adam'}, {values['lr']:g}"
        schedule = f"{recipe.warmup} steps of warm-up, cosine" if recipe.warmup else "constant"
        batch = f"{recipe.batch} at {recipe.size} px"
        rows.append([recipe.title, recipe.source, batch, optimiser, schedule, str(recipe.ema or NONE), recipe.sampler])
        rows[-1].append(recipe.note)
    header = ["network", "documentation", "batch", "optimiser", "learning rate", "EMA", "quick sampler", "remarks"]
    return [
        "Batches are cut to the documented number of pixels a step at other sizes; a warm-up that would take more than "
        "a tenth of a run is cut to that.",
        "",
        *table(header, rows),
    ]


def picture(run: Path) -> None:
    """The sheets of all arms of the first seed, one below the other."""
    sheets = []
    for file in sorted(run.glob("*/seed_*/pairs.png")):
        figures = read_json(file.with_name(FIGURES_FILE))
        sheets.append((arm_names().index(figures["arm"]), figures["seed"], label_of(figures), file))
    first = min((seed for _, seed, _, _ in sheets), default=None)
    parts = []
    for _, _, label, file in sorted(s for s in sheets if s[1] == first):
        sheet = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert sheet is not None
        band = np.full((24, sheet.shape[1], 3), 255, np.uint8)
        cv2.putText(band, label, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        parts += [band, sheet]
    if parts:
        write_png(make_folder(RESULTS) / "benchmarks_pairs.png", np.vstack(parts))


def page(found: dict[str, Any], commands: list[str], data: str) -> str:
    """The Markdown page; remarks come from benchmarks_notes.md beside it."""
    notes = RESULTS / "benchmarks_notes.md"
    kind = "; ".join(f"{key} {value}" for key, value in found["machine"].items())
    sections = {
        "Training for the same time": train_lines(found) if found["arms"] else [],
        "Size, speed, memory": speed_lines(found["speed"]) if found["speed"] else [],
        "How the others are sized and trained": recipe_table(),
        "Remarks": [notes.read_text().strip()] if notes.exists() else [],
        "Commands": ["```", *commands, "```"],
    }
    text = [
        "# Our network beside those of other libraries",
        "",
        f"Machine: {kind}. Data: {data}. Ratios above 1 are in favour of ours. Written by `python benchmarks/peers.py "
        "table` from the JSON files of the run.",
    ]
    for title, body in sections.items():
        text += ["", f"## {title}", "", *body] if body else []
    return "\n".join(text) + "\n"


def write_tables(run: Path, commands: list[str], data: str) -> Path:
    """docs/results/benchmarks.md, .json and benchmarks_pairs.png."""
    found = collect(run) | {"machine": machine()}
    picture(run)
    write_json(make_folder(RESULTS) / "benchmarks.json", found)
    target = RESULTS / "benchmarks.md"
    write_bytes(target, page(found, commands, data).encode())
    return target
