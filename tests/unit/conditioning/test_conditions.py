"""Conditions: what stands on a card comes back, values out of range are refused, and each has its own null."""

from __future__ import annotations

import math

import pytest
import torch

from medsegdiff.conditioning.augmentation import Augmentation
from medsegdiff.conditioning.base import Condition, encode, hide, rows_of
from medsegdiff.conditioning.label import Label
from medsegdiff.conditioning.registry import CONDITIONS, condition_class, read_condition
from medsegdiff.errors import UserError

LABEL = Label(classes=["a", "b"], drop_rate=0.2)
KNOWN: list[Condition] = [LABEL, Augmentation(units=[1.0, 2.0])]


@pytest.mark.parametrize("condition", KNOWN, ids=lambda condition: condition.name)
def test_a_description_reads_back(condition: Condition) -> None:
    """Damage: a range or a drop rate left out of the card; a row that names another class."""
    assert read_condition(condition.describe()) == condition
    assert CONDITIONS.keys() >= {condition.describe()["name"]}
    assert condition_class(condition.name) is type(condition)


def test_values_of_samples() -> None:
    """Damage: the class of a sample that has none taken for the first; a condition that nobody has among the values."""
    assert encode(KNOWN, [{"label": "b"}, {"label": ""}, {}])["label"].tolist() == [1, -1, -1]
    assert encode(KNOWN, [{"label": "b"}]).keys() == {"label"}
    assert encode(KNOWN, [{"augmentation": [0.5, 1.0]}, {}])["augmentation"].tolist() == [[0.5, 1.0], [0.0, 0.0]]
    with pytest.raises(UserError, match="label: found c; expected one of a, b"):
        encode(KNOWN, [{"label": "c"}])


def test_what_is_hidden_is_the_null() -> None:
    """Damage: rows that are kept and hidden swapped; a null that depends on the value; NaN that spreads."""
    torch.manual_seed(0)
    keep = torch.tensor([True, False])
    for condition, values in zip(KNOWN, (torch.tensor([1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])), strict=True):
        embedder = condition.embedder(3)
        hidden = hide(values, keep)
        found = embedder(hidden)
        assert torch.equal(found[0], embedder(values)[0])
        assert torch.equal(found[1], embedder.null())
        assert not torch.equal(found[0], found[1])
        assert torch.equal(rows_of({"x": hidden}, slice(0, 1))["x"], values[:1])
    assert math.isnan(hide(torch.ones(1), torch.tensor([False])).item())
