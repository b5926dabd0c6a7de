"""One thread a worker, and the fixtures of several test files. What they are made of is in helpers/."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest
import threadpoolctl
import torch
from gaussians import Gaussian
from sample_sets import WriteSamples, ellipse_pairs

from medsegdiff.data.records import SampleSet

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # of what tests start
threadpoolctl.threadpool_limits(1)
torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random numbers of a test are its own, whatever ran before it in this worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def gaussian() -> Gaussian:
    """Two strongly correlated channels of unlike variance."""
    covariance = torch.tensor([[0.30, -0.18], [-0.18, 0.20]], dtype=torch.float64)
    return Gaussian(torch.tensor([0.3, -0.4], dtype=torch.float64), covariance)


@pytest.fixture(scope="session")
def write_ellipses() -> WriteSamples:
    """`ellipse_pairs`, for tests that write their own set."""
    return ellipse_pairs


@pytest.fixture(scope="session")
def ellipses(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """One set of ellipses for all tests that do not change it."""
    return ellipse_pairs(tmp_path_factory.mktemp("ellipses") / "pairs", {"train": 6, "val": 3, "test": 2})


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load
