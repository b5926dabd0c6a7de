"""Do the tests notice when the code is wrong? Damages a copy of the tree, one place at a time, and runs the tests.

    python tests/mutation/run_mutations.py [--only NAME ...] [--report FILE.md]

Exit status 1 if a damage goes unnoticed, 2 if one cannot be made or the undamaged tests fail.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from damages import DAMAGES, Damage

ROOT = Path(__file__).parents[2]
FOLDERS = ("medsegdiff", "tests", "configs", "docs")
FILES = ("README.md", "pyproject.toml")  # and the scripts at the top
TIMEOUT = 900  # seconds for the tests of one damage; a walk that never ends counts as noticed
FAILURE = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?::.+?)(?: - |$)", re.MULTILINE)
COMMAND = "python tests/mutation/run_mutations.py"


class CannotRunError(Exception):
    """The check itself is at fault, so it says nothing about the tests."""


@dataclass(frozen=True)
class Outcome:
    """What became of a damage."""

    damage: Damage
    caught_by: str | None  # the test that failed first
    seconds: float


def copy_tree(target: Path) -> Path:
    """Copy what the tests need to `target`, without caches: a stale one would hide a damage."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in FILES)]:
        shutil.copy(path, target)
    return target


def damaged(damage: Damage, text: str) -> str:
    """`text` with the damage done; `CannotRunError` unless its place is there exactly once and the result is Python."""
    count = text.count(damage.old)
    if count != 1:
        raise CannotRunError(f"{damage.name}: the old text occurs {count} times in {damage.file}, expected once")
    result = text.replace(damage.old, damage.new)
    try:
        compile(result, damage.file, "exec")
    except SyntaxError as error:
        raise CannotRunError(f"{damage.name}: the damaged {damage.file} is not Python ({error})") from error
    return result


@contextmanager
def doing(damage: Damage, tree: Path) -> Iterator[None]:
    """Damage the file in the copy, and put it back at the end."""
    path = tree / "medsegdiff" / damage.file
    whole = path.read_text()
    path.write_text(damaged(damage, whole))
    try:
        yield
    finally:
        path.write_text(whole)


def environment(tree: Path) -> dict[str, str]:
    """The copy comes before the installed package, and nothing compiled is kept."""
    return os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def check_import(tree: Path) -> None:
    """`CannotRunError` where the tests would import another medsegdiff than the copy."""
    code = "import medsegdiff; print(medsegdiff.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree / "tests", env=environment(tree), capture_output=True, text=True
    )
    if not Path(done.stdout.strip()).is_relative_to(tree):
        raise CannotRunError(f"{done.stdout.strip() or done.stderr} is imported, expected the copy in {tree}")


def run_tests(tree: Path, tests: Sequence[str]) -> str | None:
    """The first of the tests that fails in the copy, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *tests], cwd=tree, env=environment(tree), capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT} s"
    if done.returncode == 0:
        return None
    found = FAILURE.search(done.stdout)
    if done.returncode != 1 or found is None:  # nothing collected, or a file that cannot be imported
        raise CannotRunError(f"pytest {' '.join(tests)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return found[1]


def addresses(tests: Sequence[str], tree: Path) -> list[str]:
    """What pytest calls these files and single tests; `CannotRunError` where one is not there."""
    result = []
    for test in tests:
        files = [tree / test] if test.endswith(".py") else sorted((tree / "tests").rglob("test_*.py"))
        suffix = "" if test.endswith(".py") else f"::{test}"
        found = [file for file in files if file.is_file() and (not suffix or f"\ndef {test}(" in file.read_text())]
        if not found:
            raise CannotRunError(f"there is no {test} in tests/")
        result += [f"{file.relative_to(tree)}{suffix}" for file in found]
    return list(dict.fromkeys(result))


def try_damage(damage: Damage, tree: Path) -> Outcome:
    """Run the tests of a damage with it done."""
    started = time.perf_counter()
    with doing(damage, tree):
        caught_by = run_tests(tree, addresses(damage.tests, tree))
    return Outcome(damage, caught_by, time.perf_counter() - started)


def report(outcomes: Sequence[Outcome], arguments: Sequence[str]) -> str:
    """A Markdown page: what was damaged, what noticed it."""
    noticed = sum(outcome.caught_by is not None for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    lines = [
        "# Do the tests notice when the code is wrong?",
        "",
        f"Each row is one deliberate damage to the code; {noticed} of {len(outcomes)} were noticed by a test. The last",
        "column says how long the tests that were run for it took, up to the first that failed:",
        f"{seconds:.0f} seconds in all, with Python {platform.python_version()}. Made by",
        "",
        "```",
        " ".join([COMMAND, *arguments]),
        "```",
        "",
        "| damage | what it breaks | file | noticed by | s |",
        "|---|---|---|---|---:|",
    ]
    for outcome in outcomes:
        damage, test = outcome.damage, outcome.caught_by
        cell = "**nothing**" if test is None else f"`{test.removeprefix('tests/')}`".replace("|", "\\|")
        lines.append(f"| {damage.name} | {damage.breaks} | `{damage.file}` | {cell} | {outcome.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def run(chosen: Sequence[Damage], tree: Path) -> list[Outcome]:
    """All outcomes, reported one by one, after a look at the undamaged tests."""
    for damage in chosen:  # before minutes of tests: the list may not rot
        damaged(damage, (tree / "medsegdiff" / damage.file).read_text())
    tests = addresses([test for damage in chosen for test in damage.tests], tree)
    check_import(tree)
    print(f"first the undamaged code: {len(tests)} files and single tests", flush=True)
    failed = run_tests(tree, tests)
    if failed is not None:
        raise CannotRunError(f"{failed} fails without any damage")
    outcomes = []
    for number, damage in enumerate(chosen, start=1):
        outcome = try_damage(damage, tree)
        found = outcome.caught_by or "NOTHING NOTICED IT"
        print(f"{number}/{len(chosen)} {damage.name}: {found} ({outcome.seconds:.0f} s)", flush=True)
        outcomes.append(outcome)
    return outcomes


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    known = {damage.name: damage for damage in DAMAGES}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=known, help="these damages, instead of all")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="where to write the table")
    options = parser.parse_args(arguments)
    chosen = [known[name] for name in options.only or known]
    try:
        with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
            outcomes = run(chosen, copy_tree(Path(folder).resolve()))
    except CannotRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.report is not None:
        options.report.write_text(report(outcomes, arguments))
    survivors = [outcome.damage.name for outcome in outcomes if outcome.caught_by is None]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} damages noticed", *survivors, sep="\n  unnoticed: ")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
