"""Kill a job at every place where it writes, start it again each time, and see that it ends as if nothing had happened.

    python tests/attack/kill/kill_test.py --job train --kills 24 --report kills.md
    python tests/attack/kill/kill_test.py --job train --data data/busi_processed --config configs/busi_128.yaml

An undisturbed run is recorded first. Its writes are the kill points: at least one for every distinct place, the rest
spread over the job, in the order of the job. Each started run has to get to its kill point without doing finished work
again. Flags that are not listed by --help (or stand behind --) go to the job.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_compare import contents, differences, stamps
from kill_events import DONE, Event, Recorder, Target, read_events
from kill_inputs import FLAGS, make_inputs


@dataclass(frozen=True)
class Job:
    """One command of medsegdiff, and how to see on disk how far it has come."""

    data: tuple[str, ...]  # flags of its inputs
    made: tuple[str, ...]  # where `make_inputs` puts them
    last: str  # the file that says that it is finished
    unit: str  # what it keeps when it is killed: states, chunks, nothing
    kept: str = ""  # pattern of these


STATES = r"/state/step_(\d+)$"
JOBS = {
    "prepare": Job(("--input_dir",), ("raw",), "dataset.json", "event"),
    "train": Job(("--data_dir",), ("real",), "summary.json", "step", STATES),
    "segment": Job(("--data_dir",), ("real",), "scores.json", "step", STATES),
    "generate": Job(
        ("--checkpoint_path",), ("checkpoint/best_model.pth",), "dataset.json", "chunks", r"/chunks/(.+)\.json$"
    ),
    "combine": Job(("--real_data", "--synthetic_data"), ("real", "synthetic"), "dataset.json", "event"),
}
# Imported once, for all processes that are forked; the latter ones are what the package imports late
PRELOADED = (
    "medsegdiff.data.prepare", "medsegdiff.data.combine", "medsegdiff.generators.joint_diffusion.trainer",
    "medsegdiff.synthesis.run", "medsegdiff.generators.joint_diffusion.generator", "medsegdiff.conditioning.label",
    "medsegdiff.conditioning.augmentation",
    "medsegdiff.downstream.benchmark", "scipy.stats", "einops", "contourpy",
    "matplotlib.backends.backend_agg", "PIL.PngImagePlugin",
)  # fmt: skip
STRAY_EVERY = 3  # after so many kills the next run is killed while it clears up, where it does


@dataclass
class Kill:
    """A row of the table."""

    number: int
    event: str
    path: str
    before: str
    after: str


@dataclass
class Result:
    """What the test of one job found."""

    job: str
    kills: list[Kill] = field(default_factory=list)
    sites: int = 0
    hit: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The last line of the report."""
        same = "no" if self.problems else "yes"
        where = f"{self.hit} distinct write sites of {self.sites} hit"
        return f"{self.job}: {len(self.kills)} kills, {where}, final folder identical: {same}"


class BrokenTestError(Exception):
    """The test cannot go on; the text says why."""


class Bench:
    """One job with its folders: starts runs of it, lets them die, and watches how far they come."""

    def __init__(self, name: str, argv: list[str], work: Path, settings: argparse.Namespace) -> None:
        self.name, self.job, self.work, self.settings = name, JOBS[name], work, settings
        self.output = work / "run" / "out"
        self.argv = [name, *argv, "--output_dir", str(self.output)]
        self.events: list[Event] = []
        self.started = 0

    def kept(self) -> set[str]:
        """What of a killed run is to last: names of its states or chunks."""
        if not self.job.kept:
            return set()
        folders = [self.output, self.output.with_name("out.partial")]
        names = [str(p) for f in folders for g in ("state/*", "chunks/*.json") for p in f.glob(g)]
        return {match[1] for name in names if (match := re.search(self.job.kept, name))}

    def stage(self) -> int:
        """How far the run has come on disk: steps, chunks, or 0; `DONE` at the end."""
        if (self.output / self.job.last).exists():
            return DONE
        kept = self.kept()
        if self.job.unit == "step":
            return max(map(int, kept), default=0)
        return len(kept)

    def start(self, target: Target | None = None, stray: int = 0) -> tuple[bool, list[Event]]:
        """Run the job in a process of its own; whether it was killed as reported, and its events.

        Raises `BrokenTestError` where it ended in any other way than by that kill or in order.
        """
        self.started += 1
        stem = self.work / "logs" / f"{self.started:03d}"
        stem.parent.mkdir(exist_ok=True)
        self.output.parent.mkdir(exist_ok=True)
        order = {
            "argv": self.argv,
            "output": str(self.output),
            "job": self.name,
            "stem": str(stem),
            "threads": self.settings.threads,
            "timeout": self.settings.timeout,
            "target": dataclasses.asdict(target) if target else None,
            "stray": stray,
            "known": sorted({e.key for e in self.events}) if stray else [],
        }
        status = spawn(order) if self.settings.fresh else fork(lambda: child(order))
        events = read_events(stem.with_suffix(".events"))
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and (target or stray):
            return True, events
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return False, events
        tail = stem.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
        code = os.waitstatus_to_exitcode(status)
        raise BrokenTestError(f"run {self.started} ended with status {code}: {' '.join(tail)}")

    def redone(self, before: set[str], events: list[Event]) -> list[str]:
        """Finished work that a run did again: states up to the newest one, chunks that were there."""
        names = [m[1] for e in events if e.kind == "rename" and self.job.kept and (m := self._kept_name(e))]
        newest = max(before, default="")
        return [n for n in names if n in before or (self.job.unit == "step" and n <= newest)]

    def _kept_name(self, event: Event) -> re.Match[str] | None:
        return re.search(self.job.kept, event.path)

    def report(self, stage: int, position: int) -> str:
        """Progress in words."""
        part = f"event {position} of {len(self.events)}"
        if self.job.unit == "event":
            return part
        done = "finished" if stage == DONE else f"{self.job.unit} {stage}"
        return f"{done}, {part}"


def child(order: dict[str, Any]) -> int:
    """The body of a process: run the job with recorded writes; returns its exit status, unless it is killed."""
    import cv2
    import torch

    from medsegdiff.cli import main as medsegdiff

    torch.set_num_threads(order["threads"])
    cv2.setNumThreads(order["threads"])
    stem = Path(order["stem"])
    log = os.open(stem.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = os.open(stem.with_suffix(".events"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    bench = Bench(order["job"], [], Path(order["output"]).parents[1], argparse.Namespace())
    wanted = order["target"]
    target = wanted and Target(Event(**wanted["event"]), wanted["number"], wanted["position"])
    known = frozenset((kind, path) for kind, path in order["known"])
    Recorder(bench.output, bench.stage, events, target, order["stray"], known).install()
    signal.alarm(order["timeout"])
    status = medsegdiff(order["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def fork(body: Callable[[], int]) -> int:
    """Run `body` in a forked process; returns its wait status. Much quicker than a fresh one, which imports torch."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 70
        try:
            status = body()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitpid(process, 0)[1]


def spawn(order: dict[str, Any]) -> int:
    """`child` in a fresh process; returns its wait status."""
    path = Path(order["stem"] + ".json")
    path.write_text(json.dumps(order))
    process = os.posix_spawn(sys.executable, [sys.executable, __file__, "--child", str(path)], os.environ)
    return os.waitpid(process, 0)[1]


def choose(events: list[Event], kills: int, sample: bool, seed: int) -> list[Target]:
    """Kill points in the order of the job: one for every place of write, and others in between up to `kills`.

    With `sample`, exactly `kills`, of which as many as possible at different places.
    """
    rng = random.Random(seed)
    places: dict[tuple[str, str], list[int]] = {}
    for position, event in enumerate(events):
        places.setdefault(event.site, []).append(position)
    chosen = [rng.choice(positions) for positions in places.values()]
    if sample and len(chosen) > kills:
        chosen = rng.sample(chosen, kills)
    rest = sorted(set(range(len(events))) - set(chosen))
    missing = min(max(0, kills - len(chosen)), len(rest))
    chosen += [rest[(2 * k + 1) * len(rest) // (2 * missing)] for k in range(missing)]
    return [Target(events[p], events[: p + 1].count(events[p]), p) for p in sorted(chosen)]


def run_test(bench: Bench, kills: int, sample: bool, seed: int) -> Result:
    """The whole test of one job."""
    result = Result(bench.name)
    try:
        _, bench.events = bench.start()
        os.rename(bench.work / "run", bench.work / "undisturbed")
        result.sites = len({e.site for e in bench.events})
        _kill_all(bench, choose(bench.events, kills, sample, seed), result)
        before = bench.kept() if bench.stage() != DONE else set()
        _, events = bench.start()
        result.problems += [f"the last run did again: {name}" for name in bench.redone(before, events)]
        expected, found = contents(bench.work / "undisturbed"), contents(bench.work / "run")
        result.problems += differences(expected, found)
        untouched = stamps(bench.work / "run")
        bench.start()
        if stamps(bench.work / "run") != untouched:
            result.problems.append("the same command on the finished folder changed files in it")
    except BrokenTestError as error:
        result.problems.append(str(error))
    return result


def _kill_all(bench: Bench, targets: list[Target], result: Result) -> None:
    stage, position, strays = 0, 0, 0
    hit = set()
    for number, target in enumerate(targets):
        stray = 0
        if number % STRAY_EVERY == STRAY_EVERY - 1:
            strays += 1
            stray = 1 + (strays * 3) % 8
        while True:
            before = bench.kept() if stage != DONE else set()
            killed, events = bench.start(target, stray)
            if not killed:
                raise BrokenTestError(f"run {bench.started} came to the end, not to {target.event}")
            planned = events[-1] == target.event
            reached = bench.stage()
            kind = target.event.kind if planned else f"{events[-1].kind} in clearing up"
            after = target.position if planned else position
            row = Kill(
                len(result.kills) + 1,
                kind,
                events[-1].path,
                bench.report(stage, position),
                bench.report(reached, after),
            )
            result.kills.append(row)
            print(f"{row.number:4d}  {row.event:<22} {row.path:<52} {row.before} -> {row.after}", flush=True)
            result.problems += [f"kill {row.number}: did again {name}" for name in bench.redone(before, events)]
            if reached < stage:
                result.problems.append(f"kill {row.number}: fell back from {stage} to {reached}")
            if events[-1].kind == "flush" and ".tmp" not in events[-1].path:
                result.problems.append(f"kill {row.number}: a half under its final name, {events[-1].path}")
            stage, position = reached, after
            if planned:
                break
            stray = 0
        hit.add(target.event.site)
        result.hit = len(hit)


def report(results: list[Result], path: Path | None) -> None:
    """Print what was found; with `path` write it there as Markdown, and as JSON beside it."""
    lines = []
    for result in results:
        lines += [f"## {result.job}", "", "| kill | event | file | progress before | after |", "|---|---|---|---|---|"]
        lines += [f"| {k.number} | {k.event} | `{k.path}` | {k.before} | {k.after} |" for k in result.kills]
        lines += ["", *[f"- {problem}" for problem in result.problems], *[""] * bool(result.problems)]
        lines += [result.line, ""]
    for result in results:
        for problem in result.problems:
            print(f"{result.job}: {problem}")
        print(result.line)
    if path is not None:
        path.with_suffix(".md").write_text("# Kill test\n\n" + "\n".join(lines))
        values = [dataclasses.asdict(r) | {"line": r.line} for r in results]
        path.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Settings of the test, and flags for the job."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--job", nargs="+", choices=list(JOBS), default=["train"], help="which command(s) to kill")
    parser.add_argument(
        "--data",
        nargs="+",
        help="samples; prepare: raw folder; generate: checkpoint; combine: real and synthetic samples",
    )
    parser.add_argument("--kills", nargs="+", type=int, default=[24], help="at least so many kills (one number a job)")
    parser.add_argument("--sample", action="store_true", help="exactly --kills, though not every place is hit then")
    parser.add_argument("--output", type=Path, help="folder to work in; must not hold the job yet; default: a new one")
    parser.add_argument("--report", type=Path, help="file for the table, as .md and .json")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of every run")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds that one run may take")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of kill points")
    parser.add_argument("--fresh", action="store_true", help="a fresh process for every run instead of a forked one")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    settings, extra = parser.parse_known_args(argv)
    if settings.data and len(settings.job) > 1:
        parser.error("--data goes with one --job")
    if any(flag.startswith("--output_dir") for flag in extra):
        parser.error("--output_dir is chosen by the test: use --output")
    return settings, [flag for flag in extra if flag != "--"]


def main(argv: list[str]) -> int:
    """Test the jobs one after the other; 0 if all went well."""
    settings, extra = parse(argv)
    # Before numpy and torch are loaded: their thread pools would not outlive a fork
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    if settings.child:
        return child(json.loads(settings.child.read_text()))
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that it purges what a kill made obsolete is as it should
    work = Path(os.path.abspath(settings.output or tempfile.mkdtemp(prefix="kill_test_")))
    work.mkdir(parents=True, exist_ok=True)
    if not settings.fresh:
        for module in PRELOADED:
            importlib.import_module(module)
    inputs = work / "inputs"
    if not settings.data and not inputs.exists() and fork(lambda: make_inputs(inputs, settings.job)):
        return 1
    results = []
    for number, name in enumerate(settings.job):
        job = JOBS[name]
        given = settings.data or [str(inputs / part) for part in job.made]
        flags = [word for pair in zip(job.data, map(os.path.abspath, given), strict=True) for word in pair]
        flags += [*([] if settings.data else FLAGS[name].split()), *extra]
        (work / name).mkdir()
        print(f"{name}: in {work / name}", flush=True)
        started = time.monotonic()
        bench = Bench(name, flags, work / name, settings)
        kills = settings.kills[min(number, len(settings.kills) - 1)]
        results.append(run_test(bench, kills, settings.sample, settings.seed))
        print(f"{name}: {bench.started} runs in {time.monotonic() - started:.0f} s", flush=True)
    report(results, settings.report)
    if not settings.output and not any(r.problems for r in results):
        shutil.rmtree(work)
    return int(any(r.problems for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
