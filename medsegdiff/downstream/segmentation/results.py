"""What a segmentation run leaves behind: scores per image, the parts that they are of, pictures."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.pictures import draw_classes, draw_outline
from medsegdiff.downstream.segmentation.scores import METRICS, score_image
from medsegdiff.downstream.summary import label_subgroups
from medsegdiff.engine.files import write_bytes
from medsegdiff.statistics.runs import Measure, mean_of

OVERLAY_COLUMNS = 4  # pictures each of the best, the middling and the worst
# Lesions that cover a smaller share of the picture are "small". A round number near the median of BUSI (0.056 of 633
# pairs), fixed so that it means the same on every set. It is no physical size: BUSI says no millimetres.
SMALL_AREA = 0.05
MEASURES: dict[str, Measure] = {metric: mean_of(metric) for metric in METRICS}


@dataclass(frozen=True)
class ImageScore:
    """The scores of one test image; `hd95` in native pixels (heights)."""

    id: str
    group: str  # cluster of near-duplicates or patient (`SampleRecord.group`)
    label: str  # class, or "" where it is not known
    area: float  # share of the picture that the true lesion covers, or all classes of a label map
    dice: float  # of label maps these are means over the classes
    iou: float
    sensitivity: float
    precision: float
    hd95: float


def class_columns(spec: ArraySpec) -> list[str]:
    """The columns of Dice of each class of a label map; of a binary mask there is none beside `dice`."""
    names = [] if spec.is_binary else [re.sub(r"\W", "_", name) for name in spec.foreground]
    return [f"dice_{name}" if names.count(name) == 1 else f"dice_{k}_{name}" for k, name in enumerate(names, start=1)]


def row_type(spec: ArraySpec) -> type[Any]:
    """`ImageScore`, for label maps with the `class_columns`."""
    columns = [(name, float) for name in class_columns(spec)]
    if spec.is_binary:
        return ImageScore
    return dataclasses.make_dataclass("LabelMapScore", columns, bases=(ImageScore,), frozen=True)


def measures(spec: ArraySpec) -> dict[str, Measure]:
    """The scores that are summed up."""
    return MEASURES | {name: mean_of(name) for name in class_columns(spec)}


def score_classes(found: np.ndarray, true: np.ndarray, pixel: tuple[float, float], spec: ArraySpec) -> dict[str, float]:
    """All `METRICS` of one (H, W) mask as `predict_masks` gives it, means over the classes, and `class_columns`."""
    scores = [score_image(found == k, true == k, pixel) for k in range(1, 1 + len(spec.foreground))]
    means = {metric: float(np.mean([score[metric] for score in scores])) for metric in METRICS}
    return means | {name: score["dice"] for name, score in zip(class_columns(spec), scores, strict=False)}


def subgroups(rows: Sequence[ImageScore]) -> dict[str, np.ndarray]:
    """Indices of all images, of each class, and of small and large lesions (`SMALL_AREA`), without empty parts.

    An image without a lesion is neither small nor large.
    """
    area = np.array([row.area for row in rows])
    sizes = {"small": (area > 0) & (area < SMALL_AREA), "large": area >= SMALL_AREA}
    found = label_subgroups([row.label for row in rows])
    return found | {name: np.flatnonzero(part) for name, part in sizes.items() if part.any()}


def label_map_subgroups(rows: Sequence[ImageScore]) -> dict[str, np.ndarray]:
    """Indices of all images and of each class of images."""
    return label_subgroups([row.label for row in rows])


def draw_overlays(
    path: Path,
    images: Sequence[np.ndarray],
    true: np.ndarray,
    predicted: np.ndarray,
    rows: Sequence[ImageScore],
    pixels: Sequence[tuple[float, float]],
) -> None:
    """Draw the worst, middling and best test images with the true outline in green and the predicted one in red.

    Of label maps each class has its colour, and the predicted outline is dotted. `images` N of (S, S) or (S, S, 3)
    uint8, `true` and `predicted` (N, S, S) as `predict_masks` gives them, `pixels` (width, height) of a pixel of each.
    """
    binary = true.dtype == bool
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
            if binary:
                draw_outline(cell, true[index], "lime")
                draw_outline(cell, predicted[index], "red")
            else:
                draw_classes(cell, true[index])
                draw_classes(cell, predicted[index], "dotted")
            cell.set_title(f"{name}: {rows[index].id}\nDice {rows[index].dice:.3f}", fontsize=8)
            cell.set_axis_off()
    how = "true outline green, predicted outline red" if binary else "true outlines solid, predicted ones dotted"
    figure.suptitle(how, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
