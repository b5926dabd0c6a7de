"""Command lines: `medsegdiff <command> [--config FILE] [--flag VALUE ...]`; the five scripts at the top call `main`.

Every flag is a field of the command's configuration dataclass, nested ones with a dot (`--model.num_heads 8`); its
help text is the comment beside the field. Values come from the dataclass's defaults, then from YAML, then from flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import logging
import math
import re
import sys
import threading
import types
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medsegdiff.errors import UserError, from_os_error


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
        "phase 1: raw BUSI folder -> sample folder",
    ),
    "train": Command(
        "medsegdiff.generators.joint_diffusion.config:TrainConfig",
        "medsegdiff.generators.joint_diffusion.trainer:train",
        "phase 2: samples -> generative checkpoint",
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


FINITE = "a finite number"


@dataclass(frozen=True)
class Setting:
    """One flag: a leaf field of a configuration dataclass."""

    key: str  # "lr", "model.num_heads"
    kind: Any  # type of the value, or of each of its items
    many: bool  # True: one or more values
    default: Any  # `dataclasses.MISSING` where the user has to give it
    help: str


def load(address: str) -> Any:
    """The object at "module:name"."""
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def field_comments(config_class: type) -> dict[str, str]:
    """The comment beside each field of a dataclass: {"lr": "peak learning rate of AdamW", ...}."""
    return dict(re.findall(r"^    (\w+): .*?# (.+)$", inspect.getsource(config_class), flags=re.MULTILINE))


def settings(config_class: type, prefix: str = "") -> Iterator[Setting]:
    """Every leaf field of a configuration dataclass, in order, those of nested ones as "outer.inner"."""
    hints, comments = get_type_hints(config_class), field_comments(config_class)
    for field in dataclasses.fields(config_class):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from settings(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        variants = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        lists = [v for v in variants if get_origin(v) is list]
        item = get_args(lists[0])[0] if lists else kind
        yield Setting(prefix + field.name, item, bool(lists), default, comments.get(field.name, ""))


def build(config_class: type, values: dict[str, Any]) -> Any:
    """A configuration from a dictionary that has nested dictionaries where it has nested dataclasses."""
    hints = get_type_hints(config_class)
    return config_class(
        **{k: build(hints[k], v) if dataclasses.is_dataclass(hints[k]) else v for k, v in values.items()}
    )


def _parser(name: str, config_class: type) -> Any:
    from jsonargparse import ArgumentParser  # 0.1 s that `medsegdiff --help` need not wait for

    summary = COMMANDS[name].summary if name in COMMANDS else None
    parser = ArgumentParser(prog=f"medsegdiff {name}", description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with settings; flags win over it")
    for setting in settings(config_class):
        required = setting.default is dataclasses.MISSING
        given: dict[str, Any] = {"required": True} if required else {"default": setting.default}
        if setting.many:
            given["nargs"] = "+"
        parser.add_argument(f"--{setting.key}", type=setting.kind, help=setting.help or None, **given)
    return parser


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known key that resembles `key` most, "" where none does; "num_heads" finds "model.num_heads"."""
    ends = {k.rpartition(".")[2]: k for k in reversed(known)} | {k: k for k in known}
    found = difflib.get_close_matches(key, ends, 1, 0.6) or difflib.get_close_matches(
        key.rpartition(".")[2], ends, 1, 0.6
    )
    return ends[found[0]] if found else ""


def _refuse_unknown(where: str, key: str, known: Sequence[str], name: str, dashes: str = "") -> None:
    if key in known:
        return
    nearest = _nearest(key, known)
    hint = f"Did you mean {dashes}{nearest}?" if nearest else f"See medsegdiff {name} --help."
    raise UserError(where, f"unknown setting {dashes}{key}", f"a setting of medsegdiff {name}", hint)


def _yaml_leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and prefix.count(".") < 2:  # no setting lies deeper; a YAML alias may hold itself
            yield from _yaml_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _double_key(tree: Any) -> str | None:
    """A key that stands twice in one mapping of a YAML tree, of which PyYAML would take the last without a word."""
    for _, node in [(None, tree), *tree.value]:
        keys = [key.value for key, _ in node.value] if node.id == "mapping" else []
        for key in keys:
            if keys.count(key) > 1:
                return str(key)
    return None


def _check_yaml(path: str, known: dict[str, Setting], name: str) -> None:
    """Refuse a YAML file that cannot be read, is no mapping, or has a key that is unknown, double or no list."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        values, tree = yaml.safe_load(text), yaml.compose(text)
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable YAML file", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"text that is not UTF-8 ({error.reason})", "YAML", "Correct the file.") from error
    except yaml.MarkedYAMLError as error:
        where = f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else path
        raise UserError(where, _one_line(error.problem), "YAML", "Correct the line.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(path, _one_line(error), "YAML", "Correct the file.") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(path, found, "lines of the form `key: value`", "Correct the file.")
    double = _double_key(tree)
    if double is not None:
        raise UserError(path, f"{double} a second time", "each key once", "Remove one of the lines.")
    for key, value in _yaml_leaves(values):
        _refuse_unknown(path, key, list(known), name)
        if known[key].many and not isinstance(value, list) and value is not None:
            raise UserError(f"{path}, {key}", value, _kind(known[key]), f"Write {key}: [{value}].")


def _config_first(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The YAML files that `--config` names, and argv with them in front, so that flags win wherever they stand."""
    files, rest, tokens = [], [], iter(argv)
    for token in tokens:
        if token == "--config":
            file = next(tokens, None)
            if file is None:
                raise UserError("--config", "nothing behind it", "a YAML file", "Name the file.")
            files.append(file)
        elif token.startswith("--config="):
            files.append(token.partition("=")[2])
        else:
            rest.append(token)
    return files, [f"--config={file}" for file in files] + rest


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _kind(setting: Setting) -> str:
    """What a setting takes, in words: "int", "float", "one of auto, cpu, cuda", "a list of str"."""
    for kind in (setting.kind, *get_args(setting.kind)):  # the choices of `Literal[...] | None` lie one level down
        if get_origin(kind) is Literal:
            return f"one of {', '.join(map(str, get_args(kind)))}"
    name = setting.kind.__name__ if isinstance(setting.kind, type) else str(setting.kind).removesuffix(" | None")
    return f"a list of {name}" if setting.many else name


def _reported(error: Exception, name: str, known: dict[str, Setting]) -> UserError:
    """What jsonargparse says in several lines, as a `UserError`."""
    text = _one_line(error)
    hint = f"See medsegdiff {name} --help."
    if missing := re.search(r"arguments are required: (.+)", text):
        names = " ".join(f"--{key.strip()}" for key in missing[1].split(","))
        return UserError(f"medsegdiff {name}", "too few settings", names, hint)
    key = re.search(r'key "([^"]+)"', text)
    value = re.search(r"(?:Got value:|Given value:) (.*)", text)
    if key and value and key[1] in known:
        boundless = value[1].lower().strip("+-.") in ("nan", "inf", "infinity")
        return UserError(f"--{key[1]}", value[1], FINITE if boundless else _kind(known[key[1]]), hint)
    alone = re.search(r"argument --([\w.]+): expected .*argument", text)
    if alone and alone[1] in known:
        return UserError(f"--{alone[1]}", "nothing behind it", _kind(known[alone[1]]), hint)
    return UserError(f"medsegdiff {name}", text, "flags and values as --help lists them", hint)


def _check_values(values: dict[str, Any]) -> None:
    """Refuse what has the right type and can never be meant: empty text, numbers that are none or have no bound."""
    for key, value in _yaml_leaves(values):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and (not item.strip() or "\0" in item):
                raise UserError(f"--{key}", repr(item), "a name", "Give one, or leave the setting out.")
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"--{key}", item, FINITE, "Change the setting.")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise UserError(f"--{key}", item, "a number below 2^63", "Change the setting.")


def parse(name: str, config_class: type, argv: Sequence[str]) -> Any:
    """The configuration that flags (and YAML files behind `--config`) describe. Raises `UserError`."""
    known = {s.key: s for s in settings(config_class)}
    files, tokens = _config_first(argv)
    for file in files:
        _check_yaml(file, known, name)
    given: set[str] = set()
    for token in tokens[len(files) :]:
        if token.startswith("--"):
            key = token[2:].partition("=")[0]
            _refuse_unknown(f"medsegdiff {name}", key, [*known, "config", "help", "print_config"], name, "--")
            if key in given:
                hint = f"Write the values behind one --{key}." if key in known and known[key].many else "Remove one."
                raise UserError(f"medsegdiff {name}", f"--{key} a second time", "each flag once", hint)
            given.add(key)
    try:
        values = _parser(name, config_class).parse_args(tokens).as_dict()
    except ArgumentError as error:
        raise _reported(error, name, known) from error
    values.pop("config", None)
    _check_values(values)
    return build(config_class, values)


def run(name: str, argv: Sequence[str]) -> Any:
    """Parse the flags of command `name` and call its library function; returns what that returns."""
    command = COMMANDS[name]
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
