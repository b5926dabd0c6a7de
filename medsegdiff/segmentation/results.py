"""What a segmentation run leaves behind: scores per image, their summary, a comparison with another run, pictures."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medsegdiff.data.records import PairRecord
from medsegdiff.errors import UserError
from medsegdiff.files import SCORES_FILE, read_json, require_folder, write_bytes
from medsegdiff.segmentation.scores import METRICS, bootstrap_interval, paired_difference

PER_IMAGE_FILE = "per_image.csv"
OVERLAYS_FILE = "overlays.png"
ALL = "all"  # the scope of all classes together
OVERLAY_COLUMNS = 4  # pictures each of the best, the middling and the worst


@dataclass(frozen=True)
class ImageScore:
    """The scores of one test image; `hd95` in native pixels (heights)."""

    id: str
    label: str
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd95: float


def content_digest(records: Iterable[PairRecord]) -> str:
    """SHA-256 of ids, classes, splits and content hashes, whatever the order of the records."""
    rows = sorted((r.id, r.label, r.split, r.image_hash, r.mask_hash) for r in records)
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def write_rows(path: Path, rows: Sequence[ImageScore]) -> None:
    """Write one CSV line a test image, atomically, with every digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(ImageScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_rows(path: Path) -> list[ImageScore]:
    """Read what `write_rows` wrote. Raises `UserError` where the file is missing or broken."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return [ImageScore(r["id"], r["label"], *(float(r[m]) for m in METRICS)) for r in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(path, found, "the scores per image of a finished run", "Train that run anew.") from error


def read_run(folder: Path) -> tuple[dict[str, Any], list[ImageScore]]:
    """scores.json and per_image.csv of a finished run. Raises `UserError` where the folder holds none."""
    require_folder(folder, f"{SCORES_FILE} of a finished segmentation run")
    if not (folder / SCORES_FILE).is_file():
        hint = "Finish that run first: the same command goes on where it stopped."
        raise UserError(folder, f"no {SCORES_FILE}", "the output folder of a finished segmentation run", hint)
    return read_json(folder / SCORES_FILE), read_rows(folder / PER_IMAGE_FILE)


def scopes(rows: Sequence[ImageScore]) -> dict[str, list[ImageScore]]:
    """The rows of all images, and of each class in alphabetical order."""
    labels = sorted({row.label for row in rows})
    return {ALL: list(rows)} | {label: [row for row in rows if row.label == label] for label in labels}


def summarise(rows: Sequence[ImageScore], resamples: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """{scope: {metric: {mean, low, high, n}}}: means over images with 95 % bootstrap intervals."""
    return {
        scope: {
            metric: dataclasses.asdict(bootstrap_interval([getattr(r, metric) for r in part], resamples, seed))
            for metric in METRICS
        }
        for scope, part in scopes(rows).items()
    }


def check_comparable(folder: Path, baseline: dict[str, Any], ids: Sequence[str], digest: str, img_size: int) -> None:
    """Raise `UserError` unless the run in `folder` was scored on the same test pairs at the same size."""
    where = f"--baseline {folder}"
    hint = "Compare runs on data sets that share their test split."
    strangers = sorted(set(ids) ^ set(baseline["test_ids"]))
    if strangers:
        found = f"other test images ({len(strangers)} are in one run only, e.g. {strangers[0]!r})"
        raise UserError(where, found, "the same test images", hint)
    if baseline["test_digest"] != digest:
        raise UserError(where, "test images of the same names with other content", "the same test images", hint)
    if baseline["img_size"] != img_size:
        found = f"scores at {baseline['img_size']} pixels"
        raise UserError(where, found, f"scores at {img_size} pixels", "Train both runs with the same --img_size.")


def compare(
    run: Sequence[ImageScore], baseline: Sequence[ImageScore], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{scope: {metric: {run, baseline, difference: {mean, low, high, n}}}}, paired by image id; run minus baseline."""
    before = scopes(baseline)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for scope, part in scopes(run).items():
        result[scope] = {}
        for metric in METRICS:
            new = {row.id: float(getattr(row, metric)) for row in part}
            old = {row.id: float(getattr(row, metric)) for row in before[scope]}
            result[scope][metric] = {
                "run": float(np.mean(list(new.values()))),
                "baseline": float(np.mean(list(old.values()))),
                "difference": dataclasses.asdict(paired_difference(new, old, resamples, seed)),
            }
    return result


def format_table(results: dict[str, Any]) -> str:
    """The returned results of `segment` as text: means with intervals, then the comparison where there is one."""
    lines = [
        f"val Dice {results['val_dice']:.3f} after step {results['best_step']} of {results['steps']} "
        f"({results['seconds']:.0f} s)",
        f"test, at {results['img_size']} x {results['img_size']} pixels (hd95 in native pixels), mean [95 % interval]",
        "",
        f"{'':<12}{'n':>5}  " + "".join(f"{metric:<23}" for metric in METRICS),
    ]
    for scope, metrics in results["test"].items():
        cells = "".join(f"{_cell(metric, metrics[metric]):<23}" for metric in METRICS)
        lines.append(f"{scope:<12}{metrics['dice']['n']:>5}  {cells}")
    if "comparison" in results:
        lines += ["", *_comparison_lines(results["comparison"])]
    return "\n".join(line.rstrip() for line in lines)


def _comparison_lines(comparison: dict[str, Any]) -> list[str]:
    lines = [
        f"against {comparison['baseline']}, paired by image",
        f"{'':<12}{'metric':<13}{'this run':>9}{'baseline':>10}  difference [95 % interval]",
    ]
    for scope, metrics in comparison["scopes"].items():
        for metric, cell in metrics.items():
            run, baseline = (f"{cell[key]:.{_digits(metric)}f}" for key in ("run", "baseline"))
            change = _cell(metric, cell["difference"], sign="+")
            lines.append(f"{scope:<12}{metric:<13}{run:>9}{baseline:>10}  {change}")
    return lines


def _digits(metric: str) -> int:
    return 1 if metric == "hd95" else 3


def _cell(metric: str, interval: dict[str, float], sign: str = "") -> str:
    mean, low, high = (f"{interval[key]:{sign}.{_digits(metric)}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def draw_overlays(
    path: Path,
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    rows: Sequence[ImageScore],
    pixels: Sequence[tuple[float, float]],
) -> None:
    """Draw the worst, middling and best test images with the true outline in green and the predicted one in red.

    `images` (N, S, S) uint8, `true` and `predicted` (N, S, S) bool, `pixels` (width, height) of a pixel of each.
    """
    order = np.argsort([row.dice for row in rows], kind="stable")
    count = min(OVERLAY_COLUMNS, len(order))
    middle = max(0, (len(order) - count) // 2)
    parts = {"best": order[::-1][:count], "median": order[middle : middle + count], "worst": order[:count]}
    figure = Figure(figsize=(3.2 * count, 9), layout="constrained")
    axes = figure.subplots(len(parts), count, squeeze=False)
    for line, (name, chosen) in zip(axes, parts.items(), strict=True):
        for cell, index in zip(line, chosen, strict=True):
            width, height = pixels[index]
            cell.imshow(images[index], cmap="gray", vmin=0, vmax=255, aspect=height / width)
            for mask, colour in ((true[index], "lime"), (predicted[index], "red")):
                if mask.any() and not mask.all():
                    cell.contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
            cell.set_title(f"{name}: {rows[index].id}\nDice {rows[index].dice:.3f}", fontsize=8)
            cell.set_axis_off()
    figure.suptitle("true outline green, predicted outline red", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
