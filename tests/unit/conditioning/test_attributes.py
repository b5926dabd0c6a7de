"""Attributes: what is read from pictures as they are seen, what is refused, and what an embedding says at first."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from sample_sets import WriteSamples

from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.base import encode_seen
from medsegdiff.conditioning.registry import read_condition
from medsegdiff.data.attributes import MEASURED
from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.errors import UserError

SIZE = 64


@pytest.fixture
def train(tmp_path: Path, write_ellipses: WriteSamples) -> SampleTensors:
    """24 pairs with a column of the data set's own."""
    found = load_tensors(write_ellipses(tmp_path / "data", {"train": 12}).select("train"), SIZE, what="train split")
    rows = enumerate(found.records)
    records = tuple(dataclasses.replace(r, attributes={"birads": float(2 + n % 4)} if n % 2 else {}) for n, r in rows)
    return dataclasses.replace(found, records=records)


@pytest.fixture
def condition(train: SampleTensors) -> Attributes:
    return Attributes.fit(train, ["benign", "malignant"], 0.2)


def test_names_and_ranges_are_those_of_the_train_split(condition: Attributes, train: SampleTensors) -> None:
    """Damage: names that do not differ between samples among them; columns of the data set left out."""
    assert set(condition.names) >= {"area", "depth", "lateral", "birads"}
    assert "count" not in condition.names  # one lesion in each
    assert all(a <= b for knots in condition.knots for a, b in zip(knots, knots[1:], strict=False))
    assert read_condition(condition.describe()) == condition
    birads = condition.encode([vars(r) for r in train.records])[:, condition.names.index("birads")]
    assert birads.isnan().sum() == 12
    with pytest.raises(UserError, match="--conditions attributes: found a data set without any"):
        Attributes.fit(dataclasses.replace(train, masks=train.masks * 0, records=train.records[::2]), ["a"], 0.1)


def test_pictures_say_what_is_measured(condition: Attributes, train: SampleTensors) -> None:
    """Damage: values of the whole picture kept where it was mirrored or enlarged; those of the data set lost."""
    values = condition.encode([vars(r) for r in train.records])
    images, masks, _ = train.batch(torch.arange(len(train)))
    plain, mirrored = condition.seen(values, images, masks), condition.seen(values, images.flip(3), masks.flip(3))
    lateral, area, birads = (condition.names.index(name) for name in ("lateral", "area", "birads"))
    assert torch.allclose(mirrored[:, lateral], 1 - plain[:, lateral], atol=1e-4)
    assert torch.equal(mirrored[:, area], plain[:, area])
    assert torch.equal(plain[:, birads].nan_to_num(-1), values[:, birads].nan_to_num(-1))
    true = (masks > 0.5).float().mean(dim=(1, 2, 3)) * plain[:, -1]
    assert torch.allclose(plain[:, area], true, rtol=1e-3)
    assert torch.equal(encode_seen([condition], train)["attributes"].nan_to_num(-1), plain.nan_to_num(-1))


def test_any_number_of_them_is_hidden(condition: Attributes) -> None:
    """Damage: all hidden or none, so that one alone is never learnt; the shape of the picture hidden with them."""
    values = torch.ones(4000, len(condition.names) + 1)
    found = condition.hidden(values, torch.Generator().manual_seed(0))
    given = (~found.isnan())[:, :-1].sum(dim=1)
    nothing = found.isnan().all(dim=1)
    assert nothing.float().mean() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(nothing, found[:, -1].isnan())
    shares = torch.bincount(given[~nothing], minlength=len(condition.names) + 1) / (~nothing).sum()
    assert shares.min() > 0.5 / len(shares)  # every number of them about equally often


def test_an_embedding_says_nothing_until_it_learnt(condition: Attributes) -> None:
    """Damage: weights that learnt without attributes start elsewhere; values that are not given speak."""
    torch.manual_seed(0)
    embedder = condition.embedder(8)
    values = condition.encode([{"attributes": {"area": 0.17}, "aspect": 1.2}, {"attributes": {}, "aspect": 1.2}, {}])
    assert not embedder(values).any()
    torch.nn.init.normal_(embedder.last.weight)  # type: ignore[union-attr, arg-type]
    found = embedder(values)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], embedder.null())
    places = embedder.places(torch.tensor(condition.knots).T)  # type: ignore[operator]
    assert torch.all(places.diff(dim=0) >= 0)
    assert places.min() == -1
    assert places.max() == 1


def test_a_place_is_drawn(condition: Attributes, train: SampleTensors) -> None:
    """Damage: an ellipse of another size, place or shape of picture; a lesion where none is asked for."""
    values = encode_seen([condition], train)["attributes"]
    embedder = condition.embedder(8)
    drawn = embedder.maps(values, SIZE)
    _, masks, _ = train.batch(torch.arange(len(train)))
    inside, lesion = drawn[:, 0] > 0.5, masks[:, 0] > 0.5
    dice = 2 * (inside & lesion).sum(dim=(1, 2)) / (inside.sum(dim=(1, 2)) + lesion.sum(dim=(1, 2)))
    assert float(dice.min()) > 0.85  # of real ellipses, some of them turned
    small = embedder.maps(values, SIZE // 2)
    assert torch.allclose(small, torch.nn.functional.avg_pool2d(drawn, 2), atol=0.05)
    depth = condition.names.index("depth")
    alone = torch.full_like(values, math.nan)
    alone[:, depth] = values[:, depth]
    band = embedder.maps(alone, SIZE)[:, 0]
    assert torch.equal(band, band[:, :, :1].expand_as(band))  # as far to both sides as the picture
    rows = (band[:, :, 0].argmax(dim=1) + 0.5) / SIZE
    assert torch.allclose(rows, values[:, depth], atol=1 / SIZE)
    alone[:, depth] = math.nan
    alone[:, condition.names.index("area")] = 0.1
    assert not embedder.maps(alone, SIZE).any()


def test_what_was_never_learnt_is_refused(condition: Attributes) -> None:
    """Damage: a value beyond the train split, or a name that nobody knows, taken in silence."""
    low, high = condition.knots[condition.names.index("area")][:: len(condition.knots[0]) - 1]
    with pytest.raises(UserError, match=rf"--attributes area: found 7; expected {low:.4g} to {high:.4g}"):
        condition.encode([{"attributes": {"area": 7.0}, "aspect": 1.0}])
    with pytest.raises(UserError, match=r"--attributes: found aera; expected some of area, .*Did you mean area\?"):
        condition.encode([{"attributes": {"aera": 0.1}, "aspect": 1.0}])
    assert math.isnan(condition.encode([{"attributes": {}}])[0, 0].item())
    assert set(MEASURED) > {"area", "count"}


def test_a_size_without_a_place_is_put_somewhere(condition: Attributes) -> None:
    """Damage: a place outside of the picture or of what was learnt; one that moves with the size; one put over the
    user's."""
    number = condition.names.index("lateral")
    low, high = condition.knots[number][0], condition.knots[number][-1]
    found = [condition.placed({"area": 0.05}, 1.0, torch.Generator().manual_seed(n)) for n in range(50)]
    assert all(low <= one["lateral"] <= high for one in found)
    assert len({one["lateral"] for one in found}) > 20
    assert condition.placed({"area": 0.05}, 1.0, torch.Generator().manual_seed(3)) == found[3]
    larger = condition.placed({"area": 0.051}, 1.0, torch.Generator().manual_seed(3))
    assert larger["depth"] == pytest.approx(found[3]["depth"], abs=0.02)
    mine = condition.placed({"area": 0.05, "depth": 0.4}, 1.0, torch.Generator().manual_seed(3))
    assert (mine["depth"], mine["lateral"]) == (0.4, found[3]["lateral"])
    assert condition.placed({"irregularity": 0.1}, 1.0, torch.Generator()) == {"irregularity": 0.1}
    huge = condition.placed({"area": 0.7, "depth_to_width": 1.0}, 1.0, torch.Generator())
    assert huge["lateral"] == pytest.approx(min(max(0.5, low), high), abs=0.1)
