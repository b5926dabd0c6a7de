"""Phase 5: train on samples with one seed or several, score on test and on external sets, compare with another run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.external import ExternalSet, read_external
from medsegdiff.data.records import SampleSet, content_digest, read_samples
from medsegdiff.downstream.checks import check_comparable, check_splits
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.rows import PER_IMAGE_FILE, read_rows, read_run
from medsegdiff.downstream.summary import compare, comparison_lines, per_run_means, summarise, summary_lines
from medsegdiff.downstream.tasks import Rows, Task, settle_names, task_of
from medsegdiff.downstream.train_and_test import (
    NOT_IN_FINGERPRINT,
    WEIGHTS_FILE,
    Data,
    not_compared,
    run_folder,
    score_weights,
    total_steps,
    train_and_test,
)
from medsegdiff.engine.device import settle_precision
from medsegdiff.engine.files import (
    SCORES_FILE,
    differing_keys,
    file_digest,
    make_folder,
    read_json,
    write_json,
)
from medsegdiff.engine.run_folder import SEGMENTATION, RunFolder
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

COMPARISON_FILE = "comparison.json"
Weights = dict[str, str | None]  # of each run: SHA-256 of its weights, None where the file is gone
EXTERNAL_FOLDER = "external"  # of a run: a folder for each external set; of the whole: the scores on all of them
PER_RUN = ("val_dice", "val_auc", "best_step", "steps", "stopped_early", "seconds", "parameters")  # of scores.json


def segment(config: SegmentConfig) -> dict[str, Any]:
    """Train, score on test, write everything to `config.output_dir`, and return scores.json's content.

    With `config.seeds` every seed has a folder `seed_<n>` of its own, laid out like a single run, and the scores.json
    above them says of all. The result has "external" (by name of the set) and "comparison" too where they were asked
    for. The same call goes on where an interrupted one stopped, and returns the scores of a finished one without
    training. Raises `UserError` for bad settings or data, before training wherever that can be known.
    """
    config = settle_names(settle_precision(config))
    pairs = read_samples(Path(config.data_dir))
    config = dataclasses.replace(config, steps=total_steps(config, len(pairs.select("train"))), epochs=None)
    check_splits(pairs, config.mixing)
    task = task_of(config.task, pairs.arrays)
    parts = _parts(config)
    finished = all((Path(part.output_dir) / SCORES_FILE).is_file() for part in parts)
    # Weights to begin with are no matter any more once a run is finished; the file may be gone
    task.check(dataclasses.replace(config, encoder_weights=None) if finished else config, pairs.classes)
    baseline = _read_baseline(config, task, pairs.select("test"))
    external = _read_external(config, pairs)
    _check_layout(config, pairs)
    data = Data(pairs, config.img_size)
    done = [train_and_test(part, task, data) for part in parts]
    results = _together(config, task, done)
    weights = _weights(config, parts)
    if external:
        results["external"] = _score_external(config, task, parts, external, weights)
    if baseline is not None:
        compared = _compare(config, task, [rows for _, rows in done], *baseline)
        results["comparison"] = compared | {"weights": weights}
    _write(Path(config.output_dir), results, weights)
    logger.info("%s", format_results(results))
    return results


def _parts(config: SegmentConfig) -> list[SegmentConfig]:
    """One configuration a training run."""
    if config.seeds is None:
        return [config]
    folders = {seed: str(Path(config.output_dir) / f"seed_{seed}") for seed in config.seeds}
    return [dataclasses.replace(config, seed=seed, seeds=None, output_dir=folder) for seed, folder in folders.items()]


def _weights(config: SegmentConfig, parts: Sequence[SegmentConfig]) -> Weights:
    """{run: SHA-256 of its weights}: what scores on other data belong to. A single run is called "."."""
    files = [Path(part.output_dir) / WEIGHTS_FILE for part in parts]
    names = ["."] if config.seeds is None else [file.parent.name for file in files]
    return {name: file_digest(file) if file.is_file() else None for name, file in zip(names, files, strict=True)}


def _check_layout(config: SegmentConfig, pairs: SampleSet) -> None:
    """Refuse a folder of one run for several, and the other way round, and seeds of other settings: they would mix."""
    output, repeated = Path(config.output_dir), config.seeds is not None
    RunFolder(output, SEGMENTATION).refuse_others()
    holds_many = any(output.glob("seed_*"))
    holds_one = any((output / name).exists() for name in ("state", PER_IMAGE_FILE))
    if (holds_one and repeated) or (holds_many and not repeated):
        found = "runs with --seeds" if holds_many else "a run with one --seed"
        expected = "runs with --seeds, or none" if repeated else "a run without --seeds, or none"
        raise UserError(output, found, expected, "Choose another --output_dir.")
    for folder in sorted(output.glob("seed_*")):
        run = run_folder(dataclasses.replace(config, output_dir=str(folder)), pairs)
        changed = run.differences(("seed", *not_compared(config, run.sign)))
        if changed:
            expected = "the same settings for every seed in one folder"
            hint = "Choose another --output_dir, or delete that folder."
            raise UserError(folder, f"a run with other settings ({'; '.join(changed)})", expected, hint)


def _how(config: SegmentConfig, task: Task, rows: Rows) -> dict[str, Any]:
    """How scores are put together: the parts of the pictures, and the bootstrap."""
    return {"subgroups": task.subgroups(rows), "resamples": config.bootstrap, "seed": 0}


def _together(config: SegmentConfig, task: Task, done: Sequence[tuple[dict[str, Any], Rows]]) -> dict[str, Any]:
    """What scores.json says: of one run all that it wrote, of several what they share and lists of the rest."""
    first = done[0][0]
    if config.seeds is None:
        results = dict(first) | {"config": fingerprint_of(config, "segment")}
    else:
        shared = ("dataset", "img_size", "pairs", "test_ids", "test_digest")
        results = {"config": fingerprint_of(config, "segment"), "runs": [f"seed_{seed}" for seed in config.seeds]}
        results |= {name: first[name] for name in shared}
        results |= {name: [scores[name] for scores, _ in done] for name in PER_RUN if name in first}
    return results | _scores(config, task, [rows for _, rows in done])


def _scores(config: SegmentConfig, task: Task, runs: Sequence[Rows]) -> dict[str, Any]:
    """The summary of runs on the same pictures, and what every run had."""
    how = _how(config, task, runs[0])
    means = per_run_means(runs, task.measures, how["subgroups"])
    return {"test": summarise(runs, task.measures, **how), "test_by_run": means}


def _write(output: Path, results: dict[str, Any], weights: Weights) -> None:
    """Write scores.json and what belongs to it; what earlier calls found with these very runs stays, the rest goes."""
    scores = {k: v for k, v in results.items() if k not in ("comparison", "external")}
    with RunFolder(output, SEGMENTATION, files=(COMPARISON_FILE,)).held():
        comparison, external = output / COMPARISON_FILE, output / EXTERNAL_FOLDER / SCORES_FILE
        compared = results.get("comparison") or _of_runs({"old": _read(comparison)}, weights).get("old", {})
        sets = _of_runs(_read(external), weights) | results.get("external", {})
        for path, value in ((comparison, compared), (external, sets), (output / SCORES_FILE, scores)):
            if not value:
                path.unlink(missing_ok=True)
            elif _read(path) != value:
                make_folder(path.parent)
                write_json(path, value)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where there is none or it holds something else."""
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _of_runs(found: dict[str, Any], weights: Weights) -> dict[str, Any]:
    """Those of the named results that were made with these runs, in this order; weights that are gone may be any."""

    def same(result: Any) -> bool:
        old = result.get("weights") if isinstance(result, dict) else None
        return (
            isinstance(old, dict)
            and list(old) == list(weights)
            and all(sha in (None, old[name]) for name, sha in weights.items())
        )

    return {name: result for name, result in found.items() if same(result)}


def _read_baseline(config: SegmentConfig, task: Task, test: SampleSet) -> tuple[dict[str, Any], list[Any]] | None:
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
    apart = (*NOT_IN_FINGERPRINT, "seed")
    ours, theirs = (
        {k: v for k, v in s.items() if k not in apart} for s in (fingerprint_of(config, "segment"), settings)
    )
    return {
        "baseline": str(config.baseline),
        "runs": [len(runs), len(baseline)],
        "other_settings": differing_keys(theirs, ours),
        "subgroups": compare(runs, baseline, task.measures, **_how(config, task, runs[0])),
    }


def _read_external(config: SegmentConfig, pairs: SampleSet) -> list[ExternalSet]:
    """The external sets, without what training knew. Raises `UserError` for two of one name.

    Known are the real pictures of train and val, and those that the generator of synthetic pairs has learnt, so that
    arms of the same real data, also with synthetic pairs alone, are scored on the same pictures.
    """
    synthetic = [r.perceptual_hash for r in pairs.records if r.is_synthetic]
    known = [r.perceptual_hash for r in pairs.records if r.split != "test" and not r.is_synthetic] + pairs.learnt
    if config.test_data and synthetic and not pairs.learnt:
        text = "%s does not say what its synthetic pairs were made from: external pictures may be among it"
        logger.warning(text + "; combine anew to leave these out", pairs.root)
    sets: list[ExternalSet] = []
    for folder in config.test_data or []:
        found = read_external(Path(folder), config.img_size, pairs.classes, known, synthetic, pairs.arrays, pairs.frame)
        if found.name in [other.name for other in sets]:
            raise UserError(f"--test_data {folder}", f"a second set named {found.name}", "each set once", "Rename it.")
        if config.task == "classify" and bool((found.data.labels < 0).any()):
            expected = f"pictures of {', '.join(pairs.classes)}"
            raise UserError(f"--test_data {folder}", "pictures without a known class", expected, "Leave the set out.")
        text = "external set %s in %s: %d pictures, %d of them near a synthetic one; %d that training knew left out"
        logger.info(text, found.name, folder, len(found.data), found.near_synthetic, found.left_out)
        sets.append(found)
    return sets


def _score_external(
    config: SegmentConfig,
    task: Task,
    parts: Sequence[SegmentConfig],
    sets: Sequence[ExternalSet],
    weights: Weights,
) -> dict[str, Any]:
    """{name: scores} of every run on every external set; what was scored before is read."""
    results = {}
    for found in sets:
        of = zip(parts, weights.values(), strict=True)
        runs = [_external_rows(part, task, found, sha) for part, sha in of]
        facts = {"digest": found.digest, "pictures": len(found.data), "left_out": found.left_out, "weights": weights}
        results[found.name] = facts | _scores(config, task, runs)
    return results


def _external_rows(config: SegmentConfig, task: Task, found: ExternalSet, weights: str | None) -> Rows:
    """Rows of one run on one set; read where they are of the same pictures and, unless these are gone, `weights`."""
    run = Path(config.output_dir)
    folder = run / EXTERNAL_FOLDER / found.name
    record = folder / SCORES_FILE
    old = _read(record)
    if old.get("digest") == found.digest and weights in (None, old.get("weights")):
        return read_rows(folder / PER_IMAGE_FILE, task.row)
    with RunFolder(run, SEGMENTATION).held():
        record.unlink(missing_ok=True)  # a kill must not leave it beside the rows of other pictures
        rows = score_weights(run, task, found.data, config, make_folder(folder))
        write_json(record, {"digest": found.digest, "weights": weights})
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
        compared = results["comparison"]
        ours, theirs = compared["runs"]
        lines += ["", f"against {compared['baseline']}, paired by image, {ours} run(s) against {theirs}"]
        if compared["other_settings"]:
            lines += [f"not trained alike: {'; '.join(compared['other_settings'])}"]
        lines += comparison_lines(compared["subgroups"])
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
