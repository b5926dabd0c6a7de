"""Attributes that samples are asked for: for all of them by a flag, or row by row by a table; and what came of it."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.base import Condition
from medsegdiff.conditioning.modality import Modality
from medsegdiff.conditioning.registry import read_condition
from medsegdiff.data.records import SampleRecord
from medsegdiff.data.schema import ATTRIBUTE
from medsegdiff.engine.files import write_bytes
from medsegdiff.engine.rng import generator as random_stream
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import GeneratorCard
from medsegdiff.synthesis.plan import Item

# Purpose numbers of random streams: a value within its range, a shape of picture, a place
WITHIN, ASPECT, PLACED = 23, 22, 25
TABLE_FILE = "requests.csv"
WORDS = ("label", "prompt", "modality", "noise")  # columns of a table of requests beside attributes
FEWEST = 10  # samples of which a rank correlation is said

C = TypeVar("C", bound=Condition)
Ranges = Mapping[str, tuple[float, float]]  # by attribute: least and largest value


@dataclass(frozen=True)
class Row:
    """One row of a table of requests."""

    label: str | None
    ranges: Ranges
    prompt: str = ""
    modality: str = ""
    noise: int | None = None  # rows of the same number begin with the same noise


def parse_ranges(texts: Iterable[str], where: str = "--attributes") -> Ranges:
    """Of texts such as "area=0.08" or "area=0.05:0.1". Raises `UserError` for others."""
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        hint = "Write for example area=0.08, or area=0.05:0.1."
        require(bool(equals), where, repr(text), "name=number or name=least:largest", hint)
        require(name not in found, where, f"{name} twice", "each attribute once")
        found[name.strip()] = parse_range(value, f"{where} {name}")
    return found


def parse_range(text: str, where: str) -> tuple[float, float]:
    """(least, largest) of "0.08" or "0.05:0.1". Raises `UserError` for another text."""
    try:
        low, _, high = (part.strip() for part in text.partition(":"))
        found = float(low), float(high or low)
    except ValueError as error:
        raise UserError(where, repr(text), "a number, or two with a colon between them", "Correct it.") from error
    require(all(map(math.isfinite, found)) and found[0] <= found[1], where, repr(text), "the smaller number first")
    return found


def read_requests(path: Path, card: GeneratorCard) -> list[Row]:
    """The rows of a CSV with columns of `WORDS` and attributes, these as `parse_range`; empty cells are free.

    Raises `UserError` naming row and column of what cannot be asked for.
    """
    attributes = condition_of(card, Attributes)
    known = attributes.names if attributes else []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(path, found, "a CSV file of requests", "Check the path.") from error
    require(len(lines) > 1, str(path), f"{len(lines)} lines", "a line of names and a row for each sample")
    names = [name.strip().removeprefix(ATTRIBUTE) for name in lines[0]]
    require(len(set(names)) == len(names), str(path), f"columns {', '.join(names)}", "each column once")
    for name in names:
        expected = f"{', '.join(WORDS)}, or an attribute of the checkpoint: {', '.join(known) or 'it takes none'}"
        require(name in (*WORDS, *known), str(path), f"column {name!r}", expected, "Rename or delete it.")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{path} row {number}"
        require(len(cells) == len(names), where, f"{len(cells)} cells", f"{len(names)}, one a column")
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if cell.strip()}
        label, prompt, modality = row.pop("label", None), row.pop("prompt", ""), row.pop("modality", "")
        noise = row.pop("noise", None)
        whole = noise is None or noise.isdecimal()
        require(whole, f"{where} column noise", repr(noise), "a whole number; rows with the same one are alike")
        classes = f"one of {', '.join(card.classes)}"
        require(label is None or label in card.classes, f"{where} column label", repr(label), classes)
        ranges = {name: parse_range(cell, f"{where} column {name}") for name, cell in row.items()}
        check_ranges(card, ranges, where)
        rows.append(Row(label, ranges, prompt, modality, None if noise is None else int(noise)))
    return rows


def condition_of(card: GeneratorCard, kind: type[C]) -> C | None:
    """The condition of that kind that a generator takes."""
    return next((c for c in map(read_condition, card.conditions) if type(c) is kind), None)


def _taken(card: GeneratorCard, kind: type[C], where: str, hint: str) -> C:
    """The same. Raises `UserError`, for the setting `where`, where it takes none."""
    found = condition_of(card, kind)
    if found is None:
        takes = ", ".join(c["name"] for c in card.conditions) or "nothing"
        raise UserError(where, f"a checkpoint that takes {takes}", f"one that takes {kind.name}", hint)
    return found


def attributes_of(card: GeneratorCard, where: str) -> Attributes:
    """The attributes that a generator takes. Raises `UserError`, for the setting `where`, where it takes none."""
    return _taken(card, Attributes, where, "Train one with --conditions label attributes.")


def check_ranges(card: GeneratorCard, ranges: Ranges, where: str = "") -> None:
    """Raise `UserError` for an attribute that the generator does not take, or never learnt such values of."""
    if not ranges:
        return
    condition = attributes_of(card, where or "--attributes")
    for end in (0, 1):
        condition.check({name: ends[end] for name, ends in ranges.items()}, where)


def aspect_of(card: GeneratorCard, item: Item) -> float:
    """True width / height: that of the conditioning mask, else that of a train picture of the class."""
    if item.conditioning_input is not None:
        return item.conditioning_input.width * item.conditioning_input.pixel_aspect / item.conditioning_input.height
    aspects = card.aspects[item.label]
    return aspects[int(torch.randint(len(aspects), (1,), generator=random_stream(*item.request.seed, ASPECT)))]


def modality_of(card: GeneratorCard, name: str, where: str = "--modality") -> None:
    """Raise `UserError` for a modality that a generator did not learn."""
    known = _taken(card, Modality, where, "Leave it out.").classes
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}?" if near else "Choose one of them."
    require(name in known, where, name, f"one of {', '.join(known)}", hint)


def with_attributes(item: Item, ranges: Ranges, card: GeneratorCard, text: str = "", modality: str = "") -> Item:
    """An item that is asked for with a value of each range, the same for the same seed; with a text and a modality."""
    said = {name: value for name, value in (("text", text), ("modality", modality)) if value}
    if said:
        conditions = {**item.request.conditions, **said}
        item = dataclasses.replace(item, request=dataclasses.replace(item.request, conditions=conditions))
    if not ranges:
        return item
    shares = torch.rand(len(ranges), dtype=torch.float64, generator=random_stream(*item.request.seed, WITHIN)).tolist()
    ends = sorted(ranges.items())
    values = {name: low + share * (high - low) for share, (name, (low, high)) in zip(shares, ends, strict=True)}
    aspect, drawn = aspect_of(card, item), values
    if item.conditioning_input is None:  # a picture or mask that is given has its place already
        chance = random_stream(*item.request.seed, PLACED)
        drawn = attributes_of(card, "--attributes").placed(values, aspect, chance)
    conditions = {**item.request.conditions, "attributes": drawn, "asked": values, "aspect": aspect}
    return dataclasses.replace(item, request=dataclasses.replace(item.request, conditions=conditions))


def asked_of(item: Item) -> Mapping[str, float]:
    """Values of attributes that an item is asked for with."""
    found = item.request.conditions.get("asked", {})
    assert isinstance(found, Mapping)
    return found


def write_obtained(folder: Path, items: Sequence[Item], records: Sequence[SampleRecord]) -> list[str]:
    """Write what was asked for and obtained, a row a sample; returns a line for each attribute that says how near."""
    names = sorted({name for item in items for name in asked_of(item)})
    by_id = {record.id: record.attributes for record in records}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", *(f"{what}:{name}" for name in names for what in ("asked", "obtained"))])
    for item in items:
        pairs = [(asked_of(item).get(name, ""), by_id[item.request.id].get(name, "")) for name in names]
        writer.writerow([item.request.id, item.label, *(value for pair in pairs for value in pair)])
    write_bytes(folder / TABLE_FILE, text.getvalue().encode())
    lines = []
    for name in names:
        rows = [(asked_of(item).get(name), by_id[item.request.id].get(name)) for item in items]
        known = np.array([row for row in rows if None not in row], dtype=float).reshape(-1, 2)
        if len(known):
            off = float(np.median(np.abs(known[:, 0] - known[:, 1])))
            line = f"{name}: asked {known[:, 0].min():.3g} to {known[:, 0].max():.3g}, median difference {off:.3g}"
            if len(known) >= FEWEST and known[:, 0].min() < known[:, 0].max():
                line += f", rank correlation {float(spearmanr(*known.T).statistic):.2f}"
            lines.append(line)
    return lines
