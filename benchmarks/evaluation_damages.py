"""Does `medsegdiff evaluate` see what is wrong with a set of pairs? Real pairs, damaged in one known way at a time.

    python benchmarks/evaluation_damages.py --real_data samples --run_dir runs/damages

The test split of a real sample folder plays a perfect generator; the train split is what it "learnt", val is held out.
Every damage makes a set of its own from it, which `medsegdiff evaluate` looks at. Writes
docs/results/evaluation_damages.md and .json. `--table_only` writes the tables of finished runs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from einops import rearrange
from tqdm import tqdm

from medsegdiff.data.dataset import resize_anisotropic
from medsegdiff.data.records import SampleSet, read_samples, write_sample, write_samples
from medsegdiff.engine.files import DATASET_FILE, REPORT_FILE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
SIZE = 128
SEED = 0


@dataclass
class Item:
    """A pair at SIZE x SIZE that a damage may change."""

    image: np.ndarray  # (SIZE, SIZE) uint8
    mask: np.ndarray  # (SIZE, SIZE) uint8, 0 or 255
    label: str
    aspect: float  # pixel width / pixel height
    height: int  # of the native picture, pixels


Damage = Callable[[list[Item], list[Item], np.random.Generator], list[Item]]  # items, train items, chance


def change(what: Callable[[Item, np.random.Generator], Item]) -> Damage:
    """The same change of every pair."""
    return lambda items, train, random: [what(item, random) for item in items]


def blur(item: Item, random: np.random.Generator) -> Item:
    return replace(item, image=cv2.GaussianBlur(item.image, (0, 0), 1.2))


def noise(item: Item, random: np.random.Generator) -> Item:
    return noise_of(item, random, 20)


def half_size(item: Item, random: np.random.Generator) -> Item:
    small = cv2.resize(item.image, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
    return replace(item, image=cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


def gamma(item: Item, random: np.random.Generator) -> Item:
    return replace(item, image=(255 * (item.image / 255) ** 0.6).round().astype(np.uint8))


def jpeg(item: Item, random: np.random.Generator) -> Item:
    _, data = cv2.imencode(".jpg", item.image, [cv2.IMWRITE_JPEG_QUALITY, 15])
    return replace(item, image=cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def tiles(item: Item, random: np.random.Generator) -> Item:
    """Squares of 32 pixels in another order, image and mask alike: texture stays, anatomy goes."""
    order = random.permutation((SIZE // 32) ** 2)

    def shuffled(picture: np.ndarray) -> np.ndarray:
        squares = rearrange(picture, "(y h) (x w) -> (y x) h w", h=32, w=32)[order]
        return rearrange(squares, "(y x) h w -> (y h) (x w)", x=SIZE // 32)

    return replace(item, image=shuffled(item.image), mask=shuffled(item.mask))


def one_format(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
    """Pictures of one screen format alone, the nearest that BUSI says of the machine."""
    return [item for item in items if 460 <= item.height <= 500]


def shrink(item: Item, random: np.random.Generator) -> Item:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
    smaller = cv2.erode(item.mask, kernel, borderValue=0)
    return replace(item, mask=smaller if smaller.any() else item.mask)


def swap_masks(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
    """Every mask goes to another picture of its class."""
    result = list(items)
    for label in {item.label for item in items}:
        rows = [i for i, item in enumerate(items) if item.label == label]
        for here, there in zip(rows, np.roll(rows, 1), strict=True):
            result[here] = replace(items[here], mask=items[there].mask)
    return result


def shuffle_labels(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
    labels = random.permutation([item.label for item in items])
    return [replace(i, label=str(label)) for i, label in zip(items, labels, strict=True)]


def drop_class(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
    return [item for item in items if item.label != "malignant"]


def collapse(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
    """One picture of each class, again and again, with a little noise."""
    first = {label: next(i for i in items if i.label == label) for label in {i.label for i in items}}
    return [noise_of(first[item.label], random, 2) for item in items]


def noise_of(item: Item, random: np.random.Generator, sd: float) -> Item:
    noisy = item.image + random.normal(0, sd, item.image.shape)
    return replace(item, image=noisy.clip(0, 255).astype(np.uint8))


def plant(share: float) -> Damage:
    """A share of the pairs are train pairs, mirrored, brighter and noisy."""

    def planted(items: list[Item], train: list[Item], random: np.random.Generator) -> list[Item]:
        result = list(items)
        rows = random.permutation(len(items))[: round(share * len(items))]
        for row, source in zip(rows, random.permutation(len(train)), strict=False):
            copy = train[source]
            bright = (copy.image[:, ::-1] * 1.15 + 10).clip(0, 255).astype(np.uint8)
            result[row] = noise_of(replace(copy, image=bright, mask=copy.mask[:, ::-1].copy()), random, 5)
        return result

    return planted


DAMAGES: dict[str, tuple[str, Damage]] = {  # name -> (title, damage)
    "none": ("none: other real pictures", lambda items, train, random: items),
    "labels": ("labels shuffled", shuffle_labels),
    "blur": ("images blurred (1.2 px)", change(blur)),
    "half": ("images shrunk to 64 px and back", change(half_size)),
    "noise": ("images noisy (SD 20)", change(noise)),
    "gamma": ("grey curve, gamma 0.6", change(gamma)),
    "jpeg": ("JPEG of quality 15", change(jpeg)),
    "tiles": ("squares of 32 px shuffled", change(tiles)),
    "format": ("one screen format only", one_format),
    "masks": ("masks of other pictures", swap_masks),
    "shrunk": ("masks 5 px smaller on every side", change(shrink)),
    "class": ("malignant dropped", drop_class),
    "collapse": ("one picture of each class repeated", collapse),
    "copies_10": ("10 % altered copies of train pairs", plant(0.1)),
    "copies_30": ("30 % altered copies of train pairs", plant(0.3)),
    "copies_100": ("altered copies of train pairs only", plant(1.0)),
}


def items_of(pairs: SampleSet, split: str) -> list[Item]:
    """The pairs of a split at SIZE x SIZE."""
    found = []
    for r in tqdm(pairs.select(split).records, f"reading {split}", unit="pair", leave=False):
        image, mask = resize_anisotropic(pairs.read_image(r), SIZE), resize_anisotropic(pairs.read_mask(r), SIZE)
        aspect = r.pixel_aspect * r.width / r.height
        found.append(Item(image, np.where(mask >= 128, 255, 0).astype(np.uint8), r.label, aspect, r.height))
    return found


def make_set(name: str, real: SampleSet, folder: Path) -> None:
    """Write the damaged set as samples."""
    if (folder / DATASET_FILE).exists():
        return
    random = np.random.default_rng([SEED, list(DAMAGES).index(name)])
    items = DAMAGES[name][1](items_of(real, "test"), items_of(real, "train"), random)
    records = [
        write_sample(
            folder, i.image, i.mask, id=f"{i.label}_{n:04d}", label=i.label, split="train", group=f"d{n}",
            source="damage", generator="damage", pixel_aspect=i.aspect,
        )
        for n, i in enumerate(items)
    ]  # fmt: skip
    write_samples(folder, records, classes=real.classes, fingerprint={"damage": name})


def evaluate(args: argparse.Namespace, name: str) -> None:
    """Evaluate the damaged set, unless that is done."""
    output = Path(args.run_dir) / f"report_{name}"
    if (output / REPORT_FILE).exists():
        return
    line = [sys.executable, "-m", "medsegdiff", "evaluate", "--real_data", args.real_data, "--held_out", "val"]
    line += ["--synthetic_data", str(Path(args.run_dir) / name), "--output_dir", str(output)]
    line += ["--bootstrap", str(args.bootstrap)]
    if args.reference_models_dir is not None:
        line += ["--reference_models_dir", args.reference_models_dir]
    print("$", " ".join(line), flush=True)
    subprocess.run(line, cwd=ROOT, check=True)


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    title: str
    path: str  # below "metrics" of report.json, with a slash between keys, to {"value": ..., "low": ..., "high": ...}
    baseline: str | None  # where its baseline stands
    moved: str  # damages that have to move it, by name


DIFFERENCE = "lesions/class_difference/malignant - benign"
COLUMNS = (
    Column("Fréchet radiomics distance", "distances/spaces/radiomics/all/frechet/synthetic",
           "distances/spaces/radiomics/all/frechet/baseline", "blur half noise gamma jpeg collapse"),
    Column("Fréchet distance, perceptual", "distances/spaces/perceptual/all/frechet/synthetic",
           "distances/spaces/perceptual/all/frechet/baseline", "blur half noise tiles jpeg format collapse"),
    Column("recall, perceptual", "distances/spaces/perceptual/all/recall/synthetic",
           "distances/spaces/perceptual/all/recall/baseline", "blur half tiles collapse"),
    Column("coverage, perceptual", "distances/spaces/perceptual/all/coverage/synthetic",
           "distances/spaces/perceptual/all/coverage/baseline", "blur half tiles collapse"),
    Column("Fréchet distance, segmenter features", "distances/spaces/encoder/all/frechet/synthetic",
           "distances/spaces/encoder/all/frechet/baseline", "collapse"),
    Column("recall, radiomics", "distances/spaces/radiomics/all/recall/synthetic",
           "distances/spaces/radiomics/all/recall/baseline", "collapse"),
    Column("coverage, radiomics", "distances/spaces/radiomics/all/coverage/synthetic",
           "distances/spaces/radiomics/all/coverage/baseline", "blur noise collapse"),
    Column("MS-SSIM, benign", "diversity/benign/synthetic", "diversity/benign/held_out", "collapse"),
    Column("finest third of frequencies, dB", "speckle/fine_db/synthetic", "speckle/fine_db/held_out", "blur noise"),
    Column("margin irregularity, malignant - benign", f"{DIFFERENCE}/irregularity/synthetic",
           f"{DIFFERENCE}/irregularity/real", "labels collapse"),
    Column("agreement, Dice", "agreement/masks/all/synthetic", "agreement/masks/all/held_out", "masks shrunk"),
    Column("classes predicted, AUC", "agreement/classes/synthetic/AUC", "agreement/classes/held_out/AUC", "labels"),
    Column("nearest to train, embedding", "privacy/embedding/nearest_to_train", "privacy/embedding/baseline", ""),
    Column("beyond the limit, embedding", "privacy/embedding/beyond_95", None, "copies_30 copies_100"),
    Column("beyond the limit, detail", "privacy/fine_detail/beyond_95", None, "copies_30 copies_100"),
)  # fmt: skip


def find(report: dict[str, Any], path: str | None) -> dict[str, float] | None:
    """What stands at a path below "metrics", None where nothing does."""
    found: Any = report["metrics"]
    for key in path.split("/") if path else ["?"]:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def cell(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def apart(value: dict[str, float] | None, other: dict[str, float] | None) -> bool:
    """Whether two intervals have nothing in common."""
    return value is not None and other is not None and (value["low"] > other["high"] or value["high"] < other["low"])


def verdict(report: dict[str, Any], metric: str) -> str:
    """The outcome of one metric's verdict."""
    return next((line["outcome"] for line in report["verdicts"] if line["metric"] == metric), "-")


def write_tables(reports: dict[str, dict[str, Any]]) -> Path:
    """docs/results/evaluation_damages.md and .json; remarks come from evaluation_damages_notes.md beside them."""
    sound = reports["none"]
    lines = [
        "# What `medsegdiff evaluate` sees of known damages",
        "",
        "Real BUSI: the test split plays a perfect generator, train is what it learnt, val is held out. Each row "
        "damages it in one way. Bold: the interval has nothing in common with that of the undamaged set; (x): it was "
        "expected to move, and did not by that measure. Written by `python benchmarks/evaluation_damages.py`.",
        "",
        "| damage | " + " | ".join(c.title for c in COLUMNS) + " | distances | agreement | privacy |",
        "|---|" + "---|" * (len(COLUMNS) + 3),
        "| baseline (val) | " + " | ".join(cell(find(sound, c.baseline)) for c in COLUMNS) + " | | | |",
    ]
    for name, report in reports.items():
        cells = []
        for column in COLUMNS:
            value = find(report, column.path)
            text = cell(value)
            if name != "none" and apart(value, find(sound, column.path)):
                text = f"**{text}**"
            elif name in column.moved.split():
                text += " (x)"
            cells.append(text)
        outcomes = [verdict(report, metric) for metric in ("distances", "agreement", "privacy")]
        lines.append(f"| {DAMAGES[name][0]} | " + " | ".join(cells + outcomes) + " |")
    notes = RESULTS / "evaluation_damages_notes.md"
    if notes.exists():
        lines += ["", "## Remarks", "", notes.read_text().strip()]
    kept = {name: {"verdicts": r["verdicts"], "metrics": r["metrics"]} for name, r in reports.items()}
    (RESULTS / "evaluation_damages.json").write_text(json.dumps(kept) + "\n")
    target = RESULTS / "evaluation_damages.md"
    target.write_text("\n".join(lines) + "\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real_data", default="data/busi_prepared", help="sample folder of the real data")
    parser.add_argument("--run_dir", default="runs/damages", help="folder for everything that the run makes")
    parser.add_argument(
        "--reference_models_dir", help="where reference models are kept; default: the user's cache folder"
    )
    parser.add_argument("--bootstrap", type=int, default=200, help="resamples of the intervals")
    parser.add_argument("--damages", nargs="+", choices=list(DAMAGES), default=list(DAMAGES))
    parser.add_argument("--table_only", action="store_true", help="only write the tables of finished runs")
    args = parser.parse_args()
    if not args.table_only:
        real = read_samples(Path(args.real_data))
        for name in args.damages:
            make_set(name, real, Path(args.run_dir) / name)
            evaluate(args, name)
    reports: dict[str, Any] = {}
    for name in DAMAGES:
        path = Path(args.run_dir) / f"report_{name}" / REPORT_FILE
        if path.exists():
            reports[name] = json.loads(path.read_text())
    print(write_tables(reports))


if __name__ == "__main__":
    main()
