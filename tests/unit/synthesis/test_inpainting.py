"""Inpainting: what is known stays to the bit, lesions lie where they were asked for, held-out pictures stay out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_networks import random_checkpoint, refuse_to_sample

from medsegdiff.data.arrays import resize_anisotropic
from medsegdiff.data.combine import combine
from medsegdiff.data.config import CombineConfig
from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.inpainting import held, known_share, region_around
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

if TYPE_CHECKING:
    from sample_sets import WriteSamples

SIDE = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that nobody trained. Their masks are noise of which half is lesion: one large connected part."""
    path = tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors"
    return random_checkpoint(path, train_hashes=[{"image_hash": "ab" * 32, "perceptual_hash": "cd" * 32}])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> SampleSet:
    """Pairs of 40 x 40 pixels, larger than the network."""
    return write_ellipses(tmp_path_factory.mktemp("real") / "pairs", {"train": 4, "val": 2, "test": 2}, side=40)


def settings(checkpoint: Path, output: Path, **changes: Any) -> GenerateConfig:
    plain = {"mode": "inpaint", "steps": 2, "chunk_size": 4, "precision": "fp32", "device": "cpu"}
    return GenerateConfig(str(checkpoint), str(output), **(plain | changes))


def inpainted(config: GenerateConfig) -> SampleSet:
    found = generate(config)
    assert isinstance(found, SampleSet)
    return found


def sources(real: SampleSet) -> dict[str, np.ndarray]:
    """Pictures by id, at the size of the network."""
    return {r.id: resize_anisotropic(real.read_image(r), SIDE) for r in real.records}


def test_a_region_alone_changes(checkpoint: Path, real: SampleSet, tmp_path: Path) -> None:
    """Damage: a pixel outside of the box that moved; a lesion beyond it; a box whose sides are swapped."""
    box = [0.25, 0.5, 0.5, 0.375]
    found = inpainted(settings(checkpoint, tmp_path / "out", images=str(real.root), region=box))
    train = real.select("train").records
    assert len(found) == 2 * len(train)  # in each class
    inside = np.zeros((SIDE, SIDE), bool)
    inside[8:14, 4:12] = True
    before, changed = sources(real), 0
    for record in found.records:
        image, mask = found.read_image(record), found.read_mask(record)
        assert np.array_equal(image[~inside], before[record.derived_from][~inside])
        assert not mask[~inside].any()
        assert mask.any()
        changed += int((image[inside] != before[record.derived_from][inside]).sum())
    assert changed > 0.5 * inside.sum() * len(found)
    groups = {r.id: r.group for r in train}
    assert all(r.group == groups[r.derived_from] for r in found.records)


def test_a_mask_says_where(checkpoint: Path, real: SampleSet, tmp_path: Path) -> None:
    """Damage: another mask than the one given; masks and pictures that do not belong together."""
    config = settings(checkpoint, tmp_path / "out", images=str(real.root), masks=str(real.root), classes=["benign"])
    found, before = inpainted(config), sources(real)
    masks = {r.id: real.arrays.coverage(real.read_mask(r), SIDE) for r in real.records}
    for record in found.records:
        assert np.array_equal(found.read_mask(record) > 127, masks[record.derived_from][0] > 127)
        near = region_around(torch.from_numpy(masks[record.derived_from])[None])[0, 0].numpy() > 127
        assert np.array_equal(found.read_image(record)[~near], before[record.derived_from][~near])
    assert found.info["conditioning_masks"] == sorted({r.mask_hash for r in real.select("train").records})


def test_chance_says_where(checkpoint: Path, real: SampleSet, tmp_path: Path) -> None:
    """Damage: one place for all; what depends on the other pictures of the folder."""
    config = settings(checkpoint, tmp_path / "out", images=str(real.root), num_samples_per_input=2, classes=["benign"])
    found = inpainted(config)
    assert len({found.read_mask(r).tobytes() for r in found.records}) == len(found) == 2 * len(real.select("train"))
    again = inpainted(dataclasses.replace(config, output_dir=str(tmp_path / "one"), num_samples_per_input=1))
    by_id = {r.id: found.read_image(r) for r in found.records}
    assert all(np.array_equal(again.read_image(r), by_id[r.id]) for r in again.records)
    before, kept = sources(real), 0
    for record in found.records:
        far = region_around(torch.from_numpy(found.read_mask(record))[None, None])[0, 0].numpy() == 0
        assert np.array_equal(found.read_image(record)[far], before[record.derived_from][far])
        kept += int(far.sum())
    assert kept


@pytest.mark.parametrize("healthy", [False, True])
def test_a_lesion_is_taken_out(healthy: bool, real: SampleSet, tmp_path: Path) -> None:
    """Damage: a mask that stays; a pixel that moved far from the lesion; a class of lesions; a lost group or source."""
    classes = ["benign", "malignant", "healthy"] if healthy else ["benign", "malignant"]
    path = random_checkpoint(tmp_path / "checkpoint.safetensors", classes=classes, lesion_classes=classes[:2])
    found = inpainted(settings(path, tmp_path / "out", mode="remove", images=str(real.root)))
    before, train = sources(real), real.select("train").records
    assert len(found) == len(train)
    assert found.classes == ["healthy" if healthy else "normal"]
    for record in found.records:
        source = next(r for r in train if r.id == record.derived_from)
        lesion = real.arrays.coverage(real.read_mask(source), SIDE)
        near = region_around(torch.from_numpy(lesion)[None])[0, 0].numpy() > 127
        image = found.read_image(record)
        assert not found.read_mask(record).any()
        assert np.array_equal(image[~near], before[source.id][~near])
        assert (image[near] != before[source.id][near]).mean() > 0.5
        assert (record.label, record.group) == (found.classes[0], source.group)


def test_pictures_without_their_lesion_do_not_leak(real: SampleSet, tmp_path: Path) -> None:
    """Damage: those of held-out pictures taken; those of train refused where the data set knows healthy ones."""
    hashes = [{"image_hash": "ab" * 32, "perceptual_hash": "cd" * 32}]
    path = random_checkpoint(tmp_path / "checkpoint.safetensors", train_hashes=hashes)
    data = tmp_path / "real"
    shutil.copytree(real.root, data)
    known = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(known | {"classes": [*known["classes"], "normal"]}))
    found, held_out = (
        inpainted(settings(path, tmp_path / split, mode="remove", images=str(data), split=split))
        for split in ("train", "val")
    )
    combined = combine(CombineConfig(str(data), str(found.root), str(tmp_path / "both"), balance=False))
    assert len(combined.select("train", "normal")) == len(real.select("train"))
    with pytest.raises(UserError, match="expected pairs sampled for masks of train alone"):
        combine(CombineConfig(str(data), str(held_out.root), str(tmp_path / "leak"), balance=False))


def test_shares_fall_within_the_region() -> None:
    """Damage: a blend that reaches beyond the region; a hard edge; a known value that is not the one given."""
    region = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    region[..., 12:36, 12:36] = 255
    share = known_share(region)
    assert torch.equal(share == 1, region == 0)
    assert torch.equal(share[0, 0, 24, 12:16], torch.tensor([0.5, 0.0, 0.0, 0.0]))
    known = torch.full((1, 1, 48, 48), 3.0)
    found = held(lambda x, sigma: x, known, share)(torch.ones(1, 1, 48, 48), torch.ones(2))
    assert torch.equal(found[share == 1], known[share == 1])
    assert found[0, 0, 24, 12] == 2
    mask = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    mask[..., 24, 24] = 255
    around = region_around(mask)[0, 0] > 0
    assert around[20, 24]
    assert not around[19, 24]


def test_held_out_pictures_are_refused(checkpoint: Path, real: SampleSet, tmp_path: Path) -> None:
    """Damage: lesions put into test pictures among the pairs that networks learn; those of train refused as well."""
    fine = inpainted(settings(checkpoint, tmp_path / "train", images=str(real.root), region=[0.25, 0.25, 0.5, 0.5]))
    config = CombineConfig(str(real.root), str(fine.root), str(tmp_path / "combined"), balance=False)
    combined = combine(config)
    groups = {r.group for r in real.select("train").records}
    assert {r.group for r in combined.records if r.is_synthetic} <= groups
    wrong = inpainted(settings(checkpoint, tmp_path / "test", images=str(real.root), split="test"))
    with pytest.raises(UserError, match="lesions put into 4 val or test pictures or their like"):
        combine(dataclasses.replace(config, synthetic_data=str(wrong.root), output_dir=str(tmp_path / "leak")))
    assert len(read_samples(wrong.root)) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "--mode inpaint: found no --images"),
        ({"region": [0.5, 0.5, 0.6, 0.2]}, "--region: found 0.5 0.5 0.6 0.2; expected left, top, width and height"),
        ({"region": [0.5, 0.5, 0.2]}, "--region: found 0.5 0.5 0.2; expected left, top, width and height"),
        ({"region": [0.5, 0.5, 0.2, 0.2], "masks": "REAL"}, "--region: found --masks beside it"),
        ({"region": [0.5, 0.5, 0.2, 0.2], "mode": "joint", "images": None}, "--region: found mode joint"),
        ({"images": "nowhere"}, "nowhere: found nothing"),
        ({"classes": ["cyst"]}, "--classes: found 'cyst'"),
        ({"mode": "remove", "images": None}, "--mode remove: found no --images"),
        ({"mode": "remove", "classes": ["benign"]}, "--classes: found mode remove; expected nothing"),
        ({"mode": "remove", "masks": "nowhere"}, "nowhere: found nothing"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, checkpoint: Path, real: SampleSet, tmp_path: Path) -> None:
    """Damage: dropping any one check."""
    values = {"images": str(real.root)} | {k: str(real.root) if v == "REAL" else v for k, v in changes.items()}
    refuse_to_sample(message, lambda: settings(checkpoint, tmp_path / "out", **values), tmp_path / "out")
