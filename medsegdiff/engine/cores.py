"""The cores that this process has, which may be fewer than the machine's, and how its threads share them."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # of Linux
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOOKS, PAUSE = 3, 0.01  # how often, and how many seconds apart, it is looked who else computes


def quota(groups: Path = GROUPS) -> float | None:
    """Cores' worth of time that the control group of a container grants; None without a limit."""
    one = groups / "cpu" / "cpu.cfs_quota_us", groups / "cpu" / "cpu.cfs_period_us"
    try:
        two = groups / "cpu.max"  # control groups 2: "200000 100000" are two cores, "max 100000" is no limit
        limit, period = two.read_text().split() if two.is_file() else (path.read_text() for path in one)
        granted = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None


def use_cores(threads: int | None = None) -> None:
    """Settle with how many threads torch and others compute; to be called before they are imported.

    `threads`, or what the environment says, or as many as a control group grants where these are fewer than the cores;
    torch chooses else. Where other programs keep the cores busy, threads that wait for each other sleep: on two cores
    beside a busy neighbour a step then takes 1.4 s in place of 2.2, alone 0.7 in place of 0.6.
    """
    granted = quota()
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None and granted is not None and granted < own:
        threads = max(1, math.floor(granted))
        if VARIABLES[0] in os.environ:
            return
    for name in VARIABLES if threads is not None else ():
        os.environ[name] = str(threads)
    if "OMP_WAIT_POLICY" not in os.environ and is_shared(threads or own):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def is_shared(threads: int, loadavg: Path = Path("/proc/loadavg")) -> bool:
    """Whether other programs compute right now, so that not every one of our threads would have a core."""
    others = []
    for _ in range(LOOKS):
        try:
            others.append(int(loadavg.read_text().split()[3].split("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return False
        time.sleep(PAUSE)
    return min(others) + threads > (os.cpu_count() or 1)
