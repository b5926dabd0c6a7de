"""What a first look at a data set should show: lesion shape by class, real beside synthetic, and a copying test."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medsegdiff.data.records import SPLITS, SampleSet, read_samples
from medsegdiff.engine.files import make_folder, write_json
from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import require, require_positive
from medsegdiff.evaluation.privacy.copying import copying_of
from medsegdiff.features.lesion_shape import lesion_shape
from medsegdiff.statistics.bootstrap import mean_interval
from medsegdiff.statistics.comparisons import Sample, difference_of_means
from medsegdiff.statistics.interval import Interval

logger = logging.getLogger(__name__)

SHAPE = ("depth_to_width", "irregularity", "area")
DESCRIPTION_FILE = "description.json"
MASK_HEIGHT = 128  # rows at which every mask is described, so that margins of any resolution compare


@dataclass(frozen=True)
class DescribeConfig:
    """Subcommand describe: lesion shape by class, real beside synthetic, and a copying test."""

    real_data: str  # sample folder of real pairs
    synthetic_data: str | None = None  # sample folder of synthetic pairs to compare with
    output_dir: str = "./description"  # folder for description.json
    split: str = "train"  # split of the real pairs that is described
    bootstrap: int = 2000  # resamples of the intervals
    seed: int = 0  # of the resamples

    def __post_init__(self) -> None:
        expand_home(self)
        require_positive(bootstrap=self.bootstrap)
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        require(self.split in SPLITS, "--split", repr(self.split), f"one of {', '.join(SPLITS)}")


def describe(config: DescribeConfig) -> dict[str, Any]:
    """Mean shape of the lesions of each class and its difference between classes, in description.json and the log.

    With synthetic data also the copying test of `evaluation.privacy.copying` against all real splits, whose interval is
    over both sides.

    Other intervals are percentile bootstraps (95 %) over groups of real pictures (near-duplicates count as one) and
    over synthetic pairs. Raises `UserError` for a folder that is no sample folder or has fewer than two classes.
    """
    real = read_samples(Path(config.real_data))
    generated = sum(record.is_synthetic for record in real.records)
    require(
        not generated,
        config.real_data,
        f"{generated} synthetic pairs",
        "real pairs alone",
        "They go to --synthetic_data.",
    )
    sets = {"real": real.select(config.split)}
    if config.synthetic_data is not None:
        synthetic = read_samples(Path(config.synthetic_data))
        sets["synthetic"] = synthetic.synthetic_only()
        if others := len(synthetic) - len(sets["synthetic"]):
            logger.info("%d real pairs of %s are left out", others, synthetic.root)
    result: dict[str, Any] = {"split": config.split, "bootstrap": config.bootstrap, "seed": config.seed}
    for name, pairs in sets.items():
        result[name] = describe_pairs(pairs, config.bootstrap, config.seed)
    logger.info("%s", shape_table(result))
    if "synthetic" in sets:
        result["copying"] = copying_of(sets["synthetic"], real, bootstrap=config.bootstrap, seed=config.seed)
        logger.info("%s", copying_line(result["copying"]))
    write_json(make_folder(Path(config.output_dir)) / DESCRIPTION_FILE, result)
    return result


def describe_pairs(pairs: SampleSet, bootstrap: int, seed: int) -> dict[str, Any]:
    """{descriptor: {class: {value, low, high}, "difference": {...}}} of one set, and its counts."""
    hint = "Use other data: this is not for label maps."
    require(pairs.arrays.is_binary, str(pairs.root), str(pairs.arrays), "binary masks, of lesions", hint)
    values: dict[str, dict[str, list[tuple[str, float]]]] = {s: {c: [] for c in pairs.classes} for s in SHAPE}
    for record in pairs.records:
        mask = pairs.arrays.lesions(pairs.read_mask(record))
        side = (max(8, round(MASK_HEIGHT * mask.shape[1] / mask.shape[0])), MASK_HEIGHT)
        small = cv2.resize(mask, side, interpolation=cv2.INTER_AREA) > 127
        shape = lesion_shape(small.astype(np.uint8), record.pixel_aspect)
        for name in SHAPE:
            if shape["area"] > 0 and not math.isnan(shape[name]):  # a lesion of a few pixels has an area and no shape
                values[name][record.label].append((record.group, shape[name]))
    classes = [c for c in pairs.classes if all(values[name][c] for name in SHAPE)]
    found = f"lesions of {', '.join(classes) or 'no class'}"
    require(len(classes) >= 2, str(pairs.root), found, "lesions of two classes", "Use other data, or another --split.")
    first, last = classes[0], classes[-1]
    result: dict[str, Any] = {"pairs": {c: len(values["area"][c]) for c in classes}}
    for name in SHAPE:
        columns = {c: zip(*values[name][c], strict=True) for c in classes}
        samples = {c: Sample(np.array(found), np.array(groups)) for c, (groups, found) in columns.items()}
        result[name] = {c: _rounded(mean_interval(s.features, s.groups, bootstrap, seed)) for c, s in samples.items()}
        difference = difference_of_means(samples[last], samples[first], bootstrap, seed)
        result[name]["difference"] = {"classes": f"{last} - {first}", **_rounded(difference)}
    return result


def _rounded(found: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.to_json().items()}


def shape_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    sets = [name for name in ("real", "synthetic") if name in result]
    lines = ["| descriptor | pairs | " + " | ".join(sets) + " |", "|---|---|" + "---|" * len(sets)]
    for name in SHAPE:
        for column in result[sets[0]][name]:
            cells = []
            for kind in sets:
                cell = result[kind][name].get(column)
                cells.append("-" if cell is None else f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]")
            what = result[sets[0]][name][column].get("classes", column)
            lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def copying_line(copying: dict[str, Any]) -> str:
    """The copying test in one line."""
    share = copying["nearest_to_train"]
    return (
        f"copying test: {copying['verdict']}; nearest real picture is a train picture for {share['value']:.3f} "
        f"[{share['low']:.3f}, {share['high']:.3f}] of {copying['synthetic']} synthetic ones (no copying: 0.5, "
        f"{copying['compared']} train against {copying['compared']} held-out); {copying['beyond_held_out']:.3f} are "
        f"more like a train picture than 95 % of the held-out ones (expected: 0.05); {copying['copies']} show the "
        "scene of a train picture"
    )
