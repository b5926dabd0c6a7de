"""The modality of a sample: ultrasound, chest X-ray, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from medsegdiff.conditioning.label import Label
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.errors import require


@dataclass(frozen=True, kw_only=True)
class Modality(Label):
    """One of those of the train split."""

    name: ClassVar[str] = "modality"

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        found = sorted({record.modality for record in train.records if record.modality})
        expected = "two modalities or more in the column modality"
        require(len(found) > 1, "--conditions modality", f"{', '.join(found) or 'none'}", expected, "Leave it out.")
        return cls(drop_rate=drop_rate, classes=found)
