"""Write docs/reference/errors.md: `python tests/attack/bad_inputs/write_table.py` runs every case."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bad_base import Case, Outcome, build_base, run
from cases import CASES

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "errors.md"
TEXT = """\
# Errors

Whatever is wrong with an input or a setting, a command says so in one line on stderr, without a traceback:

    error: WHERE: found WHAT IS THERE; expected WHAT SHOULD BE. WHAT TO DO.

| exit status | meaning |
|---|---|
| 0 | done, or done before |
| 2 | bad input, or the system refused (disk full, no permission): one line, nothing half-made under a final name |
| 130 | stopped with Ctrl-C; the same command goes on from the last saved state |
| 1 | a bug, with its traceback: please report it |

**Where it is made.** There is one exception for all of it, `medsegdiff.errors.UserError(where, found, expected, hint)`.
Whoever finds something wrong raises it, at the place that knows most; nobody catches it but the command line
(`cli.main`), which prints it. What the operating system refuses (no space, no permission, a read-only disk, too many
open files) needs no check where it happens: `errors.from_os_error` turns the system's error into the same line, in the
same place. Everything else is a bug and keeps its traceback. Settings are checked before anything is read, headers
before pictures are decoded, output folders before hours of work.

**What stays on disk.** Outputs grow in `<name>.partial` or under temporary names and get their names when they are
whole (`dataset.json`, `scores.json` and `summary.json` come last), so nothing that an error leaves behind is taken for
finished. After a full disk, the same command goes on once there is room.

**What is never trusted.** A pickle (`.pth`, `.pt`) can run code: checkpoints are none, and files with weights of
encoders are read as tensors only, whatever else they hold. Paths in metadata.csv stay
inside their folder, and ids that become file names hold no slashes. A picture of a sample folder is compared with the
hash in metadata.csv whenever it is read. Pictures above 10,000 pixels a side are refused by their headers, before they
are decoded. Text for the terminal is escaped.

The rest of this page is written by `python tests/attack/bad_inputs/write_table.py`, which runs every command on files
that are really broken in that way; a test holds the page to what is printed now.
"""


def cell(text: str) -> str:
    """`text` as code within a Markdown table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def document(outcome_of: Callable[[Case], Outcome]) -> str:
    """The whole page."""
    parts = [TEXT]
    for title, cases in CASES.items():
        rows = [f"| {c.wrong} | {cell(c.command)} | {cell(' '.join(outcome_of(c).lines))} |" for c in cases]
        head = ["| what is wrong | `medsegdiff` ... | what is printed |", "|---|---|---|"]
        parts.append("\n".join(["", f"## {title}", "", *head, *rows, ""]))
    return "".join(parts)


def write_document() -> None:
    """Run all cases in a temporary folder and write the page."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        base.mkdir()
        build_base(base)

        def outcome_of(case: Case) -> Outcome:
            return run(case, base, Path(tempfile.mkdtemp(dir=name)))

        DOCUMENT.write_text(document(outcome_of))


if __name__ == "__main__":
    write_document()
