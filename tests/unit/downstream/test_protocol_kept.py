"""What a folder of runs keeps belongs to those very runs, and arms are scored on the same external pictures."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import settings, write_stu

from medsegdiff.data.external import read_external
from medsegdiff.data.records import LEARNT, SampleSet, read_samples, write_samples
from medsegdiff.downstream.benchmark import _read_external, segment
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.training import SegmentationTrainer
from medsegdiff.downstream.train_and_test import WEIGHTS_FILE
from medsegdiff.engine.files import write_json
from medsegdiff.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(ellipses: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> SegmentConfig:
    """The settings of two finished seeds."""
    config = settings(ellipses.root, tmp_path_factory.mktemp("kept") / "out", seeds=[3, 5])
    segment(config)
    return config


@pytest.fixture
def config(trained: SegmentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SegmentConfig:
    """A copy of them; from here on nothing is trained."""

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(SegmentationTrainer, "train_step", never)
    return dataclasses.replace(trained, output_dir=str(shutil.copytree(trained.output_dir, tmp_path / "out")))


def reported(config: SegmentConfig, name: str) -> Any:
    """What a JSON file of the run says."""
    return json.loads((Path(config.output_dir) / name).read_text())


def test_external_sets_are_added_up(config: SegmentConfig, ellipses: SampleSet, tmp_path: Path) -> None:
    """One, then another. Damage: the file holds those of the last call alone, or a call without any takes them out."""
    other = write_stu(tmp_path / "stu", 1)
    first = segment(dataclasses.replace(config, test_data=[str(other)]))["external"]
    records = [dataclasses.replace(r, perceptual_hash=f"{n:064x}") for n, r in enumerate(ellipses.records)]
    shutil.copytree(ellipses.root, tmp_path / "elsewhere")  # the same pictures, said to be others
    write_samples(tmp_path / "elsewhere", records, classes=ellipses.classes, fingerprint={})
    second = segment(dataclasses.replace(config, test_data=[str(tmp_path / "elsewhere")]))["external"]
    assert [list(first), list(second)] == [["stu_hospital"], ["elsewhere"]]
    segment(config)
    assert reported(config, "external/scores.json") == first | second
    assert list(first["stu_hospital"]["weights"]) == ["seed_3", "seed_5"]


def test_what_belongs_to_other_runs_goes(config: SegmentConfig, trained: SegmentConfig, tmp_path: Path) -> None:
    """Two seeds, then one of them. Damage: a comparison and external scores of two stand beside the scores of one."""
    both = {"baseline": trained.output_dir, "test_data": [str(write_stu(tmp_path / "stu", 1))]}
    results = segment(dataclasses.replace(config, **both))
    segment(config)
    assert reported(config, "comparison.json") == results["comparison"]
    assert list(results["comparison"]["weights"]) == ["seed_3", "seed_5"]
    for seeds in ([5], [5, 3]):  # in another order lists of the runs are other lists
        segment(dataclasses.replace(config, seeds=seeds))
        for name in ("comparison.json", "external/scores.json"):
            assert not (Path(config.output_dir) / name).exists(), (name, seeds)
        segment(dataclasses.replace(config, **both))
    weights = [Path(config.output_dir) / name / WEIGHTS_FILE for name in ("seed_3", "seed_5")]
    for path in weights:
        path.rename(path.with_name("away"))
    segment(config)  # nobody can know; the names of the runs are the same
    assert reported(config, "comparison.json") == results["comparison"]


def test_external_scores_are_of_these_weights(config: SegmentConfig, tmp_path: Path) -> None:
    """Other weights in the folder of a run, as after training anew. Damage: the scores of the old ones are
    reported."""
    config = dataclasses.replace(config, test_data=[str(write_stu(tmp_path / "stu", 1))])
    before = segment(config)["external"]["stu_hospital"]["test_by_run"]["all"]["dice"]
    runs = [Path(config.output_dir) / name for name in ("seed_3", "seed_5")]
    shutil.copyfile(runs[1] / WEIGHTS_FILE, runs[0] / WEIGHTS_FILE)
    after = segment(config)["external"]["stu_hospital"]["test_by_run"]["all"]["dice"]
    assert before[0] != before[1]
    assert after == [before[1], before[1]]


def test_seeds_of_one_folder_share_their_settings(config: SegmentConfig) -> None:
    """A seed more with another rate, beside finished or begun ones. Damage: the folder of that seed alone is seen."""
    with pytest.raises(UserError, match=r"seed_3: found a run with other settings \(lr: 0\.002 -> 0\.0001\)"):
        segment(dataclasses.replace(config, seeds=[7], lr=1e-4))
    begun = reported(config, "seed_3/scores.json")["fingerprint"] | {"seed": 9, "dropout": 0.5}
    (Path(config.output_dir) / "seed_9" / "state").mkdir(parents=True)
    write_json(Path(config.output_dir) / "seed_9" / "state" / "fingerprint.json", begun)
    with pytest.raises(UserError, match=r"seed_9: found a run with other settings \(dropout: 0\.5 -> 0\.0\)"):
        segment(config)
    write_json(Path(config.output_dir) / "seed_9" / "state" / "fingerprint.json", begun | {"dropout": 0.0})
    segment(config)
    write_json(Path(config.output_dir) / "seed_5" / "scores.json", {})
    with pytest.raises(UserError, match=r"seed_5/scores\.json: found no settings"):
        segment(config)


def test_arms_are_scored_on_the_same_external_pictures(
    ellipses: SampleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Real pairs, and synthetic ones that were made from them.

    The external set holds a picture that both have learnt, and one that a synthetic picture is a copy of. Damage: the
    one is scored where its real pair is not in train, or the other is left out where the synthetic pair is.
    """
    stu = write_stu(tmp_path / "stu", 1)
    first = read_external(stu, 32, ellipses.classes, []).data.records
    known, copied = (record.perceptual_hash for record in first[:2])
    train = [dataclasses.replace(r, perceptual_hash=known) for r in ellipses.select("train").records]
    held = [r for r in ellipses.records if r.split != "train"]
    made = [dataclasses.replace(r, generator="abc", perceptual_hash=copied) for r in train]
    arms = {}
    for name, records, learnt in (("real", train, {}), ("alone", made, {LEARNT: [known]}), ("older", made, {})):
        shutil.copytree(ellipses.root, tmp_path / name)
        write_samples(tmp_path / name, [*held, *records], classes=ellipses.classes, fingerprint={}, **learnt)
        config = settings(tmp_path / name, tmp_path / "out", test_data=[str(stu)])
        with caplog.at_level(logging.INFO):
            [arms[name]] = _read_external(config, read_samples(tmp_path / name))
    assert arms["alone"].digest == arms["real"].digest
    assert [(arm.left_out, arm.near_synthetic) for arm in arms.values()] == [(1, 0), (1, 1), (0, 1)]
    assert "4 pictures, 1 of them near a synthetic one; 1 that training knew left out" in caplog.text
    assert "does not say what its synthetic pairs were made from" in caplog.text
