"""Pictures and tables of samples for people: contact sheets with outlines, an overview, class balance as text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.records import SPLITS, SampleRecord, SampleSet, class_counts
from medsegdiff.engine.files import write_bytes

T = TypeVar("T")

OUTLINES = ((255, 200, 0), (0, 200, 255), (255, 90, 200), (120, 255, 90), (255, 90, 60))  # RGB, of mask classes in turn
TITLE_HEIGHT = 14  # pixels
COLOURS = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee")


def outlined(image: np.ndarray, mask: np.ndarray | None, size: int, spec: ArraySpec) -> np.ndarray:
    """(size, size, 3) RGB of a uint8 image, (H, W) or (H, W, 3), in its own proportions on black.

    The mask is outlined, each class in a colour of its own; a binary one may be soft, and is cut at half.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, shape, interpolation=how)
    if small.ndim == 2:
        small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    for number, layer in enumerate([] if mask is None else _layers(mask, spec)):
        inside = (cv2.resize(layer, shape, interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)
        outlines = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(small, outlines, -1, OUTLINES[number % len(OUTLINES)], 1)
    cell = np.zeros((size, size, 3), np.uint8)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    cell[top : top + shape[1], left : left + shape[0]] = small
    return cell


def _layers(mask: np.ndarray, spec: ArraySpec) -> list[np.ndarray]:
    """(H, W) masks in 0..255, one a class."""
    values = spec.mask_values or {}
    if spec.is_binary and values[spec.foreground[0]] == 255:
        return [mask]
    return [np.where(mask == values[name], 255, 0).astype(np.uint8) for name in spec.foreground]


def draw_outline(
    axes: Axes, mask: np.ndarray, colour: str | tuple[float, ...], width: float = 1.2, style: str = "solid"
) -> None:
    """Draw the outline of a (S, S) boolean mask, closed where the lesion reaches the edge of the picture."""
    if mask.any():
        around = np.arange(-1, len(mask) + 1)
        axes.contour(around, around, np.pad(mask, 1), levels=[0.5], colors=[colour], linewidths=width, linestyles=style)


def draw_classes(axes: Axes, index: np.ndarray, style: str = "solid", width: float = 1.2) -> None:
    """Draw the outlines of an (S, S) map of class numbers, 0 background, each class in the colour of `OUTLINES`."""
    for number in np.unique(index[index > 0]):
        colour = tuple(part / 255 for part in OUTLINES[(int(number) - 1) % len(OUTLINES)])
        draw_outline(axes, index == number, colour, width, style)


def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    cell: int = 128,
    spec: ArraySpec | None = None,
) -> np.ndarray:
    """(rows x cell, columns x cell, 3) uint8 RGB sheet of N uint8 images with their masks outlined.

    Pictures keep their proportions inside cells of `cell` pixels; a title stands above its picture.
    """
    if not len(images):
        raise ValueError("a contact sheet of no pictures")
    cells = []
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        picture = outlined(np.asarray(image), None if mask is None else np.asarray(mask), cell, spec or ArraySpec())
        if titles is not None:
            band = np.full((TITLE_HEIGHT, cell, 3), 40, np.uint8)
            cv2.putText(band, titles[index], (2, TITLE_HEIGHT - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1)
            picture = np.vstack([band, picture])
        cells.append(cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(40, 40, 40)))
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 40)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def balance_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Plain-text table of pairs per split and class, with the share of each class in its split.

    `counts`: {"train": {"benign": 301, ...}, ...}, as `class_counts` gives it.
    """
    splits = [s for s in SPLITS if s in counts] + [s for s in counts if s not in SPLITS]
    labels = list(dict.fromkeys(label for split in splits for label in counts[split]))
    rows = [["split", *labels, "all"]]
    totals = {label: sum(counts[split].get(label, 0) for split in splits) for label in labels}
    for name, row in [*((s, counts[s]) for s in splits), ("all", totals)]:
        whole = sum(row.values())
        cells = [f"{row.get(label, 0)} ({row.get(label, 0) / max(whole, 1):.0%})" for label in labels]
        rows.append([name, *cells, str(whole)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)


def spread(items: Sequence[T], number: int) -> list[T]:
    """Up to `number` of the items, evenly over all."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)]


def _examples(pairs: SampleSet, number: int) -> list[SampleRecord]:
    """About `number` pairs, the same number of each class, evenly over the ids."""
    chosen: list[SampleRecord] = []
    each = max(1, number // len(pairs.classes))
    for label in pairs.classes:
        records = pairs.select(label=label).records
        chosen += spread(records, each)
    return chosen


def _draw_counts(axes: Axes, pairs: SampleSet) -> None:
    """Bars: pairs per split, one colour a class, with numbers and shares."""
    counts = class_counts(pairs.records)
    splits = [s for s in SPLITS if s in counts]
    width = 0.8 / len(pairs.classes)
    for rank, label in enumerate(pairs.classes):
        heights = [counts[s].get(label, 0) for s in splits]
        texts = [f"{h}\n{h / sum(counts[s].values()):.0%}" for h, s in zip(heights, splits, strict=True)]
        places = np.arange(len(splits)) + (rank - (len(pairs.classes) - 1) / 2) * width
        bars = axes.bar(places, heights, width, label=label, color=COLOURS[rank % len(COLOURS)])
        axes.bar_label(bars, texts, fontsize=8)
    axes.set_xticks(range(len(splits)), splits)
    axes.set(title="pairs per split and class", ylabel="pairs")
    axes.margins(y=0.2)
    axes.legend(fontsize=8)


def overview(pairs: SampleSet, examples: int = 40, columns: int = 10) -> Figure:
    """A figure of a sample folder: class counts, picture sizes, share of the picture that is lesion, and examples."""
    figure = Figure(figsize=(14, 10.3), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 2.2))
    _draw_counts(figure.add_subplot(grid[0, 0]), pairs)
    sizes, areas = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[0, 2])
    for rank, label in enumerate(pairs.classes):
        chosen = pairs.select(label=label)
        colour = COLOURS[rank % len(COLOURS)]
        sizes.scatter(
            [r.width for r in chosen.records], [r.height for r in chosen.records], 8, colour, alpha=0.5, label=label
        )
        masks = (pairs.arrays.lesions(pairs.read_mask(r)) for r in chosen.records if r.mask_file_name)
        shares = [100 * float((mask > 0).mean()) for mask in masks]
        if any(shares):
            areas.hist(
                shares, bins=np.linspace(0, 100, 51).tolist(), histtype="step", color=colour, label=label, lw=1.5
            )
    sizes.set(title="picture size", xlabel="width, pixels", ylabel="height, pixels")
    what = "lesion area" if pairs.arrays.is_binary else "area of all mask classes"
    areas.set(title=what, xlabel="share of the picture, %", ylabel="pairs")
    for axes in (sizes, areas):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    records = _examples(pairs, examples)
    sheet = contact_sheet(
        [pairs.read_image(r) for r in records],
        [pairs.read_mask(r) if r.mask_file_name else None for r in records],
        [f"{r.id} {r.split}" for r in records],
        columns,
        spec=pairs.arrays,
    )
    axes = figure.add_subplot(grid[1, :])
    axes.imshow(sheet, interpolation="lanczos")
    axes.set_axis_off()
    axes.set_title("examples, masks outlined")
    return figure


def write_overview(path: Path, pairs: SampleSet) -> None:
    """Write `overview(pairs)` as PNG; the same pairs give the same bytes."""
    buffer = io.BytesIO()
    overview(pairs).savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
