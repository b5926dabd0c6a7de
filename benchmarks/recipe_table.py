"""The tables of benchmarks/recipe.py, from the figures of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = {  # figure -> title, digits; the smaller the better but for agreement (and one lesion, not none)
    "val_loss": ("val loss", 3),
    "val_image": ("of images", 3),
    "val_mask": ("of masks", 3),
    "frechet": ("Fréchet radiomics", 1),
    "agreement": ("agreement, Dice", 3),
    "lesions": ("lesions a picture", 2),
    "specks": ("masks with specks", 2),
}
HEAD = {
    "recipe": "# Recipe: one change at a time\n\n",
    "ablation": "# Ablation: parts of MedSegDiff-V2 left out\n\n",
}


def table(found: list[Row], names: list[str], base: str) -> str:
    """One row an arm: every seed's figure, and of the losses what it is beside the base's."""
    by_arm = {name: sorted((r for r in found if r["arm"] == name), key=lambda r: r["seed"]) for name in [base, *names]}
    if not by_arm[base]:
        raise SystemExit(f"error: no finished run of the arm {base!r}, beside which the others stand; run it too")
    plain = {row["seed"]: row["val_loss"] for row in by_arm[base]}
    lines = [
        "| arm | parameters, M | steps' cost | passes | seconds | "
        + " | ".join(t for t, _ in COLUMNS.values())
        + " | val loss / base |"
    ]
    lines.append("|---" * (len(COLUMNS) + 6) + "|")
    for name, rows in by_arm.items():
        if not rows:
            continue
        first = rows[0]
        cells = [name, f"{first['parameters'] / 1e6:.1f}", f"{first['cost']:.2f}", str(first["epochs"])]
        cells.append(", ".join(f"{row['seconds']:.0f}" for row in rows))
        for key, (_, digits) in COLUMNS.items():
            cells.append(", ".join(f"{r[key]:.{digits}f}" if key in r else "not sampled" for r in rows))
        ratios = [f"{r['val_loss'] / plain[r['seed']]:.3f}" for r in rows if r["seed"] in plain]
        lines.append("| " + " | ".join([*cells, ", ".join(ratios)]) + " |")
    return "\n".join(lines) + "\n"


def averages_table(found: list[Row], base: str) -> str:
    """The base's loss on val by the length of the average of its weights, one training for all lengths."""
    rows = sorted((r for r in found if r["arm"] == base and r.get("averages")), key=lambda r: r["seed"])
    lengths = list(dict.fromkeys(length for row in rows for length in row["averages"]))
    lines = ["| length of the average, share of the training | val loss |", "|---|---|"]
    for length in lengths:
        losses = ", ".join(f"{row['averages'][length]:.4f}" for row in rows if length in row["averages"])
        lines.append(f"| {length} | {losses} |")
    return "\n".join(lines) + "\n" if rows else ""


def write_tables(
    folder: Path, found: list[Row], questions: dict[str, Any], ablation: list[str], bases: tuple[str, str]
) -> None:
    """recipe.md, ablation.md and the figures as JSON; words about them stand in *_notes.md beside them.

    `bases`: the arms that the others stand beside, those of the questions and those of the ablation.
    """
    (folder / "recipe.json").write_text(json.dumps(found, indent=2) + "\n")
    parts = []
    for question, arms in questions.items():
        names = [f"{question}: {arm}" for arm in arms]
        if any(row["arm"] in names for row in found):
            parts.append(f"## {question[0].upper()}{question[1:]}\n\n{table(found, names, bases[0])}")
    if averages := averages_table(found, bases[0]):
        parts.append(f"## Length of the average, chosen after training\n\n{averages}")
    tables = {"recipe": "\n".join(parts)} if parts else {}
    if any(row["arm"] in ablation for row in found):
        tables["ablation"] = table(found, ablation, bases[1])
    for name, text in tables.items():
        notes = folder / f"{name}_notes.md"
        words = notes.read_text() + "\n" if notes.is_file() else ""
        (folder / f"{name}.md").write_text(HEAD[name] + words + text)
