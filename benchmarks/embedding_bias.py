"""Does the embedding of the audit favour the pictures that it learnt from?

    python benchmarks/embedding_bias.py --real_data PAIRS --synthetic_data SHORTEST PAIRS ...

`medsegdiff evaluate` asks for which share of synthetic pictures the nearest real one is a train picture, by an
embedding that learnt from train pictures. Here embeddings learn from others too, which are neither train nor held-out:
pictures of the phantom, and half of the first synthetic set, which is then left out of that set. Without a bias the
shares are the same. Held-out pictures are compared with, nothing is learnt from them. Writes
docs/results/embedding_bias.md and .json.
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

from medsegdiff.config import PrepareConfig
from medsegdiff.data.copying import nearest_share
from medsegdiff.data.phantom import PhantomConfig, write_phantom
from medsegdiff.data.prepare import prepare
from medsegdiff.data.records import SPLITS, read_pairs
from medsegdiff.evaluation.judges.embedding import EmbeddingTrainer, retrieval, similarities
from medsegdiff.evaluation.sets import Pairs, load_pairs
from medsegdiff.files import write_bytes, write_json

RESULTS = ROOT / "docs" / "results"
SIZE, STEPS, RESAMPLES = 128, 1000, 400
CPU = torch.device("cpu")
Model = torch.nn.Module


def phantom_pictures(count: int) -> Pairs:
    """So many pictures of the phantom."""
    with tempfile.TemporaryDirectory() as folder:
        raw = write_phantom(PhantomConfig(f"{folder}/raw", num_benign=count // 2 + 1, num_malignant=count // 2 + 1))
        pairs = load_pairs(prepare(PrepareConfig(str(raw), f"{folder}/pairs")), SIZE, "phantom")
        return pairs.rows(np.random.default_rng(0).permutation(len(pairs))[:count])


def learnt(pairs: Pairs, real: dict[str, Pairs], seed: int, steps: int = STEPS) -> Model:
    """An embedding by the recipe of the audit, learnt from `pairs`."""
    trainer = EmbeddingTrainer(pairs, real["held-out"], steps, seed, CPU)
    for step in range(steps):
        trainer.train_step(step)
    return trainer.model.eval()


def share(model: Model, synthetic: Pairs, real: dict[str, Pairs]) -> dict[str, float]:
    """mean, low, high: synthetic pictures whose nearest real one is a train picture."""
    alike = [similarities(model, {}, synthetic.images, side.images, CPU) for side in real.values()]
    names = [np.unique(side.groups, return_inverse=True)[1] for side in real.values()]
    return nearest_share(*alike, (np.arange(len(synthetic)), *names), bootstrap=RESAMPLES, seed=0)


def rows(real: dict[str, Pairs], sets: dict[str, Pairs], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """What each embedding finds of altered copies, and its share for each set."""
    first, drawn = next(iter(sets.items()))
    half, other = (np.arange(start, len(drawn), 2) for start in (0, 1))
    count = min(len(real["train"]), len(half))
    learners = {
        "train pictures, as in the audit": real["train"],
        "phantom pictures": phantom_pictures(count),
        f"every other picture of {first}": drawn.rows(half),
    }
    judged = sets | {first: drawn.rows(other)}
    for name, pairs in learners.items():
        for seed in seeds:
            model = learnt(pairs, real, seed)
            found = retrieval(model, {}, real["held-out"], real["train"], 0, CPU)
            shares = {label: share(model, synthetic, real) for label, synthetic in judged.items()}
            print(name, seed, shares, flush=True)
            told = {"learnt from": name, "pictures": len(pairs), "seed": seed}
            yield told | {"found": float(found.mean()), "shares": shares}


def table(found: list[dict[str, Any]]) -> list[str]:
    """A row an embedding, a column a synthetic set."""
    titles = list(found[0]["shares"])
    lines = [
        f"| embedding learnt from | pictures | seed | altered copies found | {' | '.join(titles)} |",
        "|---" * (4 + len(titles)) + "|",
    ]
    for row in found:
        cells = map(cell, row["shares"].values())
        lines.append(
            f"| {row['learnt from']} | {row['pictures']} | {row['seed']} | {row['found']:.2f} | {' | '.join(cells)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real_data", type=Path, required=True)
    parser.add_argument("--synthetic_data", type=Path, nargs="+", required=True, help="the first is learnt from, too")
    parser.add_argument("--titles", nargs="+", required=True, help="what the page calls these sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    pairs = read_pairs(options.real_data)
    held_out = tuple(r for split in SPLITS if split != "train" for r in pairs.select(split).records)
    real = {
        "train": load_pairs(pairs.select("train"), SIZE, "train"),
        "held-out": load_pairs(replace(pairs, records=held_out), SIZE, "held-out"),
    }
    sets = {
        title: load_pairs(read_pairs(folder), SIZE, title)
        for title, folder in zip(options.titles, options.synthetic_data, strict=True)
    }
    found = list(rows(real, sets, options.seeds))
    notes = RESULTS / "embedding_bias_notes.md"
    words = [notes.read_text().rstrip(), ""] if notes.is_file() else []
    text = ["# Does the embedding of the audit favour what it learnt from?", "", *words, *table(found), ""]
    write_json(RESULTS / "embedding_bias.json", found)
    write_bytes(RESULTS / "embedding_bias.md", "\n".join(text).encode())


if __name__ == "__main__":
    main()
