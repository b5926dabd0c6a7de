"""Requests: numbers, ranges and tables of attributes, what they are refused for, and what is written of them."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import random_checkpoint, refuse_to_sample

import medsegdiff
from medsegdiff.conditioning.attributes import Attributes
from medsegdiff.conditioning.label import Label
from medsegdiff.data.attributes import MEASURED
from medsegdiff.data.records import SampleSet
from medsegdiff.errors import UserError
from medsegdiff.generators.base import load_generator
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.plan import pair_item
from medsegdiff.synthesis.requests import parse_ranges, with_attributes
from medsegdiff.synthesis.run import generate

CLASSES = ["benign", "malignant"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights that takes two attributes."""
    attributes = Attributes(drop_rate=0.1, names=["area", "depth"], knots=[[0.0, 0.5, 1.0], [0.1, 0.4, 0.9]])
    path = tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors"
    return random_checkpoint(path, conditions=[Label(classes=CLASSES, drop_rate=0.1), attributes])


def settings(checkpoint: Path, output: Path, **changes: Any) -> GenerateConfig:
    config = GenerateConfig(
        str(checkpoint), str(output), num_samples_per_class=6, steps=2, chunk_size=4, precision="fp32", device="cpu"
    )
    return dataclasses.replace(config, **changes)


def table(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def pixels(pairs: SampleSet) -> dict[str, bytes]:
    return {r.id: pairs.read_image(r).tobytes() for r in pairs.records}


def test_numbers_and_ranges() -> None:
    """Damage: a range read as a number; one that runs backwards, and what is no number, taken."""
    assert parse_ranges(["area=0.1", "depth=0.2:0.4"]) == {"area": (0.1, 0.1), "depth": (0.2, 0.4)}
    for text, message in (
        ("area", "name=number"),
        ("area=big", "a number, or two"),
        ("area=0.4:0.2", "the smaller number first"),
        ("area=nan", "the smaller number first"),
    ):
        with pytest.raises(UserError, match=f"--attributes.*{message}"):
            parse_ranges([text])
    with pytest.raises(UserError, match="area twice"):
        parse_ranges(["area=1", "area=2"])


def test_what_is_asked_for_is_written_beside_what_came(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: attributes that reach no network; a value that depends on the other pairs; nothing said of what came."""
    plain = generate(settings(checkpoint, tmp_path / "plain"))
    found = generate(settings(checkpoint, tmp_path / "asked", attributes=["area=0.3:0.6", "depth=0.5"]))
    assert isinstance(found, SampleSet)
    assert isinstance(plain, SampleSet)
    assert pixels(found) != pixels(plain)
    assert found.records[0].attributes.keys() <= set(MEASURED)
    with (tmp_path / "asked" / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    areas = [float(row["asked:area"]) for row in rows]
    assert len(set(areas)) == 12
    assert 0.3 <= min(areas) < max(areas) <= 0.6
    assert {row["asked:depth"] for row in rows} == {"0.5"}
    assert float(rows[3]["obtained:area"]) == found.records[3].attributes["area"]
    assert not (tmp_path / "plain" / "requests.csv").exists()
    fewer = generate(settings(checkpoint, tmp_path / "fewer", attributes=["depth=0.5", "area=0.3:0.6"], chunk_size=2))
    assert isinstance(fewer, SampleSet)
    assert [r.id for r in fewer.records] == [r.id for r in found.records]
    with (tmp_path / "fewer" / "requests.csv").open() as file:
        assert [row["asked:area"] for row in csv.DictReader(file)] == [row["asked:area"] for row in rows]
    with pytest.raises(UserError, match="fewer"):
        generate(settings(checkpoint, tmp_path / "fewer", attributes=["depth=0.6"], chunk_size=2))


def test_a_table_asks_row_by_row(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: rows and pairs that do not belong together; an empty cell read as 0; a class that is not the row's."""
    requests = table(tmp_path / "rows.csv", "label,attribute:area,depth", "malignant,0.2,", ",,0.3:0.5", "benign,,")
    found = generate(settings(checkpoint, tmp_path / "pairs", requests=requests))
    assert isinstance(found, SampleSet)
    labels = {r.id: r.label for r in found.records}
    assert labels == {f"syn_{c}_00000{n}": c for n, c in enumerate(("malignant", "malignant", "benign"))}
    with (tmp_path / "pairs" / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["asked:area"] for row in rows] == ["0.2", "", ""]
    assert [bool(row["asked:depth"]) for row in rows] == [False, True, False]
    plain = generate(settings(checkpoint, tmp_path / "plain", classes=["benign"]))
    assert isinstance(plain, SampleSet)
    assert pixels(found)["syn_benign_000002"] == pixels(plain)["syn_benign_000002"]  # a row that asks for nothing


def test_rows_of_one_noise_are_alike(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a column that is read and dropped; noise that the class or the row changes; all rows of one noise."""
    rows = table(
        tmp_path / "rows.csv", "label,noise,area", "benign,7,", "malignant,7,", "benign,8,", "benign,7,0.5", "benign,7,"
    )
    found = generate(settings(checkpoint, tmp_path / "asked", requests=rows))
    assert isinstance(found, SampleSet)
    by_row = sorted(found.records, key=lambda record: record.id[-6:])
    first, other_class, other_noise, larger, again = (found.read_image(r).astype(float) for r in by_row)

    def far(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).mean())

    assert far(first, again) == 0
    assert far(first, larger) > 0
    assert far(first, other_class) > 0
    assert max(far(first, larger), far(first, other_class)) < far(first, other_noise)
    lines = ("benign,7,", "malignant,7,", "benign,9,", "benign,7,0.5", "benign,7,")
    others = table(tmp_path / "others.csv", "label,noise,area", *lines)
    with pytest.raises(UserError, match="other rows in --requests than before"):  # nothing but the noise differs
        generate(settings(checkpoint, tmp_path / "asked", requests=others))
    rows = table(tmp_path / "bad.csv", "noise", "-1")
    with pytest.raises(UserError, match="row 2 column noise: found '-1'; expected a whole number"):
        generate(settings(checkpoint, tmp_path / "bad", requests=rows))


def test_what_is_not_wanted(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a negative prompt without effect, or one that nothing steers away from taken silently."""
    how = {"condition_guidance": ["attributes=3"]}
    plain = generate(settings(checkpoint, tmp_path / "plain", **how))
    found = generate(settings(checkpoint, tmp_path / "asked", negative_prompt="large deep mass", **how))
    assert isinstance(found, SampleSet)
    assert isinstance(plain, SampleSet)
    assert pixels(found) != pixels(plain)
    with pytest.raises(UserError, match="from which nothing steers away; expected --condition_guidance attributes=2"):
        generate(settings(checkpoint, tmp_path / "idle", negative_prompt="large"))
    with pytest.raises(UserError, match="words about label, from which nothing steers away; expected --guidance"):
        generate(settings(checkpoint, tmp_path / "idle", negative_prompt="malignant", **how))
    with pytest.raises(UserError, match="--negative_prompt: found 'huge'"):
        generate(settings(checkpoint, tmp_path / "idle", negative_prompt="huge", **how))
    assert not (tmp_path / "idle").exists()


def test_masks_of_images_as_they_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: attributes that reach no network where images are given."""
    source = generate(settings(checkpoint, tmp_path / "source"))
    assert isinstance(source, SampleSet)
    how = {"mode": "image_to_mask", "images": str(tmp_path / "source"), "num_samples_per_input": 2}
    generate(settings(checkpoint, tmp_path / "plain", **how))
    generate(settings(checkpoint, tmp_path / "asked", attributes=["area=0.5"], prompt="malignant", **how))
    plain, asked = (sorted((tmp_path / name / "samples").rglob("*.png")) for name in ("plain", "asked"))
    assert [path.name for path in plain] == [path.name for path in asked]
    assert [path.read_bytes() for path in plain] != [path.read_bytes() for path in asked]


def test_python_asks_for_the_same(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: attributes that the API takes and drops; other values than those of the command."""
    found = generate(settings(checkpoint, tmp_path / "pairs", attributes=["area=0.3:0.6", "depth=0.5"]))
    assert isinstance(found, SampleSet)
    loaded = medsegdiff.load_generator(checkpoint, device="cpu", precision="fp32", batch_size=4, steps=2)
    assert loaded.attributes == {"area": (0.0, 1.0), "depth": (0.1, 0.9)}
    sampled = loaded.sample(4, "malignant", attributes={"area": (0.3, 0.6), "depth": 0.5})
    assert [sample.image.tobytes() for sample in sampled] == [pixels(found)[sample.id] for sample in sampled]
    with pytest.raises(UserError, match="--attributes area: found 3"):
        loaded.sample(1, attributes={"area": 3})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("label,area",), "1 lines"),
        (("label,size", "benign,1"), "column 'size'; expected label, prompt, modality, noise, or an attribute"),
        (("area,area", "1,1"), "each column once"),
        (("label,area", "benign"), "row 2: found 1 cells"),
        (("label,area", "benign,0.1", "cyst,0.1"), "row 3 column label: found 'cyst'"),
        (("label,area", "benign,large"), "row 2 column area: found 'large'"),
        (("label,area", "benign,1.5"), "row 2 column area: found 1.5; expected 0 to 1"),
    ],
)
def test_tables_that_cannot_be_used(checkpoint: Path, tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    """Damage: a wrong column, cell or count passed over; a folder left behind."""
    requests = table(tmp_path / "rows.csv", *lines)
    refuse_to_sample(message, lambda: settings(checkpoint, tmp_path / "pairs", requests=requests), tmp_path / "pairs")


def test_settings_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: attributes that the checkpoint never learnt sampled all the same; two ways to ask at once."""
    output, plain = tmp_path / "pairs", random_checkpoint(tmp_path / "plain.safetensors")
    for changes, message in (
        ({"attributes": ["area=2"]}, "--attributes area: found 2; expected 0 to 1"),
        ({"attributes": ["aera=0.1"]}, "Did you mean area"),
        ({"requests": str(tmp_path / "none.csv")}, "none.csv: found FileNotFoundError"),
        ({"requests": "rows.csv", "attributes": ["area=0.1"]}, "--requests: found --attributes beside it"),
    ):
        refuse_to_sample(message, lambda changes=changes: settings(checkpoint, output, **changes), output)  # type: ignore[misc]
    message = "--attributes: found a checkpoint that takes label.*Train one with --conditions label attributes"
    refuse_to_sample(message, lambda: settings(plain, output, attributes=["area=0.1"]), output)


def test_values_depend_on_the_seed_alone(checkpoint: Path) -> None:
    """Damage: values that move with the order of the ranges."""
    card = load_generator(checkpoint).card
    item = pair_item("joint", "benign", CLASSES, 3, 0)
    both = [
        with_attributes(item, ranges, card)
        for ranges in ({"area": (0, 1), "depth": (0.2, 0.3)}, {"depth": (0.2, 0.3), "area": (0, 1)})
    ]
    assert both[0] == both[1]
    assert with_attributes(item, {}, card) is item
