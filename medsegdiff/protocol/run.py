"""Phase 5: train on PAIRS with one seed or several, score on test and on external sets, compare with another run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.config import SegmentConfig, identity_of
from medsegdiff.data.external import ExternalSet, read_external
from medsegdiff.data.records import PairSet, content_digest, read_pairs
from medsegdiff.errors import UserError
from medsegdiff.files import (
    SCORES_FILE,
    clear_leftovers,
    differing_keys,
    make_folder,
    read_json,
    refuse_other_phase,
    write_json,
)
from medsegdiff.locks import locked
from medsegdiff.protocol.checks import check_comparable, check_settings, check_splits
from medsegdiff.protocol.once import NOT_IDENTITY, Data, run_once, score_weights, total_steps
from medsegdiff.protocol.tasks import TASKS, Rows, Task, settle_names
from medsegdiff.scoring.rows import PER_IMAGE_FILE, read_rows, read_run
from medsegdiff.scoring.summary import compare, comparison_lines, per_run_means, summarise, summary_lines
from medsegdiff.training.device import settle_precision

logger = logging.getLogger(__name__)

COMPARISON_FILE = "comparison.json"
EXTERNAL_FOLDER = "external"  # of a run: a folder for each external set; of the whole: the scores on all of them
PER_RUN = ("val_dice", "val_auc", "best_step", "steps", "stopped_early", "seconds", "parameters")  # of scores.json


def segment(config: SegmentConfig) -> dict[str, Any]:
    """Train, score on test, write everything to `config.output_dir`, and return scores.json's content.

    With `config.seeds` every seed has a folder `seed_<n>` of its own, laid out like a single run, and the scores.json
    above them tells of all. The result has "external" (by name of the set) and "comparison" too where they were asked
    for. The same call goes on where an interrupted one stopped, and returns the scores of a finished one without
    training. Raises `UserError` for bad settings or data, before training wherever that can be known.
    """
    config = settle_names(settle_precision(config))
    check_settings(config)
    config = dataclasses.replace(config, steps=total_steps(config), epochs=None)
    pairs = read_pairs(Path(config.data_dir))
    check_splits(pairs, config.mixing)
    task = TASKS[config.task]
    task.check(config, pairs.classes)
    baseline = _read_baseline(config, task, pairs.select("test"))
    external = _read_external(config, pairs)
    output = Path(config.output_dir)
    _check_layout(output, config.seeds is not None)
    data = Data(pairs, config.img_size)
    parts = _parts(config)
    done = [run_once(part, task, data) for part in parts]
    results = _together(config, task, done)
    for name, value in _score_external(config, task, parts, external).items():
        results.setdefault("external", {})[name] = value
    if baseline is not None:
        results["comparison"] = _compare(config, task, [rows for _, rows in done], *baseline)
    with locked(make_folder(output)):
        clear_leftovers(output, COMPARISON_FILE, SCORES_FILE)
        _write(config, output, results)
    logger.info("%s", format_results(results))
    return results


def _parts(config: SegmentConfig) -> list[SegmentConfig]:
    """One configuration a training run."""
    if config.seeds is None:
        return [config]
    folders = {seed: str(Path(config.output_dir) / f"seed_{seed}") for seed in config.seeds}
    return [dataclasses.replace(config, seed=seed, seeds=None, output_dir=folder) for seed, folder in folders.items()]


def _check_layout(output: Path, repeated: bool) -> None:
    """Refuse a folder of one run for several, and the other way round: their files would mix."""
    refuse_other_phase(output, SCORES_FILE, "a folder for weights and scores")
    holds_many = any(output.glob("seed_*"))
    holds_one = any((output / name).exists() for name in ("state", PER_IMAGE_FILE))
    if (holds_one and repeated) or (holds_many and not repeated):
        found = "runs with --seeds" if holds_many else "a run with one --seed"
        expected = "runs with --seeds, or none" if repeated else "a run without --seeds, or none"
        raise UserError(output, found, expected, "Choose another --output_dir.")


def _how(config: SegmentConfig, task: Task, rows: Rows) -> dict[str, Any]:
    """How scores are put together: the parts of the pictures, and the bootstrap."""
    return {"scopes": task.scopes(rows), "resamples": config.bootstrap, "seed": 0}


def _together(config: SegmentConfig, task: Task, done: Sequence[tuple[dict[str, Any], Rows]]) -> dict[str, Any]:
    """What scores.json tells: of one run all that it wrote, of several what they share and lists of the rest."""
    first = done[0][0]
    if config.seeds is None:
        results = dict(first)
    else:
        shared = ("dataset", "img_size", "pairs", "test_ids", "test_digest")
        results = {"config": identity_of(config, "segment"), "runs": [f"seed_{seed}" for seed in config.seeds]}
        results |= {name: first[name] for name in shared}
        results |= {name: [scores[name] for scores, _ in done] for name in PER_RUN if name in first}
    return results | _scores(config, task, [rows for _, rows in done])


def _scores(config: SegmentConfig, task: Task, runs: Sequence[Rows]) -> dict[str, Any]:
    """The summary of runs on the same pictures, and what every run had."""
    how = _how(config, task, runs[0])
    means = per_run_means(runs, task.measures, how["scopes"])
    return {"test": summarise(runs, task.measures, **how), "test_by_run": means}


def _write(config: SegmentConfig, output: Path, results: dict[str, Any]) -> None:
    for key, path in (("comparison", output / COMPARISON_FILE), ("external", output / EXTERNAL_FOLDER / SCORES_FILE)):
        if key in results:
            make_folder(path.parent)
            write_json(path, results[key])
    scores = {k: v for k, v in results.items() if k not in ("comparison", "external")}
    if not (output / SCORES_FILE).is_file() or read_json(output / SCORES_FILE) != scores:
        write_json(output / SCORES_FILE, scores)


def _read_baseline(config: SegmentConfig, task: Task, test: PairSet) -> tuple[dict[str, Any], list[Any]] | None:
    """The settings and rows to compare with, checked before hours of training rather than after."""
    if config.baseline is None:
        return None
    folder = Path(config.baseline)
    found = read_run(folder, task.row)
    check_comparable(folder, found[0], [r.id for r in test.records], content_digest(test.records), config)
    return found[0]["config"], found[1]


def _compare(
    config: SegmentConfig, task: Task, runs: Sequence[Rows], settings: dict[str, Any], baseline: Sequence[Rows]
) -> dict[str, Any]:
    """The difference to the baseline, with the settings that were others there: all alike, or no fair comparison."""
    apart = (*NOT_IDENTITY, "seed")
    ours, theirs = ({k: v for k, v in s.items() if k not in apart} for s in (identity_of(config, "segment"), settings))
    return {
        "baseline": str(config.baseline),
        "runs": [len(runs), len(baseline)],
        "other_settings": differing_keys(theirs, ours),
        "scopes": compare(runs, baseline, task.measures, **_how(config, task, runs[0])),
    }


def _read_external(config: SegmentConfig, pairs: PairSet) -> list[ExternalSet]:
    """The external sets, without what stands in train or val. Raises `UserError` for two of one name."""
    known = [r.perceptual_hash for r in pairs.records if r.split != "test"]
    sets: list[ExternalSet] = []
    for folder in config.test_data or []:
        found = read_external(Path(folder), config.img_size, pairs.classes, known)
        if found.name in [other.name for other in sets]:
            raise UserError(f"--test_data {folder}", f"a second set named {found.name}", "each set once", "Rename it.")
        if config.task == "classify" and bool((found.data.labels < 0).any()):
            expected = f"pictures of {', '.join(pairs.classes)}"
            raise UserError(f"--test_data {folder}", "pictures without a known class", expected, "Leave the set out.")
        text = "external set %s in %s: %d pictures; %d that stand in train or val left out"
        logger.info(text, found.name, folder, len(found.data), found.left_out)
        sets.append(found)
    return sets


def _score_external(
    config: SegmentConfig, task: Task, parts: Sequence[SegmentConfig], sets: Sequence[ExternalSet]
) -> dict[str, Any]:
    """{name: scores} of every run on every external set; what was scored before is read."""
    results = {}
    for found in sets:
        runs = [_external_rows(part, task, found) for part in parts]
        facts = {"digest": found.digest, "pictures": len(found.data), "left_out": found.left_out}
        results[found.name] = facts | _scores(config, task, runs)
    return results


def _external_rows(config: SegmentConfig, task: Task, found: ExternalSet) -> Rows:
    run = Path(config.output_dir)
    folder = run / EXTERNAL_FOLDER / found.name
    record = folder / SCORES_FILE
    if record.is_file() and read_json(record) == {"digest": found.digest}:
        return read_rows(folder / PER_IMAGE_FILE, task.row)
    with locked(make_folder(run)):
        rows = score_weights(run, task, found.data, config, make_folder(folder))
        write_json(record, {"digest": found.digest})
    return rows


def format_results(results: dict[str, Any]) -> str:
    """What `segment` returns as text: scores with intervals on every set, then the comparison where there is one."""
    runs = results.get("runs", [])
    lines = [*_headline(results), *summary_lines(results["test"], results["test_by_run"], runs)]
    for name, scores in results.get("external", {}).items():
        left_out = f", {scores['left_out']} known ones left out" if scores["left_out"] else ""
        lines += ["", f"external set {name}, {scores['pictures']} pictures{left_out}"]
        lines += summary_lines(scores["test"], scores["test_by_run"], runs)
    if "comparison" in results:
        told = results["comparison"]
        ours, theirs = told["runs"]
        lines += ["", f"against {told['baseline']}, paired by image, {ours} run(s) against {theirs}"]
        if told["other_settings"]:
            lines += [f"not trained alike: {'; '.join(told['other_settings'])}"]
        lines += comparison_lines(told["scopes"])
    return "\n".join(lines)


def _headline(results: dict[str, Any]) -> list[str]:
    name = next(key for key in ("val_dice", "val_auc") if key in results)
    listed = [results[key] if "runs" in results else [results[key]] for key in (name, "best_step", "steps", "seconds")]
    lines = [
        f"{name.replace('_', ' ')} {score:.3f} after step {best} of {steps} ({seconds:.0f} s)"
        for score, best, steps, seconds in zip(*listed, strict=True)
    ]
    size = results["img_size"]
    unit = " (hd95 in native pixels)" if name == "val_dice" else ""
    return [*lines, f"test, at {size} x {size} pixels{unit}, mean [95 % interval]", ""]
