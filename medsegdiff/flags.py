"""Flags and YAML files as a configuration dataclass: every leaf field is a setting, nested ones with a dot.

Values come from the dataclass's defaults, then from YAML, then from flags. What a value may be, the dataclass says: the
type by its annotation, the rest in `__post_init__`. A wrong one is a `UserError` that names the flag, or file and key.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from medsegdiff.engine.packaged import packaged
from medsegdiff.errors import UserError

FINITE = "a finite number"
WIDTH, INDENT = 118, 34  # of the lines of --help


@dataclass(frozen=True)
class Setting:
    """One flag: a leaf field of a configuration dataclass."""

    key: str  # "lr", "model.num_heads"
    kind: Any  # type of the value, or of each of its items
    many: bool  # True: one or more values
    optional: bool  # True: may be None, written as null
    default: Any  # `dataclasses.MISSING` where the user has to give it
    help: str  # the comment beside the field

    @property
    def takes(self) -> str:
        """What it takes, in words: "int", "float", "one of auto, cpu, cuda", "a list of str"."""
        choices = get_args(self.kind) if get_origin(self.kind) is Literal else ()
        name = f"one of {', '.join(map(str, choices))}" if choices else self.kind.__name__
        return f"a list of {name}" if self.many else name


class Given(NamedTuple):
    """A value as the user wrote it."""

    where: str  # the flag, or file and key
    value: Any  # text, or a list of texts, of a flag; whatever YAML makes of it


def field_comments(config_class: type) -> dict[str, str]:
    """The comment beside each field of a dataclass: {"lr": "peak learning rate of AdamW", ...}."""
    found: dict[str, str] = {}
    for kind in reversed(config_class.__mro__[:-1]):
        found |= dict(re.findall(r"^    (\w+): .*?# (.+)$", inspect.getsource(kind), flags=re.MULTILINE))
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def nested(config_class: type, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass of every nested field. Of one that another field chooses it is the `chosen` one, or the default."""
    hints, fields = get_type_hints(config_class), {f.name: f for f in dataclasses.fields(config_class)}
    found = {name: hints[name] for name in fields if dataclasses.is_dataclass(hints[name])}
    for name, (by, choose) in choices(config_class).items():
        found[name] = choose(chosen.get(by, _default(fields[by])))
    return found


def choices(config_class: type) -> dict[str, Any]:
    """{nested field: (the field that chooses its dataclass, the function that finds it by that field's value)}."""
    fields = dataclasses.fields(config_class)
    return {field.name: field.metadata["chosen_by"] for field in fields if "chosen_by" in field.metadata}


def settings(config_class: type, chosen: Mapping[str, Any] | None = None, prefix: str = "") -> Iterator[Setting]:
    """Every leaf field of a configuration dataclass, in order, those of nested ones as "outer.inner"."""
    hints, comments = get_type_hints(config_class), field_comments(config_class)
    inner = nested(config_class, chosen or {})
    for field in dataclasses.fields(config_class):
        if field.name in inner:
            yield from settings(inner[field.name], None, f"{prefix}{field.name}.")
            continue
        kind = hints[field.name]
        variants = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        plain = [variant for variant in variants if variant is not types.NoneType]
        many = get_origin(plain[0]) is list
        item = get_args(plain[0])[0] if many else plain[0]
        optional = len(plain) < len(variants)
        yield Setting(prefix + field.name, item, many, optional, _default(field), comments.get(field.name, ""))


def typed(value: Any, setting: Setting) -> Any:
    """What a flag (as text) or YAML gives for a setting, in its type. Raises ValueError where it is of another."""
    if setting.optional and value is None:
        return None
    if not setting.many:
        return _item(value, setting.kind)
    if not isinstance(value, list):
        raise ValueError("not a list")
    return [_item(item, setting.kind) for item in value]


def _item(value: Any, kind: Any) -> Any:
    """One value of a type: `str`, `int`, `float`, `bool`, or one of a few words."""
    if get_origin(kind) is Literal:
        known = get_args(kind)
        words = {str(choice).lower() if isinstance(choice, bool) else choice: choice for choice in known}
        if isinstance(value, bool) and value in [choice for choice in known if isinstance(choice, bool)]:
            return value
        if isinstance(value, str) and value in words:
            return words[value]
    elif kind is bool:
        word = str(value).lower()
        if word in ("true", "false"):
            return word == "true"
    elif kind is str:
        if isinstance(value, str):
            return value
    elif isinstance(value, (str, int) if kind is int else (str, int, float)) and not isinstance(value, bool):
        return kind(value)
    raise ValueError(f"not of type {kind}")


def _checked(given: Given, setting: Setting, name: str) -> Any:
    """The value in its type; `UserError` for another type, and for what can never be meant: empty text, NaN, ..."""
    hint = f"See medsegdiff {name} --help."
    if setting.many and not isinstance(given.value, list) and given.value is not None:
        raise UserError(given.where, given.value, setting.takes, f"Write {setting.key}: [{given.value}].")
    try:
        value = typed(given.value, setting)
    except (ValueError, OverflowError) as error:
        found = "nothing" if given.value is None else _words(given.value)
        if (
            setting.many and setting.kind is str and isinstance(given.value, list)
        ):  # YAML makes numbers and dates of names
            hint = f"""Put quotes around them: [{", ".join(f'"{item}"' for item in given.value)}]."""
        raise UserError(given.where, found, setting.takes, hint) from error
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and (not item.strip() or "\0" in item):
            raise UserError(given.where, repr(item), "a name", "Give one, or leave the setting out.")
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(given.where, item, FINITE, "Change the setting.")
        if isinstance(item, int) and abs(item) >= 2**63:
            raise UserError(given.where, item, "a number below 2^63", "Change the setting.")
    return value


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and prefix.count(".") < 2:  # no setting lies deeper; a YAML alias may hold itself
            yield from _leaves(value, f"{prefix}{key}.")
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


def read_yaml(path: str) -> dict[str, Given]:
    """The settings in a YAML file, or in one that comes with medsegdiff, by its name ("busi_128").

    Refuses one that cannot be read, is no mapping, or has a key twice.
    """
    import yaml

    file = Path(path).expanduser()
    try:
        text = (file if file.exists() else packaged("configs").get(path, file)).read_text(encoding="utf-8")
        values, tree = yaml.safe_load(text), yaml.compose(text)
    except OSError as error:
        raise UserError(path, error.strerror or error, "a readable YAML file", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(path, f"text that is not UTF-8 ({error.reason})", "YAML", "Correct the file.") from error
    except yaml.MarkedYAMLError as error:
        where = f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else path
        raise UserError(where, _one_line(error.problem), "YAML", "Correct the line.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise UserError(path, _one_line(error), "YAML", "Correct the file.") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(path, found, "lines of the form `key: value`", "Correct the file.")
    double = _double_key(tree)
    if double is not None:
        raise UserError(path, f"{double} a second time", "each key once", "Remove one of the lines.")
    return {key: Given(f"{path}, {key}", value) for key, value in _leaves(values)}


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _flags(argv: Sequence[str], name: str) -> list[tuple[str, list[str]]]:
    """The flags of a command line, each with what stands behind it."""
    flags: list[tuple[str, list[str]]] = []
    stray: list[str] = []
    for token in argv:
        if token.startswith("--"):
            key, equals, value = token[2:].partition("=")
            flags.append((key, [value] if equals else []))
        else:
            (flags[-1][1] if flags else stray).append(token)
    if stray:
        _refuse_stray(stray, name)
    return flags


def _refuse_stray(stray: Sequence[str], name: str) -> None:
    found, hint = f"unrecognized arguments: {' '.join(stray)}", f"See medsegdiff {name} --help."
    raise UserError(f"medsegdiff {name}", found, "flags and values as --help lists them", hint)


def _refuse_unknown(where: str, key: str, known: Mapping[str, Setting], owner: str, dashes: str = "") -> None:
    """Refuse a key that no setting has, with the one that resembles it most; "num_heads" finds "model.num_heads"."""
    if key in known:
        return
    ends = {k.rpartition(".")[2]: k for k in reversed(list(known))} | {k: k for k in known}
    found = difflib.get_close_matches(key, ends, 1) or difflib.get_close_matches(key.rpartition(".")[2], ends, 1)
    hint = f"Did you mean {dashes}{ends[found[0]]}?" if found else f"See {owner} --help."
    raise UserError(where, f"unknown setting {dashes}{key}", f"a setting of {owner}", hint)


def parse(name: str, config_class: type, argv: Sequence[str]) -> Any:
    """The configuration that flags (and YAML files behind `--config`) describe. Raises `UserError`."""
    given: dict[str, Given] = {}
    flags = _flags(argv, name)
    for key, behind in flags:
        if key == "config":
            if not behind:
                raise UserError("--config", "nothing behind it", "a YAML file", "Name the file.")
            if behind[1:]:
                _refuse_stray(behind[1:], name)
            given |= read_yaml(behind[0])
    given |= {key: Given(f"--{key}", behind) for key, behind in flags if key != "config"}
    return _configured(name, config_class, given, {key: [k for k, _ in flags].count(key) for key, _ in flags})


def from_keywords(name: str, config_class: type, values: Mapping[str, Any], file: str | None = None) -> Any:
    """The configuration that Python `values` (over those of a YAML `file`) describe. Raises `UserError` as `parse`.

    Nested settings are mappings or have a dot: {"model": {"width": 8}} is {"model.width": 8}.
    """
    given = {} if file is None else read_yaml(file)
    plain = {key: Given(key, _plain(value)) for key, value in _leaves(dict(values))}
    return _configured(name, config_class, given | plain, {})


def _plain(value: Any) -> Any:
    """Paths as text, tuples as lists, numbers of numpy as those of Python."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _configured(name: str, config_class: type, given: dict[str, Given], times: Mapping[str, int]) -> Any:
    """The configuration of what is given; `times`: how often each flag stands on the command line."""
    chosen = chosen_in(config_class, given)
    known = {setting.key: setting for setting in settings(config_class, chosen)}
    for key, one in given.items():
        owner = " ".join([f"medsegdiff {name}", *(f"--{k} {v}" for k, v in _chooses(config_class, chosen, key))])
        if key in times:
            _refuse_unknown(f"medsegdiff {name}", key, known, owner, "--")
            given[key] = _of_flag(one, known[key], times[key], name)
        else:
            _refuse_unknown(one.where.rpartition(", ")[0] or name, key, known, owner)
    values = {key: _checked(one, known[key], name) for key, one in given.items()}
    missing = [s.key for s in known.values() if s.default is dataclasses.MISSING and s.key not in given]
    if missing:
        names = " ".join(f"--{key}" for key in missing)
        raise UserError(f"medsegdiff {name}", "too few settings", names, f"See medsegdiff {name} --help.")
    try:
        return build(config_class, values, chosen)
    except UserError as error:
        key = error.where.removeprefix("--")
        raise error.at(given[key].where if key in given else error.where) from error


def chosen_in(config_class: type, given: Mapping[str, Given]) -> dict[str, Any]:
    """The values of those fields that choose the dataclass of another one, as they are `given`."""
    plain = {field.name: field for field in dataclasses.fields(config_class)}
    found: dict[str, Any] = {}
    for by, choose in choices(config_class).values():
        value = given[by].value if by in given else _default(plain[by])
        value = value[-1] if isinstance(value, list) and value else value
        found[by] = _default(plain[by]) if isinstance(value, list | dict) else value  # refused later, by its type
        try:
            choose(found[by])
        except UserError as error:
            raise error.at(given[by].where if by in given else f"--{by}") from error
    return found


def _chooses(config_class: type, chosen: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """The choice that decides which settings there are beside `key`, if any."""
    return [(by, chosen[by]) for outer, (by, _) in choices(config_class).items() if key.startswith(f"{outer}.")]


def _of_flag(one: Given, setting: Setting, times: int, name: str) -> Given:
    """What stands behind a flag: a list where the setting takes one, else the one text."""
    if times > 1:
        hint = f"Write the values behind one {one.where}." if setting.many else "Remove one."
        raise UserError(f"medsegdiff {name}", f"{one.where} a second time", "each flag once", hint)
    if not one.value:
        raise UserError(one.where, "nothing behind it", setting.takes, f"See medsegdiff {name} --help.")
    if setting.optional and one.value == ["null"]:
        return Given(one.where, None)
    if setting.many:
        return one
    if one.value[1:]:
        _refuse_stray(one.value[1:], name)
    return Given(one.where, one.value[0])


def build(config_class: type, values: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Any:
    """A configuration from its settings by their keys, nested ones as "outer.inner"; the others have their defaults."""
    own = {key: value for key, value in values.items() if "." not in key}
    for name, kind in nested(config_class, chosen or {}).items():
        inner = {key.removeprefix(f"{name}."): v for key, v in values.items() if key.startswith(f"{name}.")}
        own[name] = build(kind, inner)
    return config_class(**own)


def help_text(name: str, summary: str, config_class: type, argv: Sequence[str]) -> str:
    """What `medsegdiff <name> --help` prints: every setting with what it takes, its meaning and its default."""
    given = {key: Given(f"--{key}", values) for key, values in _flags([t for t in argv if t != "-h"], name)}
    lines = [f"usage: medsegdiff {name} [--config FILE] [--flag VALUE ...]", "", summary, "", "settings:"]
    rows = [("--config", "FILE", "YAML file with settings; flags win over it")]
    for setting in settings(config_class, chosen_in(config_class, given)):
        required = setting.default is dataclasses.MISSING
        after = "required" if required else f"default: {_words(setting.default)}"
        rows.append((f"--{setting.key}", setting.takes, f"{setting.help} ({after})"))
    for flag, takes, text in rows:
        head = f"  {flag}  "
        body = textwrap.wrap(f"{text}; {takes}", WIDTH - INDENT)
        first = [head.ljust(INDENT) + body[0]] if len(head) <= INDENT else [head, " " * INDENT + body[0]]
        lines += first + [" " * INDENT + line for line in body[1:]]
    return "\n".join(lines)
