"""How often does the copying test of `medsegdiff describe` raise an alarm where there is nothing to find?

    python benchmarks/copying_calibration.py --real_data samples --synthetic_data samples

Real pictures are dealt to train and held-out anew, by groups of near-duplicates and with as many in train as before, so
that no deal has anything to do with what the generator learnt: the share nearest to train is then chance alone.
Reported are the alarms of the test, and those of the one that it replaced: an interval over the synthetic pictures
alone, and equally many real ones chosen picture by picture, which thins the near-duplicates of the larger side. Writes
docs/results/copying_calibration.md and .json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from evaluated import ROOT
from tqdm import tqdm

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.files import write_bytes, write_json
from medsegdiff.evaluation.privacy.copying import SUBSETS, nearest_share, similarity, verdict_of
from medsegdiff.statistics.bootstrap import mean_interval
from medsegdiff.statistics.interval import Interval

RESULTS = ROOT / "docs" / "results"


def deal(groups: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(K,) whether a picture is in train: group after group at random until there are `count`."""
    in_train = np.zeros(len(groups), bool)
    for group in random.permutation(np.unique(groups)):
        if in_train.sum() >= count:
            break
        in_train |= groups == group
    return in_train


def synthetic_alone(
    to_train: np.ndarray, to_held_out: np.ndarray, random: np.random.Generator, resampled: int
) -> Interval:
    """The interval that takes the real pictures as given: as many of both, and synthetic ones resampled."""
    count, share = min(to_train.shape[1], to_held_out.shape[1]), np.zeros(len(to_train))
    for _ in range(SUBSETS):
        some, other = (random.permutation(side.shape[1])[:count] for side in (to_train, to_held_out))
        share += (to_train[:, some].max(axis=1) > to_held_out[:, other].max(axis=1)) / SUBSETS
    return mean_interval(share, np.arange(len(share)), resampled, int(random.integers(2**31)))


def calibrate(real: SampleSet, synthetic: SampleSet, deals: int, bootstrap: int) -> dict[str, Any]:
    """The shares of the true deal and of chance ones, by both intervals."""
    found = similarity([synthetic.read_image(r) for r in synthetic.records], [real.read_image(r) for r in real.records])
    groups = np.unique([r.group for r in real.records], return_inverse=True)[1]
    of_synthetic = np.unique([r.group for r in synthetic.records], return_inverse=True)[1]
    true = np.array([r.split == "train" for r in real.records])
    random = np.random.default_rng(0)

    def both(in_train: np.ndarray, seed: int) -> dict[str, Interval]:
        sides = (found[:, in_train], found[:, ~in_train])
        names = (of_synthetic, groups[in_train], groups[~in_train])
        whole = nearest_share(*sides, names, bootstrap=bootstrap, seed=seed)
        return {"test": whole, "synthetic alone": synthetic_alone(*sides, random, bootstrap)}

    chance = [both(deal(groups, int(true.sum()), random), k) for k in tqdm(range(deals), desc="deals", unit="deal")]
    return {
        "true": both(true, 0),
        "chance": chance,
        "pictures": {"train": int(true.sum()), "all": len(true), "synthetic": len(found)},
    }


def page(found: dict[str, Any], command: str) -> str:
    """A row an interval: the true deal, the chance ones and their alarms."""
    lines = [
        "| interval over | these pairs, nearest to train | verdict | chance deals: mean (deviation) | alarms |",
        "|---" * 5 + "|",
    ]
    for name, title in (
        ("test", "synthetic and real pictures (the test)"),
        ("synthetic alone", "synthetic pictures alone (as the test was)"),
    ):
        true, chance = found["true"][name], [deal[name] for deal in found["chance"]]
        means = np.array([share.value for share in chance])
        alarms = np.mean([verdict_of(share) == "fail" for share in chance])
        lines.append(
            f"| {title} | {true} | {verdict_of(true)} | {means.mean():.3f} ({means.std():.3f}) | {100 * alarms:.0f} % |"
        )
    reached = np.mean([deal["test"].value >= found["true"]["test"].value for deal in found["chance"]])
    reported = found["pictures"]
    words = (
        f"{reported['synthetic']} synthetic pictures; {reported['all']} real ones, {reported['train']} of them in "
        "train, dealt "
        f"anew {len(found['chance'])} times by groups of near-duplicates (numpy seed 0). By chance alone the share "
        f"nearest to train is as large as that of these pairs in {100 * reached:.0f} % of the deals. Written by"
    )
    return "\n".join(
        ["# Alarms of the copying test where there is nothing to find", "", words, f"`{command}`.", "", *lines, ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real_data", type=Path, required=True)
    parser.add_argument("--synthetic_data", type=Path, required=True)
    parser.add_argument("--deals", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=200, help="resamples of each interval")
    options = parser.parse_args()
    real, synthetic = read_samples(options.real_data), read_samples(options.synthetic_data)
    found = calibrate(real, synthetic, options.deals, options.bootstrap)
    reported = {name: share.to_json() for name, share in found["true"].items()}
    deals = [{name: share.to_json() for name, share in deal.items()} for deal in found["chance"]]
    write_json(RESULTS / "copying_calibration.json", found | {"true": reported, "chance": deals})
    given = f"--real_data {options.real_data} --synthetic_data {options.synthetic_data}"
    text = page(found, f"python benchmarks/copying_calibration.py {given}")
    write_bytes(RESULTS / "copying_calibration.md", text.encode())


if __name__ == "__main__":
    main()
