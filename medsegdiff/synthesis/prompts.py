"""A wish in words, read as a class and ranges of attributes by a lexicon after BI-RADS; nothing is guessed.

BI-RADS: ACR Breast Imaging Reporting and Data System, 5th edition, 2013, the part on ultrasound: shape, orientation,
margin, echo pattern, posterior features. A word that is not in the lexicon is refused, and so are two that exclude each
other.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.text import Text, words_of
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import GeneratorCard
from medsegdiff.synthesis.requests import Ranges, attributes_of, condition_of

LONGEST = 1000  # characters of a prompt
ABSENT = -math.inf, math.inf


@dataclass(frozen=True)
class Meaning:
    """What a phrase asks of one attribute: a range of quantiles of the train split, cut to a range of values."""

    attribute: str
    quantiles: tuple[float, float] = (0.0, 1.0)
    values: tuple[float, float] = ABSENT

    def ends(self, condition: Attributes) -> tuple[float, float]:
        """(least, largest) value for a checkpoint; the least is above the largest where it never learnt such ones."""
        knots = condition.knots[condition.names.index(self.attribute)]
        low, high = (knots[round(q * (len(knots) - 1))] for q in self.quantiles)
        return max(low, self.values[0]), min(high, self.values[1])


def _all(meaning: Meaning, *phrases: str) -> dict[str, Meaning]:
    return dict.fromkeys(phrases, meaning)


LEXICON: dict[str, Meaning] = {
    **_all(Meaning("area", (0, 0.25)), "small", "tiny"),
    **_all(Meaning("area", (0.375, 0.625)), "medium", "medium-sized"),
    **_all(Meaning("area", (0.75, 1)), "large", "big"),
    **_all(Meaning("irregularity", (0, 0.25)), "oval", "round", "regular", "smooth", "smooth margin"),
    **_all(Meaning("irregularity", (0.4, 0.65)), "lobulated", "microlobulated"),
    **_all(Meaning("irregularity", (0.75, 1)), "irregular", "spiculated", "angular"),
    **_all(Meaning("depth_to_width", values=(1.0, math.inf)), "taller than wide", "not parallel", "vertical"),
    **_all(Meaning("depth_to_width", values=(0, 0.9)), "wider than tall", "parallel", "horizontal"),
    **_all(Meaning("sharpness", (0.7, 1)), "circumscribed", "well defined", "sharp margin"),
    **_all(Meaning("sharpness", (0, 0.3)), "indistinct", "ill defined", "blurred margin", "not circumscribed"),
    **_all(Meaning("echogenicity", (0, 0.2), (-math.inf, 0)), "anechoic", "markedly hypoechoic"),
    **_all(Meaning("echogenicity", (0.2, 0.7), (-math.inf, 0)), "hypoechoic"),
    **_all(Meaning("echogenicity", values=(-12, 12)), "isoechoic"),
    **_all(Meaning("echogenicity", values=(12, math.inf)), "hyperechoic"),
    **_all(Meaning("posterior", values=(-math.inf, -10)), "posterior shadow", "posterior shadowing", "shadowing"),
    **_all(Meaning("posterior", values=(20, math.inf)), "posterior enhancement"),
    **_all(Meaning("posterior", values=(-8, 8)), "no posterior features", "no posterior feature"),
    **_all(Meaning("depth", (0, 0.3)), "upper", "superficial", "near the skin"),
    **_all(Meaning("depth", (0.7, 1)), "lower", "deep"),
    **_all(Meaning("lateral", values=(0, 0.4)), "left"),
    **_all(Meaning("lateral", values=(0.4, 0.6)), "central", "middle"),
    **_all(Meaning("lateral", values=(0.6, 1)), "right"),
    **_all(Meaning("count", values=(1, 1)), "single", "one lesion", "one mass", "one nodule"),
    **_all(Meaning("count", values=(2, 3)), "two", "several", "multiple"),
}
CLASSES = {
    "benign": ("benign", "bi-rads 2", "bi-rads 3", "birads 2", "birads 3"),
    "malignant": ("malignant", "cancer", "carcinoma", "bi-rads 5", "bi-rads 6", "birads 5", "birads 6"),
}
FILLERS = frozenset(
    "a an the with and of in on at part side area region to is that has mass masses lesion lesions nodule nodules "
    "tumor tumour breast ultrasound image picture scan b-mode margin margins shape shaped orientation echo "
    "pattern".split()
)


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
        ends = meaning.ends(condition)
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
    named = [name for name in card.classes if f" {' '.join(words_of(name))} " in f" {spoken} "]
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
