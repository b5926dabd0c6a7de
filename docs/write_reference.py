"""Write docs/reference/flags.md: `python docs/write_reference.py`. A test holds the page to the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from medsegdiff.cli import COMMANDS, load
from medsegdiff.engine.packaged import packaged
from medsegdiff.flags import Setting, settings
from medsegdiff.quickstart import SCRIPTS

PAGE = Path(__file__).parent / "reference" / "flags.md"
TEXT = """\
# Flags

Every command takes `--config FILE.yaml` too, with the same names as keys. Flags win over the file. Lists are written
with blanks (`--classes benign malignant`), yes and no as `true` and `false`. From Python the flags are keywords.

These work with every command: `--quiet` (warnings and errors only), `--log_file FILE`, `--threads N`, `--help`;
`medsegdiff --version`.

This page is written by `python docs/write_reference.py`.
"""
TYPES = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}


def default_of(setting: Setting) -> str:
    """The default as one types it."""
    if setting.default is dataclasses.MISSING:
        return "required"
    if setting.default is None:
        return "none"
    values = setting.default if setting.many else [setting.default]
    words = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    return f"`{' '.join(words)}`" if words != [""] else "none"


def table(config_class: type) -> Iterator[str]:
    """The rows of a command's flags."""
    yield from ("| flag | takes | default | meaning |", "|---|---|---|---|")
    for setting in settings(config_class):
        text = setting.help.replace("|", "\\|")
        takes = " ".join(TYPES.get(word, word) for word in setting.takes.split())
        yield f"| `--{setting.key}` | {takes} | {default_of(setting)} | {text} |"


def configurations() -> Iterator[str]:
    """The configurations that come with medsegdiff, by name, and what their first line says of them."""
    yield from (
        "",
        "## Configurations",
        "",
        "By name: `--config busi_128`. Each file says why its values are what they are.",
        "",
    )
    yield from ("| name | what it is for |", "|---|---|")
    for name, path in packaged("configs").items():
        yield f"| `{name}` | {path.read_text().splitlines()[0].removeprefix('# ')} |"


def page() -> str:
    """All of it."""
    lines = [TEXT]
    for name, command in COMMANDS.items():
        lines += [f"## medsegdiff {name}", "", f"{command.summary[0].upper()}{command.summary[1:]}."]
        if SCRIPTS.get(name, "").startswith("python "):
            lines[-1] += f" The same as `{SCRIPTS[name]}`."
        lines += ["", *table(load(command.config)), ""]
    return "\n".join([*lines[:-1], *configurations()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
