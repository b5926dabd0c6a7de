"""Lesions put into pictures and taken out: is there a seam, and does a segmenter of real pairs see them?

    python benchmarks/inpainting.py --checkpoint busi-128 --healthy busi/normal --segmenter segmentation_real \\
        --real_data data/busi_processed --run_dir runs/inpainting

Three measures, each beside its own baseline:

    seam    a classifier sees nothing but a ring across the edge of what was changed, of the inpainted picture or of the
            picture as it was; area under its ROC curve on other pictures (0.5: no seam)
    found   Dice of the segmenter and the mask that was put in, beside its Dice on real val pictures

    removed the share of a lesion's pixels that the segmenter marks, in real val pictures and after removal

Writes inpainting.json, pictures.png and removed.png (as it was, changed, difference) in --run_dir.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from torch import nn

import medsegdiff
from medsegdiff.data.arrays import resize_anisotropic
from medsegdiff.data.pictures import contact_sheet
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.files import make_folder, write_json, write_png
from medsegdiff.features.perceptual.efficientnet import packaged_weights, perceptual_features
from medsegdiff.generators.joint_diffusion.inpainting import region_around
from medsegdiff.statistics.bootstrap import mean_interval, statistic_interval
from medsegdiff.statistics.roc import rank_auc
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.inputs import read_inputs
from medsegdiff.synthesis.run import generate

WIDTH, FOLDS, STEPS, SHOWN, RESAMPLES = 4, 5, 300, 12, 1000  # ring: pixels on either side of the edge


def rings(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N, S, S) images of which nothing is left but a ring of `WIDTH` pixels on either side of the regions' edges."""
    grown = [binary_dilation(r, iterations=WIDTH) & ~binary_erosion(r, iterations=WIDTH) for r in regions]
    return np.where(np.stack(grown), images, 0)


def small_network() -> nn.Module:
    """A few convolutions, as a seam is a local thing."""
    layers: list[nn.Module] = []
    for before, after in ((2, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(48, 1))


def by_network(shown: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Logits of the test rows of a small network that learnt the train rows."""
    torch.manual_seed(seed)
    x = torch.from_numpy(shown).float()[:, None] / 255
    x, y = torch.cat([x - 0.3, (x > 0).float()], dim=1), torch.from_numpy(labels).float()
    network, rows = small_network(), torch.from_numpy(train)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(STEPS):
        some = rows[torch.randint(len(rows), (32,))]
        seen = x[some] if torch.rand(()) < 0.5 else x[some].flip(3)
        loss = nn.functional.binary_cross_entropy_with_logits(network(seen)[:, 0], y[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found: np.ndarray = network.eval()(x[torch.from_numpy(test)])[:, 0].numpy()
    return found


def by_features(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Scores of the test rows by logistic regression on features made for photographs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(
        features[train], labels[train]
    )
    scores: np.ndarray = model.decision_function(features[test])
    return scores


def seam(
    images: np.ndarray, before: np.ndarray, regions: np.ndarray, sources: np.ndarray, seed: int
) -> dict[str, object]:
    """Area under the curve of both classifiers, over folds of source pictures, with intervals over these."""
    shown = np.concatenate([rings(images, regions), rings(before, regions)])
    labels, sources = np.repeat([1, 0], len(images)), np.concatenate([sources, sources])
    names = np.random.default_rng(seed).permutation(np.unique(sources))
    fold = {name: number % FOLDS for number, name in enumerate(names)}
    folds = np.array([fold[source] for source in sources])
    weights = packaged_weights()
    features = None if weights is None else perceptual_features(shown, weights, torch.device("cpu"))
    scores = {"network": np.zeros(len(labels))} | ({} if features is None else {"features": np.zeros(len(labels))})
    for number in range(FOLDS):
        train, test = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        scores["network"][test] = by_network(shown, labels, train, test, seed)
        if features is not None:
            scores["features"][test] = by_features(features, labels, train, test)

    def area(rows: np.ndarray, values: np.ndarray) -> float:
        return float(np.mean([_area(values, labels, rows[folds[rows] == n]) for n in range(FOLDS)]))

    found = {name: lambda rows, v=values: area(rows, v) for name, values in scores.items()}
    return {name: statistic_interval(f, sources, RESAMPLES, seed).to_json() for name, f in found.items()}


def _area(values: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    return rank_auc(values[rows], labels[rows] == 1)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def agreement(pairs: SampleSet, segmenter: medsegdiff.Segmenter, seed: int) -> dict[str, object]:
    """Mean Dice of a segmenter and the masks of pairs, with its interval over groups."""
    values = [dice(segmenter.predict(pairs.read_image(r)).mask > 0, pairs.read_mask(r) > 0) for r in pairs.records]
    return mean_interval(np.array(values), np.array([r.group for r in pairs.records]), RESAMPLES, seed).to_json()


def marked(pairs: SampleSet, masks: list[np.ndarray], segmenter: medsegdiff.Segmenter, seed: int) -> dict[str, object]:
    """Mean share of each of `masks` that a segmenter marks, with its interval over groups."""
    found = [segmenter.predict(pairs.read_image(r)).mask > 0 for r in pairs.records]
    values = [float(one[mask].mean()) for one, mask in zip(found, masks, strict=True)]
    return mean_interval(np.array(values), np.array([r.group for r in pairs.records]), RESAMPLES, seed).to_json()


def removal(
    given: argparse.Namespace, run: Path, segmenter: medsegdiff.Segmenter, real: SampleSet
) -> dict[str, object]:
    """What a segmenter marks of lesions of real val pictures, before and after they are taken out."""
    config = GenerateConfig(
        given.checkpoint, str(run / "removed"), mode="remove", images=given.real_data, split="val", seed=given.seed
    )
    pairs = generate(config)
    assert isinstance(pairs, SampleSet)
    by_id, side = {r.id: r for r in real.records}, pairs.records[0].width
    sources = dataclasses.replace(real, records=tuple(by_id[r.derived_from] for r in pairs.records))
    small = [real.arrays.coverage(real.read_mask(r), side)[0] > 127 for r in sources.records]
    native = [real.read_mask(r) > 0 for r in sources.records]
    images = [pairs.read_image(r) for r in pairs.records]
    before = [resize_anisotropic(real.read_image(r), side) for r in sources.records]
    write_png(run / "removed.png", sheet(before, images, small, [r.label for r in sources.records], pairs))
    return {
        "pictures": len(pairs),
        "marked before": marked(sources, native, segmenter, given.seed),
        "marked after": marked(pairs, small, segmenter, given.seed),
    }


def sheet(
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    labels: list[str],
    of: SampleSet,
) -> np.ndarray:
    """Some pictures as they were, changed, with the lesion's outline, and the difference."""
    shown, outlines, titles = [], [], []
    for n in range(0, len(before), max(1, len(before) // SHOWN))[:SHOWN]:
        difference = np.abs(after[n].astype(int) - before[n]).clip(0, 127).astype(np.uint8) * 2
        shown += [before[n], after[n], after[n], difference]
        outlines += [None, None, masks[n].astype(np.uint8) * 255, None]
        titles += ["as it was", labels[n], "the mask", "difference x 2"]
    return contact_sheet(shown, outlines, titles, columns=8, spec=of.arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "healthy", "segmenter", "real_data", "run_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = make_folder(Path(given.run_dir))
    config = GenerateConfig(
        given.checkpoint, str(run / "inpainted"), mode="inpaint", images=given.healthy, seed=given.seed
    )
    pairs = generate(config)
    assert isinstance(pairs, SampleSet)
    images = np.stack([pairs.read_image(r) for r in pairs.records])
    masks = np.stack([pairs.read_mask(r) for r in pairs.records])
    regions = region_around(torch.from_numpy(masks)[:, None])[:, 0].numpy() > 127
    inputs = read_inputs(Path(given.healthy), "images", images.shape[1], None, [], pairs.arrays)
    known = {image.id: image.picture[0] for image in inputs}
    before = np.stack([known[r.derived_from] for r in pairs.records])
    assert np.array_equal(images[~regions], before[~regions])
    sources = np.array([r.group for r in pairs.records])
    segmenter, real = medsegdiff.load_segmenter(given.segmenter), read_samples(Path(given.real_data)).select("val")
    found = {
        "pairs": len(pairs),
        "seam": seam(images, before, regions, sources, given.seed),
        "found": {
            "inpainted": agreement(pairs, segmenter, given.seed),
            "real val": agreement(real, segmenter, given.seed),
        },
        "removed": removal(given, run, segmenter, real),
    }
    write_json(run / "inpainting.json", found)
    first = sorted({r.derived_from: n for n, r in reversed(list(enumerate(pairs.records)))}.values())
    chosen = [[array[n] for n in first] for array in (before, images, masks > 127)]
    write_png(run / "pictures.png", sheet(*chosen, [pairs.records[n].label for n in first], pairs))
    print(found)


if __name__ == "__main__":
    main()
