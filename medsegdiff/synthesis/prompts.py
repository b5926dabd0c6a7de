"""A wish in words, read as a class and ranges of attributes by the lexicon; nothing is guessed.

A word that is not in the lexicon is refused, and so are two that exclude each other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.encoded_text import EncodedText
from medsegdiff.conditioning.text import Text, words_of
from medsegdiff.data.lexicon import ABSENT, CLASSES, FILLERS, LEXICON
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import GeneratorCard
from medsegdiff.synthesis.requests import Ranges, attributes_of, condition_of

LONGEST = 1000  # characters of a prompt


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for."""

    label: str | None
    ranges: Ranges


def read_prompt(text: str, card: GeneratorCard, where: str = "--prompt") -> Wish:
    """The class and the ranges that a prompt asks for; of a checkpoint that learnt captions the class alone.

    Raises `UserError` for words that the lexicon lacks, for two that exclude each other, for lengths (pictures carry no
    scale), and for what the checkpoint never learnt.
    """
    require(0 < len(text.strip()) <= LONGEST, where, f"{len(text.strip())} characters", f"1 to {LONGEST}")
    if captions := condition_of(card, Text):
        captions.check(words_of(text))
    if captions or condition_of(card, EncodedText):
        return Wish(_class_in(text, card, where), {})
    words = re.sub(r"[,.;:()]", " ", text.lower())
    words = re.sub(r"\b(taller|wider)-than-(wide|tall)\b", r"\1 than \2", words).replace("non-parallel", "not parallel")
    words = re.sub(r"\b(well|ill)-defined\b", r"\1 defined", words)
    if match := re.search(r"\d+(\.\d+)?\s*(mm|cm)\b", words):
        hint = "Say small, medium or large, or ask for the share of the picture by --attributes area=0.05."
        raise UserError(where, match.group(), "no lengths: pictures carry no scale in millimetres", hint)
    label: str | None = None
    said: dict[str, str] = {}
    ranges: dict[str, tuple[float, float]] = {}
    condition: Attributes | None = None
    for phrase in _phrases(words.split(), card, where):
        if phrase not in LEXICON:
            named = _class_of(phrase, card)
            if label not in (None, named):
                raise UserError(where, f"{said['label']!r} and {phrase!r}", "one class", "Leave one of them out.")
            label, said["label"] = named, phrase
            continue
        condition = condition or attributes_of(card, where)
        meaning = LEXICON[phrase]
        name = meaning.attribute
        require(name in condition.names, where, repr(phrase), f"words of {', '.join(condition.names)}")
        ends = meaning.ends(condition.knots[condition.names.index(name)])
        low, high = ranges.get(name, ABSENT)
        both = max(ends[0], low), min(ends[1], high)
        if both[0] > both[1]:
            if name in said:
                raise UserError(
                    where, f"{said[name]!r} and {phrase!r}", f"one wish for {name}", "Leave one of them out."
                )
            knots = condition.knots[condition.names.index(name)]
            expected = f"{name} of {knots[0]:.3g} to {knots[-1]:.3g}, the range of the train split"
            raise UserError(where, repr(phrase), expected, "Leave it out.")
        ranges[name], said[name] = both, phrase
    return Wish(label, ranges)


def _class_in(text: str, card: GeneratorCard, where: str) -> str | None:
    """The class that a caption names, the longest name that it holds; None where there is one class only."""
    if len(card.classes) == 1:
        return None
    spoken = " ".join(words_of(text))
    denied = re.sub(r"\b(without|free of)( an?| any)? ", "without-", f" {spoken} ")  # "without tumor" names no tumor
    named = [name for name in card.classes if f" {' '.join(words_of(name))} " in denied]
    if not named:
        return None
    longest = max(named, key=len)
    others = [name for name in named if name.lower() not in longest.lower()]
    require(not others, where, f"{longest} and {', '.join(others)}", "one class", "Leave one of them out.")
    return longest


def _class_of(phrase: str, card: GeneratorCard) -> str:
    return next(name for name, phrases in _class_phrases(card).items() if phrase in phrases)


def _class_phrases(card: GeneratorCard) -> Mapping[str, Sequence[str]]:
    """What each class of a checkpoint may be called."""
    return {name: (name.lower(), *CLASSES.get(name.lower(), ())) for name in card.classes}


def _phrases(words: Sequence[str], card: GeneratorCard, where: str) -> list[str]:
    """The phrases of a prompt, without fillers, the longest that fit. Raises `UserError` that names unknown words."""
    known = {*LEXICON, *(phrase for phrases in _class_phrases(card).values() for phrase in phrases)}
    longest = max(len(phrase.split()) for phrase in known)
    found, unknown, place = [], [], 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            phrase = " ".join(words[place : place + length])
            if phrase in known:
                found.append(phrase)
                break
        else:
            length = 1
            if words[place] not in FILLERS:
                unknown.append(words[place])
        place += length
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*known], 1)
        hint = f"Did you mean {near[0]!r}?" if near else "docs/howto/control.md lists the words."
        raise UserError(where, ", ".join(map(repr, unknown)), "words of the lexicon", hint)
    return found
