"""Command lines: `medsegdiff <command> [--config FILE] [--flag VALUE ...]`; the five scripts at the top call `main`.

Every flag is a field of the command's configuration dataclass, nested ones with a dot (`--model.num_heads 8`); its
help text is the comment beside the field. Values come from the dataclass's defaults, then from YAML, then from flags.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medsegdiff.errors import UserError, from_os_error
from medsegdiff.flags import help_text, parse, settings

__all__ = ["COMMANDS", "Command", "console", "load", "main", "parse", "run", "settings"]


class _AboveBars(logging.StreamHandler):
    """Writes lines above a progress bar instead of behind it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take the bars off, write the line, draw them again."""
        from tqdm import tqdm  # here, as --help does without

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@dataclass(frozen=True)
class Command:
    """A subcommand. Both addresses are "module:name", imported when the command is used, so that --help is quick."""

    config: str  # its configuration dataclass
    function: str  # the library function that takes one
    summary: str  # one line for --help


COMMANDS = {
    "prepare": Command(
        "medsegdiff.data.config:PrepareConfig",
        "medsegdiff.data.prepare:prepare",
        "phase 1: raw data set -> sample folder",
    ),
    "train": Command(
        "medsegdiff.generators.joint_diffusion.config:TrainConfig",
        "medsegdiff.generators.joint_diffusion.trainer:train",
        "phase 2: samples -> generative checkpoint",
    ),
    "few-step": Command(
        "medsegdiff.generators.joint_diffusion.few_step.config:FewStepConfig",
        "medsegdiff.generators.joint_diffusion.few_step.trainer:few_step",
        "checkpoint -> one that samples sharper pictures in a few network calls",
    ),
    "generate": Command(
        "medsegdiff.synthesis.config:GenerateConfig",
        "medsegdiff.synthesis.run:generate",
        "phase 3: checkpoint -> new samples, or masks of images",
    ),
    "combine": Command(
        "medsegdiff.data.config:CombineConfig",
        "medsegdiff.data.combine:combine",
        "phase 4: real + synthetic samples -> samples",
    ),
    "segment": Command(
        "medsegdiff.downstream.config:SegmentConfig",
        "medsegdiff.downstream.benchmark:segment",
        "phase 5: samples -> segmentation model and its scores on real test pictures",
    ),
    "predict": Command(
        "medsegdiff.downstream.predict:PredictConfig",
        "medsegdiff.downstream.predict:predict_pictures",
        "a network of phase 5 -> masks (or classes) of new pictures",
    ),
    "evaluate": Command(
        "medsegdiff.evaluation.config:EvaluateConfig",
        "medsegdiff.evaluation.run:evaluate",
        "how realistic, varied, true to their masks and private synthetic pairs are: a report",
    ),
    "phantom": Command(
        "medsegdiff.data.phantom:PhantomConfig",
        "medsegdiff.data.phantom:write_phantom",
        "write a simulated raw folder in the layout of BUSI (not patients)",
    ),
    "describe": Command(
        "medsegdiff.evaluation.describe:DescribeConfig",
        "medsegdiff.evaluation.describe:describe",
        "shape of the lesions of a sample folder, class by class",
    ),
    "export": Command(
        "medsegdiff.generators.joint_diffusion.export:ExportConfig",
        "medsegdiff.generators.joint_diffusion.export:export",
        "a checkpoint with its weights in bf16, half the size, to hand on",
    ),
    "quickstart": Command(
        "medsegdiff.quickstart:QuickstartConfig",
        "medsegdiff.quickstart:quickstart",
        "all five phases on a small phantom data set",
    ),
}


def load(address: str) -> Any:
    """The object at "module:name"."""
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def run(name: str, argv: Sequence[str]) -> Any:
    """Parse the flags of command `name` and call its library function; returns what that returns. Or print its help."""
    command = COMMANDS[name]
    if {"-h", "--help"} & set(argv):
        print(help_text(name, command.summary, load(command.config), [t for t in argv if t != "--help"]))
        return None
    config = parse(name, load(command.config), argv)
    return load(command.function)(config)


def _overview() -> str:
    lines = [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: medsegdiff COMMAND [--config FILE] [--flag VALUE ...]"
    return "\n".join([usage, "", "commands:", *lines, "", "`medsegdiff COMMAND --help` lists the flags of a command."])


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status: 0 done, 2 wrong input (one line on stderr), 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_AboveBars(sys.stdout)], force=True)
    logging.getLogger("medsegdiff").setLevel(logging.INFO)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview(), file=sys.stdout if argv else sys.stderr)
            return 0 if argv else 2
        if argv[0] not in COMMANDS:
            _refuse_command(argv[0])
        with _quiet_threads():
            run(argv[0], argv[1:])
    except UserError as error:
        return _refuse(error)
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = from_os_error(error)
        if refusal is None:  # a bug, which needs its traceback
            raise
        return _refuse(refusal)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what was saved", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Leave out the traceback of a thread that the system refused something: TensorBoard's says the main one too."""

    def on_thread_failure(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, Exception) or from_os_error(failure.exc_value) is None:
            before(failure)

    before, threading.excepthook = threading.excepthook, on_thread_failure
    try:
        yield
    finally:
        threading.excepthook = before


def _refuse(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _refuse_command(name: str) -> None:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"Did you mean {near[0]}?" if near else "See medsegdiff --help."
    raise UserError("medsegdiff", f"unknown command {name!r}", f"one of {', '.join(COMMANDS)}", hint)


def console() -> None:
    """The `medsegdiff` console command."""
    raise SystemExit(main(sys.argv[1:]))
