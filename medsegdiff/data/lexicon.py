"""Words for lesions after BI-RADS, each with the range of an attribute that it means; captions written of them.

BI-RADS: ACR Breast Imaging Reporting and Data System, 5th edition, 2013, the part on ultrasound: shape, orientation,
margin, echo pattern, posterior features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ABSENT = -math.inf, math.inf


@dataclass(frozen=True)
class Meaning:
    """What a phrase asks of one attribute: a range of quantiles of the train split, cut to a range of values."""

    attribute: str
    quantiles: tuple[float, float] = (0.0, 1.0)
    values: tuple[float, float] = ABSENT

    def ends(self, knots: Sequence[float]) -> tuple[float, float]:
        """(least, largest) value, where the train split has these quantiles of it (`knots_of`).

        The least is above the largest where it has no such values.
        """
        low, high = (knots[round(q * (len(knots) - 1))] for q in self.quantiles)
        return max(low, self.values[0]), min(high, self.values[1])

    def says(self, attribute: str, value: float, knots: Sequence[float]) -> bool:
        """Whether it is true of a value of an attribute."""
        low, high = self.ends(knots)
        return attribute == self.attribute and low <= value <= high


def _all(meaning: Meaning, *phrases: str) -> dict[str, Meaning]:
    return dict.fromkeys(phrases, meaning)


SEVERAL = ("several", "multiple")
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
    **_all(Meaning("count", values=(2, 2)), "two"),
    **_all(Meaning("count", values=(2, 3)), *SEVERAL),
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


# How captions are built: what stands before the class, and what follows it
BEFORE, AFTER = ("count", "area", "irregularity", "echogenicity"), ("depth_to_width", "sharpness", "posterior")
PLACE = ("depth", "lateral")


def caption(
    label: str, values: Mapping[str, float], knots: Mapping[str, Sequence[float]], random: np.random.Generator
) -> str:
    """A caption of a lesion with these attributes, such as "small oval benign mass, parallel, upper left".

    `knots`: of each attribute the quantiles of the train split. Chance chooses among words, and leaves any number of
    attributes out, so that networks learn short captions too. Every word says what is true (`Meaning.says`). Without
    attributes the class alone.
    """
    kept = random.random()
    words: dict[str, str] = {}
    for name in (*BEFORE, *AFTER, *PLACE):
        said, choice = random.random(2).tolist()
        if said < kept and name in knots and name in values:
            fits = [phrase for phrase, meaning in LEXICON.items() if meaning.says(name, values[name], knots[name])]
            if name in BEFORE:  # nouns, as in "smooth margin", do not stand before another one
                fits = [phrase for phrase in fits if phrase.split()[-1] not in FILLERS]
            words |= {name: fits[int(choice * len(fits))]} if fits else {}
    noun = "mass" if random.random() < 0.5 else "lesion"
    if words.get("count") in ("two", *SEVERAL):
        noun = {"mass": "masses", "lesion": "lesions"}[noun]
    first = " ".join([*(words[name] for name in BEFORE if name in words), label, *([noun] if values else [])])
    place = " ".join(words[name] for name in PLACE if name in words)
    return ", ".join(part for part in (first, *(words.get(name, "") for name in AFTER), place) if part)
