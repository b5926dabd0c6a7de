"""Every bad input is one clear line and status 2, leaves nothing that looks finished, and stands in docs/reference."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_base import Case, Outcome, build_base, finished, run
from cases import CASES
from write_table import DOCUMENT, document

from medsegdiff.cli import main

pytestmark = pytest.mark.attack

BY_NAME = {case.wrong: case for cases in CASES.values() for case in cases}
TRAIN = "train --config {base}/tiny.yaml --data_dir {base}/real --output_dir disk/out"
OutcomeOf = Callable[[Case], Outcome]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good inputs, made once."""
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def outcome_of(base: Path, tmp_path_factory: pytest.TempPathFactory) -> OutcomeOf:
    """What a case does; each is run once, for its own test and for that of the document."""
    known: dict[str, Outcome] = {}

    def outcome_of(case: Case) -> Outcome:
        if case.wrong not in known:
            known[case.wrong] = run(case, base, tmp_path_factory.mktemp("case"))
        return known[case.wrong]

    return outcome_of


def test_names_are_unlike() -> None:
    """Damage: two cases of one name, the second of which would never be run."""
    assert len(BY_NAME) == sum(len(cases) for cases in CASES.values())


@pytest.mark.parametrize("name", BY_NAME)
def test_bad_input(name: str, outcome_of: OutcomeOf, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage: any one check taken out (a traceback, status 0 or 1, a line without place or advice, a file left)."""
    case = BY_NAME[name]
    outcome = outcome_of(case)
    assert len(outcome.lines) == 1, outcome.lines
    line = outcome.lines[0]
    assert outcome.status == 2
    assert line.startswith("error: ")
    assert ": found " in line
    assert "; expected " in line
    assert line.endswith((".", "?"))
    assert [part for part in case.parts if part not in line] == [], line
    assert outcome.after == outcome.before
    assert not outcome.exploded
    assert capfd.readouterr() == ("", "")  # libraries in C print past Python


def test_the_document_shows_what_is_printed_now(outcome_of: OutcomeOf) -> None:
    """Damage: a message changed without `python tests/attack/bad_inputs/write_table.py`."""
    assert DOCUMENT.read_text() == document(outcome_of)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A file system in tmp_path/disk; call it with a size such as "100k" to make it smaller or larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here; the cases with /dev/full do not need it")
    yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True) and None
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("command", "size"),
    [
        ("prepare --input_dir {base}/raw --output_dir disk/out --folds 2", "24k"),
        (TRAIN, "8k"),  # TensorBoard, in its own thread
        (TRAIN, "120k"),  # weights
        (TRAIN, "240k"),  # a state to resume from, which torch writes
        ("generate --checkpoint_path {base}/model.safetensors --output_dir disk/out --num_samples_per_class 4 "
         "--steps 2 --chunk_size 2 --max_redraws 200 --device cpu", "20k"),
    ],
    ids=["prepare", "tensorboard", "weights", "state", "generate"],
)  # fmt: skip
def test_a_full_disk(
    command: str,
    size: str,
    base: Path,
    tmp_path: Path,
    small_disk: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Damage: `OSError` let through as a traceback; the name of an output before it is whole; a half file kept."""
    monkeypatch.chdir(tmp_path)
    argv = command.format(base=base).split()
    small_disk(size)
    assert main(argv) == 2
    out, err = capfd.readouterr()
    lines = err.rpartition("error: ")
    assert "found No space left on device; expected room to write. Free some space; the same command" in lines[2]
    assert "Traceback" not in out + err
    assert not finished(tmp_path / "disk" / "out").keys() & {"dataset.json", "summary.json"}
    small_disk("64m")
    assert main(argv) == 0
    assert finished(tmp_path / "disk" / "out")
