"""What a pair is conditioned on. Each field has its own null, so that conditions can be dropped one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch. A field that is None is not used at all."""

    label: Tensor | None = None  # (B,) int64 class index
    keep_label: Tensor | None = None  # (B,) bool; False: the null embedding instead of the class; None: keep all
    moves: Tensor | None = None  # (B, 6) how each picture was moved, 0: not (augment_conditioned)

    def rows(self, index: Tensor | slice) -> Condition:
        """The conditions of the pairs that `index` names."""
        parts = (self.label, self.keep_label, self.moves)
        return Condition(*(None if part is None else part[index] for part in parts))
