"""Attributes of a sample as numbers: what is measured of its lesion, and columns that a data set brings itself."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import GAIN, Condition, Embedder, Sample, encode_seen, is_record
from medsegdiff.data.attributes import MEASURED, knots_of, measure
from medsegdiff.data.dataset import SampleTensors, from_channels
from medsegdiff.errors import UserError, require

PLACE = ("depth", "lateral")
USUAL = {"area": 0.05, "depth_to_width": 1.0}  # drawn where a data set has no range of them
FREQUENCIES = (1.0, 2.0, 4.0)  # of sines and cosines of them, half turns a unit


@dataclass(frozen=True, kw_only=True)
class Attributes(Condition):
    """Numbers by name, any of which may be left out.

    Beside them the network gets the true width over height of the picture, by which shapes in a square picture are
    read.
    """

    name: ClassVar[str] = "attributes"
    kind: ClassVar[str] = "numbers"
    names: list[str]
    knots: list[list[float]]  # of each name, `knots_of` its values in the train split

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        """Of the names that differ between train samples. Raises `UserError` where there is none."""
        own = sorted({name for record in train.records for name in record.attributes} - set(MEASURED))
        names = [*(MEASURED if train.spec.is_binary else ()), *own]
        fitted = cls(drop_rate=drop_rate, names=names, knots=[])
        values = encode_seen([fitted], train)[cls.name].double().numpy()
        knots = {name: knots_of(column) for name, column in zip(names, values.T, strict=False)}
        found = {name: own for name, own in knots.items() if own}
        where, expected = "--conditions attributes", "lesion masks, or columns attribute:<name> of unlike numbers"
        require(bool(found), where, "a data set without any", expected, "Leave it out.")
        return cls(drop_rate=drop_rate, names=list(found), knots=list(found.values()))

    def says(self, sample: Sample) -> bool:
        """Pictures of a record say it, where no column does."""
        return is_record(sample) or super().says(sample)

    def encode(self, samples: Sequence[Sample]) -> Tensor:
        """(B, n + 1) values of the names, then the width over height of pictures; NaN where nothing is said.

        Raises `UserError` for an unknown name and for a value beyond those of the train split.
        """
        rows = []
        for sample in samples:
            given: Mapping[str, float] = sample.get(self.name) or {}
            if not is_record(sample):
                self.check(given)
            rows.append([*(float(given.get(name, math.nan)) for name in self.names), _aspect(sample)])
        return torch.tensor(rows, dtype=torch.float32)

    def check(self, given: Mapping[str, float], where: str = "") -> None:
        """Raise `UserError` for a name that is not known or a value that was never learnt; `where` is what gave it."""
        for name, value in given.items():
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, 1)
                hint = f"Did you mean {near[0]}?" if near else ""
                raise UserError(where or "--attributes", name, f"some of {', '.join(self.names)}", hint)
            low, *_, high = self.knots[self.names.index(name)]
            expected = f"{low:.4g} to {high:.4g}, the range of the train split"
            place = f"{where} column {name}" if where else f"--attributes {name}"
            require(low <= value <= high, place, f"{value:g}", expected)

    def placed(self, given: Mapping[str, float], aspect: float, random: torch.Generator) -> dict[str, float]:
        """`given`, with a place where size or proportions are asked for without one: only a placed lesion is drawn.

        Each coordinate is as frequent as in the train split, and moved so far that the ellipse lies within the picture,
        if it fits there. The same chance gives the same place, whatever the size.
        """
        shares = torch.rand(len(PLACE), dtype=torch.float64, generator=random).tolist()
        known = all(name in self.names for name in PLACE)
        if not known or not given.keys() & USUAL.keys():
            return dict(given)
        area, ratio = (given.get(name, self._median(name)) for name in ("area", "depth_to_width"))
        half_width = math.sqrt(area / (math.pi * ratio))
        found = dict(given)
        for name, half, share in zip(PLACE, (half_width * ratio, half_width / aspect), shares, strict=True):
            knots = self.knots[self.names.index(name)]
            number, rest = divmod(share * (len(knots) - 1), 1)
            drawn = knots[int(number)] + rest * (knots[int(number) + 1] - knots[int(number)])
            inside = min(max(drawn, half), 1 - half) if half < 0.5 else 0.5
            found.setdefault(name, min(max(inside, knots[0]), knots[-1]))
        return found

    def _median(self, name: str) -> float:
        knots = self.knots[self.names.index(name)] if name in self.names else [USUAL[name]]
        return knots[len(knots) // 2]

    def seen(self, values: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        measured = [number for number, name in enumerate(self.names) if name in MEASURED]
        if not measured:
            return values
        values, aspects = values.clone(), values[:, -1].tolist()
        pictures = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        lesions = (masks > 0.5).any(dim=1).cpu().numpy()
        for row, aspect in enumerate(aspects):
            found = measure(from_channels(pictures[row]), lesions[row], aspect)
            for number in measured:
                values[row, number] = found.get(self.names[number], math.nan)
        return values

    def thinned(self, values: Tensor, random: torch.Generator) -> Tensor:
        """Any number of them is left, so that few and many can be asked for."""
        kept = torch.rand(len(values), 1, generator=random)
        chance = torch.rand(len(values), len(self.names), generator=random)
        keep = torch.cat([chance < kept, torch.ones(len(values), 1, dtype=torch.bool)], dim=1)
        return torch.where(keep, values, math.nan)

    def embedder(self, width: int) -> Embedder:
        return AttributesEmbedder(self.names, self.knots, width)


def _aspect(sample: Sample) -> float:
    """True width over height of a request, or of a record; NaN of a request that asks for no attribute."""
    if is_record(sample):
        return float(sample["width"] * sample["pixel_aspect"] / sample["height"])
    return float(sample.get("aspect", math.nan))


class AttributesEmbedder(Embedder):
    """Sines and cosines of the place of each value among those of the train split; zero where it is not given.

    Its last layer starts at zero: weights that learnt without attributes go on as they were.
    """

    knots: Tensor

    def __init__(self, names: Sequence[str], knots: Sequence[Sequence[float]], width: int) -> None:
        super().__init__()
        self.numbers = {name: number for number, name in enumerate(names)}
        self.map_count = 1 if self.numbers.keys() & set(PLACE) else 0
        self.register_buffer("knots", torch.tensor(knots, dtype=torch.float32), persistent=False)
        numbers = (len(knots) + 1) * (2 + 2 * len(FREQUENCIES))
        self.first, self.last = nn.Linear(numbers, width), nn.Linear(width, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def null(self) -> Tensor:
        return self._embedded(self.knots.new_full((1, len(self.knots) + 1), math.nan))[0]

    def forward(self, values: Tensor) -> Tensor:
        # The null itself where nothing is given: computed among others it would differ in last bits
        return torch.where(values.isnan().all(dim=1, keepdim=True), self.null(), self._embedded(values))

    def _embedded(self, values: Tensor) -> Tensor:
        given = ~values.isnan()
        known = torch.where(given, values, 0.0)
        place = torch.cat([self.places(known[:, :-1]), known[:, -1:].clamp(min=0.1).log()], dim=1)
        waves = [wave(math.pi * f * place) for f in FREQUENCIES for wave in (torch.sin, torch.cos)]
        numbers = torch.stack([torch.ones_like(place), place, *waves], dim=2) * given[:, :, None]
        vectors: Tensor = GAIN * self.last(nn.functional.silu(self.first(numbers.flatten(1))))
        return vectors

    def maps(self, values: Tensor, side: int) -> Tensor:
        """(B, 1, side, side) a soft ellipse of the place, area and shape asked for: 1 in its centre, 0.5 at its edge.

        Of medians, what is not given of area and shape. A band where one coordinate is given; zero where none is.
        """
        area, ratio = (self._or_median(name, values) for name in ("area", "depth_to_width"))
        aspect = torch.where(values[:, -1].isnan(), 1.0, values[:, -1])
        half_width = (area / (math.pi * ratio)).sqrt()
        centres = ((torch.arange(side, device=values.device) + 0.5) / side)[None]
        across = self._distances("lateral", values, half_width / aspect, centres)
        down = self._distances("depth", values, half_width * ratio, centres)
        squared = down[:, :, None] + across[:, None, :]
        said = ~self._column("depth", values).isnan() | ~self._column("lateral", values).isnan()
        return torch.where(said[:, None, None], (-math.log(2) * squared).exp(), 0.0)[:, None]

    def _column(self, name: str, values: Tensor) -> Tensor:
        """(B,) of a name, NaN where the checkpoint does not know it."""
        return values[:, self.numbers[name]] if name in self.numbers else torch.full_like(values[:, 0], math.nan)

    def _or_median(self, name: str, values: Tensor) -> Tensor:
        """(B,) of a name, its median where it is not given; of all lesions the same where it never differed."""
        median = self.knots[self.numbers[name], self.knots.shape[1] // 2] if name in self.numbers else USUAL[name]
        return torch.where(self._column(name, values).isnan(), median, self._column(name, values))

    def _distances(self, name: str, values: Tensor, half: Tensor, centres: Tensor) -> Tensor:
        """(B, side) squared distances along one coordinate, in half axes (B,); 0 where it is not given."""
        place = self._column(name, values)[:, None]
        return torch.where(place.isnan(), 0.0, ((centres - place) / half[:, None]) ** 2)

    def places(self, values: Tensor) -> Tensor:
        """(B, n) places in [-1, 1] of values (B, n) among the knots; equal knots are one."""
        low, high = self.knots[:, :-1], self.knots[:, 1:]
        share = ((values[:, :, None] - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        share = torch.where(high > low, share, (values[:, :, None] >= high).to(share))
        return share.mean(dim=2) * 2 - 1
