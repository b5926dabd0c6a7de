"""What a condition is: values of samples as numbers, their range on the card, and a network that embeds them.

Networks take a mapping of names to tensors (`Conditions`). A name that is missing is not given for any sample; a value
that is -1 among whole numbers, or NaN among others, is not given for that one. Either way the condition's own null
stands in its place.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from medsegdiff.data.dataset import SampleTensors

# Factor of what a layer that starts at zero has learnt, as of an equalised learning rate (Karras et al. 2018,
# progressive GANs): at the rate of weights that have learnt already, it would need thousands of steps to be heard
GAIN = 10.0

Conditions = Mapping[str, Tensor]  # name -> (B, ...) values
Sample = Mapping[str, Any]  # what is known of a sample: a row of metadata.csv, or what a request asks for


class Embedder(nn.Module, ABC):
    """The part of a network that learns what a condition means.

    Conditions that say where something is also draw it: scales and shifts of whole maps hardly put a lesion somewhere.
    """

    map_count: int = 0  # maps of places that it draws

    def maps(self, values: Tensor, side: int) -> Tensor:
        """(B, map_count, side, side) of values (B, ...): where what they say is, zero where it is not given."""
        raise NotImplementedError

    @abstractmethod
    def null(self) -> Tensor:
        """(E,) what stands in the place of values that are not given."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """(B, E) of values (B, ...), those that are not given included."""


@dataclass(frozen=True, kw_only=True)
class Condition(ABC):
    """A condition as a checkpoint's card has it; fields of sub-classes are its classes or ranges."""

    name: ClassVar[str]  # its key wherever conditions are a mapping
    kind: ClassVar[str]  # what its values are: "class", "numbers", "text"
    drop_rate: float  # share of training samples that it is hidden of

    @classmethod
    @abstractmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        """The condition as the samples to be learnt have it; `settings` of training, such as text_encoder.

        Raises `UserError` where they do not have it.
        """

    def says(self, sample: Sample) -> bool:
        """Whether anything is known of it in a sample."""
        return sample.get(self.name) not in (None, "", {})

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> Tensor:
        """(B, ...) values of samples; not given where a sample says nothing. `UserError` for one out of range."""

    def seen(self, values: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Values (B, ...) of samples as they are seen, moved by augmentation: images (B, C, S, S) and masks
        (B, K, S, S) in [0, 1]. What is not read from pictures stays as it is."""
        return values

    def hidden(self, values: Tensor, random: torch.Generator) -> Tensor:
        """Values (B, ...), not given where chance hides them in training."""
        return self.thinned(hide(values, torch.rand(len(values), generator=random) >= self.drop_rate), random)

    def thinned(self, values: Tensor, random: torch.Generator) -> Tensor:
        """Values (B, ...), of which chance leaves out parts where a condition has several; as they are otherwise."""
        return values

    @abstractmethod
    def embedder(self, width: int) -> Embedder:
        """A fresh embedder into `width` numbers."""

    def describe(self) -> dict[str, Any]:
        """As it stands on the card."""
        return {"name": self.name, "kind": self.kind, **dataclasses.asdict(self)}


def is_record(sample: Sample) -> bool:
    """Whether a sample is a row of metadata.csv, and not what a request asks for."""
    return "width" in sample


def hide(values: Tensor, keep: Tensor) -> Tensor:
    """Values (B, ...), not given where `keep` (B,) is False."""
    nothing = math.nan if values.is_floating_point() else -1
    return torch.where(keep.view(-1, *[1] * (values.ndim - 1)), values, nothing)


def rows_of(conditions: Conditions, index: Tensor | slice) -> Conditions:
    """The conditions of the samples that `index` names."""
    return {name: values[index] for name, values in conditions.items()}


def encode(known: Sequence[Condition], samples: Sequence[Sample]) -> Conditions:
    """Values of those of the `known` conditions that any of the samples has."""
    return {c.name: c.encode(samples) for c in known if any(map(c.says, samples))}


def encode_seen(known: Sequence[Condition], samples: SampleTensors) -> Conditions:
    """Values of samples in memory as they are seen there."""
    values = encode(known, [vars(record) for record in samples.records])
    images, masks, _ = samples.batch(torch.arange(len(samples)))
    return {c.name: c.seen(values[c.name], images, masks) for c in known if c.name in values}
