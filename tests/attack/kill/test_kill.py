"""The short form of kill_test.py: every job is killed at some of its writes, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kill_compare import contents, differences
from kill_events import Event
from kill_test import choose
from torch.utils.tensorboard import SummaryWriter

KILLS = {"train": 22, "generate": 8, "combine": 8, "segment": 6}

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names open files by /proc, as Linux has it"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the command reports of each job. A process of its own: it forks, which those with thread pools must not."""
    folder = tmp_path_factory.mktemp("kill")
    command = [sys.executable, str(Path(__file__).with_name("kill_test.py")), "--sample", "--timeout", "600"]
    command += ["--job", *KILLS, "--kills", *map(str, KILLS.values())]
    command += ["--output", str(folder / "work"), "--report", str(folder / "report")]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (folder / "report.json").is_file(), done.stdout + done.stderr
    values = json.loads((folder / "report.json").read_text())
    assert (done.returncode == 0) == (not any(r["problems"] for r in values))
    return {r["job"]: r for r in values}


@pytest.mark.parametrize("job", list(KILLS))
def test_a_killed_job_ends_like_an_undisturbed_one(job: str, results: dict[str, dict[str, Any]]) -> None:
    """Damage: writing in place; leaving the EMA out of the state; the record of a chunk before its pictures."""
    found = results[job]
    assert found["problems"] == []
    assert len(found["kills"]) >= KILLS[job]
    assert found["hit"] == KILLS[job] < found["sites"]
    assert found["line"].endswith("final folder identical: yes")


def test_kill_points_are_at_every_place_and_all_over_the_job() -> None:
    """Damage: kill points at the first event of a place only, or none in long stretches of alike events."""
    events = [Event("open", "out/a", 0), *[Event("link", f"out/images/x_{n}.png", 0) for n in range(40)]]
    events += [Event("rename", "out/b", 0)] * 2
    targets = choose(events, 10, sample=False, seed=0)
    assert len(targets) == 10
    assert {t.event.site for t in targets} == {("open", "out/a"), ("link", "out/images/*.png"), ("rename", "out/b")}
    assert [t.position for t in targets] == sorted({t.position for t in targets})
    assert max(b.position - a.position for a, b in zip(targets, targets[1:], strict=False)) <= 10
    assert {t.number for t in targets if t.event.kind == "rename"} <= {1, 2}


def test_differences_are_seen(tmp_path: Path) -> None:
    """Damage: comparing names alone; passing over a hidden file, or over one beside the output folder."""
    for name in ("one", "other"):  # another start of the curve, which the second part hides
        curves = tmp_path / name / "out" / "tensorboard"
        for part, value in enumerate((7.0 if name == "one" else 8.0, 5.0)):
            with SummaryWriter(str(curves), purge_step=1) as writer:
                writer.add_scalar("loss", value, 3)
            # Files of one second are read in the order of a number in their names, in which 10 comes before 9
            (new,) = (path for path in curves.iterdir() if path.suffix != ".part")
            new.rename(curves / f"events.out.tfevents.{part}.part")
        (tmp_path / name / "out" / "summary.json").write_text('{"steps": 4, "seconds": 1.5}')
        (tmp_path / name / "out" / "history.jsonl").write_text("{}\n")
    (tmp_path / "other" / "out" / "summary.json").write_text('{"steps": 4, "seconds": 2.5}')
    assert differences(contents(tmp_path / "one"), contents(tmp_path / "other")) == []
    (tmp_path / "other" / "out" / "history.jsonl").write_text("{ }\n")
    (tmp_path / "other" / ".out.lock").write_text("1")
    (tmp_path / "other" / "out" / "summary.json").unlink()
    found = differences(contents(tmp_path / "one"), contents(tmp_path / "other"))
    assert found == ["missing: out/summary.json", "extra: .out.lock", "different: out/history.jsonl"]
