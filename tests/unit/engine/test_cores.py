"""How many threads compute: what a container grants, what a flag says, and who else is at it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medsegdiff.engine import cores

THREADS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing, and is put back afterwards."""
    for name in (*THREADS, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(cores, "is_shared", lambda threads: False)
    return monkeypatch


def groups(root: Path, two: str | None, one: tuple[str, str] | None = None) -> Path:
    """Control groups of version 2 or 1."""
    if two is not None:
        (root / "cpu.max").write_text(two)
    if one is not None:
        (root / "cpu").mkdir()
        (root / "cpu" / "cpu.cfs_quota_us").write_text(one[0])
        (root / "cpu" / "cpu.cfs_period_us").write_text(one[1])
    return root


@pytest.mark.parametrize(
    ("two", "one", "expected"),
    [
        ("150000 100000\n", None, 1.5),
        ("max 100000\n", None, None),
        (None, ("400000\n", "100000\n"), 4.0),
        (None, ("-1\n", "100000\n"), None),
        (None, None, None),
        ("rubbish", None, None),
        ("100000 0", None, None),
    ],
)
def test_quota(tmp_path: Path, two: str | None, one: tuple[str, str] | None, expected: float | None) -> None:
    """Damage: no limit is taken for a limit, or a container of another kind stops every command."""
    assert cores.quota(groups(tmp_path, two, one)) == expected


def test_a_container_with_less_than_the_machine(clean: pytest.MonkeyPatch) -> None:
    """Damage: 64 threads on the two cores that a container grants."""
    clean.setattr(cores, "quota", lambda: 2.5)
    clean.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    cores.use_cores()
    assert {os.environ[name] for name in THREADS} == {"2"}


def test_torch_chooses_where_nothing_limits(clean: pytest.MonkeyPatch) -> None:
    """Damage: a thread for each logical core, where torch takes one for each real one."""
    clean.setattr(cores, "quota", lambda: None)
    cores.use_cores()
    assert not THREADS & set(os.environ)
    assert "OMP_WAIT_POLICY" not in os.environ


def test_the_flag_wins_over_the_environment_and_that_over_a_quota(clean: pytest.MonkeyPatch) -> None:
    """Damage: --threads does nothing where the environment says a number."""
    clean.setattr(cores, "quota", lambda: 0.5)
    clean.setenv("OMP_NUM_THREADS", "7")
    cores.use_cores()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    cores.use_cores(3)
    assert {os.environ[name] for name in THREADS} == {"3"}


def test_busy_neighbours_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: our own thread counts as a neighbour, so that waiting is always passive."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    file = tmp_path / "loadavg"
    file.write_text("0.1 0.1 0.1 1/300 77\n")
    assert not cores.is_shared(4, file)
    file.write_text("2.1 0.1 0.1 3/300 77\n")
    assert cores.is_shared(4, file)
    assert not cores.is_shared(2, file)
    assert not cores.is_shared(4, tmp_path / "nothing")


def test_shared_cores_are_waited_for_asleep(clean: pytest.MonkeyPatch) -> None:
    """Damage: threads that wait actively for each other beside a busy neighbour, which takes many times as long."""
    clean.setattr(cores, "is_shared", lambda threads: True)
    clean.setattr(cores, "quota", lambda: None)
    cores.use_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    clean.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cores.use_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
