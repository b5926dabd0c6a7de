"""Command lines: `medsegdiff <command> [--config FILE] [--flag VALUE ...]`; the five scripts at the top call `main`.

Every flag is a field of the command's configuration dataclass, nested ones with a dot (`--model.num_heads 8`); its
help text is the comment beside the field. Values come from the dataclass's defaults, then from YAML, then from flags.
"""

from __future__ import annotations

import difflib
import logging
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medsegdiff import __version__
from medsegdiff.engine.cores import use_cores
from medsegdiff.engine.packages import load, missing_package
from medsegdiff.errors import UserError, from_os_error, require
from medsegdiff.flags import help_text, parse, settings

logger = logging.getLogger(__name__)

__all__ = ["COMMANDS", "Command", "console", "load", "main", "parse", "run", "settings"]


class _AboveBars(logging.StreamHandler):
    """Writes lines above a progress bar instead of behind it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take the bars off, write the line, draw them again."""
        if not sys.stderr.isatty():  # bars are lines there too
            super().emit(record)
            return
        from tqdm import tqdm  # here, as --help does without

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@dataclass(frozen=True)
class Command:
    """A subcommand. Both addresses are "module:name", imported when the command is used, so that --help is quick."""

    config: str  # its configuration dataclass
    function: str  # the library function that takes one
    summary: str  # one line for --help
    then: str = ""  # the command that usually follows; {fields} are those of the configuration


COMMANDS = {
    "prepare": Command(
        "medsegdiff.data.config:PrepareConfig",
        "medsegdiff.data.prepare:prepare",
        "phase 1: raw data set -> sample folder",
        "medsegdiff train --config busi_128 --data_dir {output_dir}",
    ),
    "train": Command(
        "medsegdiff.generators.joint_diffusion.config:TrainConfig",
        "medsegdiff.generators.joint_diffusion.trainer:train",
        "phase 2: samples -> generative checkpoint",
        "medsegdiff generate --checkpoint_path {output_dir}/best_model.safetensors --output_dir synthetic",
    ),
    "few-step": Command(
        "medsegdiff.generators.joint_diffusion.few_step.config:FewStepConfig",
        "medsegdiff.generators.joint_diffusion.few_step.trainer:few_step",
        "checkpoint -> one that samples sharper pictures in a few network calls",
        "medsegdiff generate --checkpoint_path {output_dir}/best_model.safetensors --output_dir synthetic",
    ),
    "generate": Command(
        "medsegdiff.synthesis.config:GenerateConfig",
        "medsegdiff.synthesis.run:generate",
        "phase 3: checkpoint -> new samples, or masks of images",
        "medsegdiff evaluate --real_data SAMPLES --synthetic_data {output_dir}",
    ),
    "control": Command(
        "medsegdiff.synthesis.control:ControlConfig",
        "medsegdiff.synthesis.control:control",
        "whether a checkpoint does what it is asked: each attribute swept, asked against obtained",
    ),
    "combine": Command(
        "medsegdiff.data.config:CombineConfig",
        "medsegdiff.data.combine:combine",
        "phase 4: real + synthetic samples -> samples",
        "medsegdiff segment --data_dir {output_dir} --output_dir segmentation_combined",
    ),
    "segment": Command(
        "medsegdiff.downstream.config:SegmentConfig",
        "medsegdiff.downstream.benchmark:segment",
        "phase 5: samples -> segmentation model and its scores on real test pictures",
        "medsegdiff predict --model_path {output_dir} --images PICTURES",
    ),
    "predict": Command(
        "medsegdiff.downstream.config:PredictConfig",
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
        "medsegdiff prepare --input_dir {output_dir} --output_dir samples",
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


@dataclass(frozen=True)
class Everywhere:
    """Flags that every command takes, wherever they stand."""

    quiet: bool = False  # no bars and no lines but warnings and errors
    log_file: str | None = None  # what is said goes to this file too, with the time
    threads: int | None = None  # to compute with; default: the cores that this process has
    rest: tuple[str, ...] = ()  # what is left of the command line


def everywhere(argv: Sequence[str]) -> Everywhere:
    """Take those flags out of a command line. Raises `UserError` for one without its value."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if word == "--quiet":
            found["quiet"] = True
        elif flag in ("--log_file", "--threads"):
            value = value if equals else next(words, "")
            number = flag == "--threads"
            good = value.isdecimal() and int(value) > 0 if number else bool(value) and not value.startswith("--")
            require(good, flag, value or "nothing behind it", "a number above 0" if number else "a file to write")
            found[flag[2:]] = int(value) if number else value
        else:
            rest.append(word)
    return Everywhere(**found, rest=tuple(rest))


def run(name: str, argv: Sequence[str], *, alone: bool = False) -> Any:
    """Parse the flags of command `name` and call its library function; returns what that returns. Or print its help.

    `alone`: nothing follows by itself, so say how long it took, and what to type next.
    """
    command = COMMANDS[name]
    if {"-h", "--help"} & set(argv):
        print(help_text(name, command.summary, load(command.config), [t for t in argv if t != "--help"]))
        return None
    config = parse(name, load(command.config), argv)
    started = time.perf_counter()
    result = load(command.function)(config)
    if alone:
        logger.info("%s took %s", name, _duration(time.perf_counter() - started))
    if alone and command.then:
        logger.info("next: %s", command.then.format(**{k: shlex.quote(str(v)) for k, v in vars(config).items()}))
    return result


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


OVERVIEW = (
    ("usage: medsegdiff COMMAND [--config FILE] [--flag VALUE ...]", "", "commands:"),
    (
        "",
        "`medsegdiff COMMAND --help` lists the flags of a command. Every command takes these too:",
        "  --quiet          no progress bars, and nothing said but warnings and errors",
        "  --log_file FILE  what is said goes to a file as well, with the time",
        "  --threads N      threads to compute with; default: the cores that this process has",
        "`medsegdiff --version` says which one this is.",
    ),
)


def _overview() -> str:
    lines = [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*OVERVIEW[0], *lines, *OVERVIEW[1]])


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status: 0 done, 2 wrong input (one line on stderr), 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_AboveBars(sys.stdout)], force=True)
    log = logging.getLogger("medsegdiff")
    log.setLevel(logging.INFO)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(_overview(), file=sys.stdout if argv else sys.stderr)
            return 0 if argv else 2
        if argv[0] == "--version":
            print(f"medsegdiff {__version__}")
            return 0
        given = everywhere(argv)
        with _as_asked(given, log), _quiet_threads():
            if not given.rest or given.rest[0] not in COMMANDS:
                _refuse_command(given.rest[0] if given.rest else "nothing")
            run(given.rest[0], given.rest[1:], alone=True)
    except UserError as error:
        return _refuse(error)
    except (OSError, MemoryError, RuntimeError) as error:
        refusal = from_os_error(error)
        if refusal is None:  # a bug, which needs its traceback
            raise
        return _refuse(refusal)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        return _refuse(missing)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what was saved", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _as_asked(given: Everywhere, log: logging.Logger) -> Iterator[None]:
    """Threads, bars and a log file as `given`, for as long as a command runs."""
    use_cores(given.threads)
    if given.quiet:
        log.setLevel(logging.WARNING)
    from medsegdiff.engine.progress import hide_bars  # here, as --help does without tqdm

    hide_bars(given.quiet)
    if given.log_file is None:
        yield
        return
    file = logging.FileHandler(given.log_file, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    try:
        yield
    except Exception as error:
        file.emit(logging.LogRecord(log.name, logging.ERROR, __file__, 0, str(error), None, None))
        raise
    finally:
        log.removeHandler(file)
        file.close()


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
