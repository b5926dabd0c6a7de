"""Does the embedding of the audit favour the pictures that it learnt from?

    python benchmarks/embedding_bias.py --real_data samples --synthetic_data SHORTEST samples ...

`medsegdiff evaluate` asks for which share of synthetic pictures the nearest real one is a train picture, by networks of
which each scores the half of the train pictures that it did not learn. Here they learn from all of them
instead, or from pictures that are neither train nor held-out: those of the phantom, and half of the first synthetic
set, which is then left out of that set. Without a bias the shares are the same; how many planted copies are found says
what each is worth, and the shares by the networks of one deal alone say how far chance in training moves them.
Networks that have learnt nothing stand beside them. Held-out pictures are compared with, nothing is learnt from them.
Writes docs/results/embedding_bias.md and .json; `--keep` leaves the rows of that JSON as they are and adds what is
missing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from busi_128_cpu import ROOT, cell

from medsegdiff.data.config import PrepareConfig
from medsegdiff.data.phantom import PhantomConfig, write_phantom
from medsegdiff.data.prepare import prepare
from medsegdiff.data.records import SPLITS, read_samples
from medsegdiff.engine.files import read_json, write_bytes, write_json
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy.audit import Audit, audit
from medsegdiff.evaluation.privacy.copying import nearest_share
from medsegdiff.evaluation.privacy.embedding import (
    PARTS,
    REPEATS,
    CrossEmbedding,
    EmbeddingTrainer,
    similarities,
    similarities_of_deal,
)
from medsegdiff.evaluation.sets import Pairs, Sets, load_pairs

RESULTS = ROOT / "docs" / "results"
SIZE, STEPS, RESAMPLES = 128, EvaluateConfig.embedding_steps, 400
FEW = 2  # resamples of an interval that is not reported
CPU = torch.device("cpu")


def phantom_pictures(count: int) -> Pairs:
    """So many pictures of the phantom."""
    with tempfile.TemporaryDirectory() as folder:
        raw = write_phantom(PhantomConfig(f"{folder}/raw", num_benign=count // 2 + 1, num_malignant=count // 2 + 1))
        pairs = load_pairs(prepare(PrepareConfig(str(raw), f"{folder}/pairs")), SIZE, "phantom")
        return pairs.rows(np.random.default_rng(0).permutation(len(pairs))[:count])


def learnt(pairs: Pairs, real: dict[str, Pairs], seed: int, halves: bool, steps: int) -> CrossEmbedding:
    """An embedding by the recipe of the audit, learnt from `pairs`; without `halves` each network knows them all."""
    trainer = EmbeddingTrainer(pairs, real["held-out"], steps, seed, CPU)
    if not halves:
        trainer.learnt = [torch.arange(len(pairs))] * len(trainer.learnt)
    for step in range(steps):
        trainer.train_step(step)
    return trainer.model.eval()


def evaluated(model: CrossEmbedding, synthetic: Pairs, real: dict[str, Pairs]) -> Audit:
    """What the audit says by this embedding."""
    sets = Sets(real["train"], real["held-out"], synthetic, (), SIZE)
    return audit(sets, lambda a, b: similarities(model, a, b, CPU), resamples=RESAMPLES, seed=0)


def alone(model: CrossEmbedding, synthetic: Pairs, real: dict[str, Pairs]) -> list[float]:
    """Share of synthetic pictures whose nearest real one is a train picture, by the networks of each deal alone."""
    names = [np.unique(side.groups, return_inverse=True)[1] for side in real.values()]
    groups = (np.arange(len(synthetic)), *names)
    shares = []
    for deal in range(REPEATS):
        sides = [similarities_of_deal(model, deal, synthetic.images, side, CPU) for side in real.values()]
        shares.append(nearest_share(*sides, groups, bootstrap=FEW, seed=0).value)
    return shares


def rows(
    real: dict[str, Pairs], sets: dict[str, Pairs], seeds: list[int], kept: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What each embedding finds of planted copies, and its share for each set; rows that are kept are not made anew."""
    first, sampled = next(iter(sets.items()))
    half, other = (np.arange(start, len(sampled), 2) for start in (0, 1))
    count = min(len(real["train"]), len(half))
    learners = {
        "train pictures, in halves (the audit)": (real["train"], True, STEPS),
        "train pictures, all of them": (real["train"], False, STEPS),
        "phantom pictures": (phantom_pictures(count), False, STEPS),
        f"every other picture of {first}": (sampled.rows(half), False, STEPS),
        "nothing": (real["train"], False, 0),
    }
    rest = sets | {first: sampled.rows(other)}
    for name, (pairs, halves, steps) in learners.items():
        for seed in seeds:
            if old := [row for row in kept if (row["learnt from"], row["seed"]) == (name, seed)]:
                yield from old
                continue
            model = learnt(pairs, real, seed, halves, steps)
            audits = {label: evaluated(model, synthetic, real) for label, synthetic in rest.items()}
            shares = {label: reported.statistics.nearest_to_train for label, reported in audits.items()}
            print(name, seed, {label: str(share) for label, share in shares.items()}, flush=True)
            yield {
                "learnt from": name,
                "pictures": (len(pairs) // PARTS if halves else len(pairs)) if steps else 0,
                "seed": seed,
                "planted": {kind: reported.detected for kind, reported in audits[first].planted.items()},
                "shares": {label: s.to_json() for label, s in shares.items()},
                "alone": {label: alone(model, synthetic, real) for label, synthetic in rest.items()},
            }


def table(found: list[dict[str, Any]]) -> list[str]:
    """A row an embedding, a column a synthetic set."""
    titles = list(found[0]["shares"])
    kinds = list(found[0]["planted"])
    heads = ["networks learnt from", "pictures each", "seed", *kinds, *titles]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        numbers = [f"{share:.2f}" for share in row["planted"].values()]
        cells = [
            row["learnt from"],
            str(row["pictures"]),
            str(row["seed"]),
            *numbers,
            *(
                f"{cell(s)} ({min(row['alone'][t]):.2f} to {max(row['alone'][t]):.2f})"
                for t, s in row["shares"].items()
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real_data", type=Path, required=True)
    parser.add_argument("--synthetic_data", type=Path, nargs="+", required=True, help="the first is learnt from, too")
    parser.add_argument("--titles", nargs="+", required=True, help="what the page calls these sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--keep", action="store_true", help="add to the rows that are there")
    options = parser.parse_args()
    kept = read_json(RESULTS / "embedding_bias.json") if options.keep else []
    pairs = read_samples(options.real_data)
    held_out = tuple(r for split in SPLITS if split != "train" for r in pairs.select(split).records)
    real = {
        "train": load_pairs(pairs.select("train"), SIZE, "train"),
        "held-out": load_pairs(replace(pairs, records=held_out), SIZE, "held-out"),
    }
    sets = {
        title: load_pairs(read_samples(folder), SIZE, title)
        for title, folder in zip(options.titles, options.synthetic_data, strict=True)
    }
    found = list(rows(real, sets, options.seeds, kept))
    notes = RESULTS / "embedding_bias_notes.md"
    words = [notes.read_text().rstrip(), ""] if notes.is_file() else []
    text = ["# Does the embedding of the audit favour what it learnt from?", "", *words, *table(found), ""]
    write_json(RESULTS / "embedding_bias.json", found)
    write_bytes(RESULTS / "embedding_bias.md", "\n".join(text).encode())


if __name__ == "__main__":
    main()
