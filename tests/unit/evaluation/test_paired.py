"""Images sampled for real masks: which real image belongs to which, and how like they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_sets import CLASSES, SIZE, context, sampled

from medsegdiff.data.records import SampleSet, write_sample, write_samples
from medsegdiff.errors import UserError
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.section import Section
from medsegdiff.evaluation.sections.paired import METRIC, match, run
from medsegdiff.evaluation.sets import Pairs, Sets, load_pairs
from medsegdiff.features.perceptual import lpips as network

COUNT = 24


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """Sampled real pairs on disk, the last third held out."""
    root, pairs = tmp_path_factory.mktemp("real"), sampled(COUNT, 1, "real")
    records = [
        write_sample(
            root, image, mask * np.uint8(255), id=r.id, label=r.label, group=f"g_{r.id}", source="sampled",
            split="train" if i < COUNT * 2 // 3 else "test",
        )
        for i, (image, mask, r) in enumerate(zip(pairs.images, pairs.masks, pairs.records, strict=True))
    ]  # fmt: skip
    return write_samples(root, records, classes=list(CLASSES), fingerprint={})


def sampled_for(real: SampleSet, images: np.ndarray, names: str = "syn_{}_000", groups: str = "g_{}") -> Pairs:
    """Pairs as mask_to_image writes them for the masks of `real`."""
    own = load_pairs(real, SIZE, "real")
    records = tuple(
        dataclasses.replace(
            r,
            id=names.format(r.id),
            group=groups.format(r.id),
            source="test",
            generator="test",
            mask_hash="0" * 64,
            split="train",
        )
        for r in real.records
    )
    return dataclasses.replace(own, images=images, groups=np.array([r.id for r in records]), records=records)


def reported(real: SampleSet, synthetic: Pairs, **changes: object) -> tuple[Context, Section | None]:
    """The context and what the metric says."""
    train, held_out = (load_pairs(real.select(split), SIZE, split) for split in ("train", "test"))
    sets = Sets(train, held_out, synthetic, CLASSES, SIZE)
    c = dataclasses.replace(context(sets, device="cpu", **changes), real=real)
    section = run(c)
    if section is not None:
        json.dumps(section.values, allow_nan=False)
    return c, section


def test_figures_are_those_of_the_real_image_of_the_mask(real: SampleSet) -> None:
    """Damage: an image is compared with another mask's picture, or a figure is not its formula.

    Every image is the real one plus 10 or minus 10 grey levels: RMSE 10, PSNR 20 log10(255 / 10).
    """
    images = load_pairs(real, SIZE, "real").images.astype(int)
    shifted = np.where(images > 127, images - 10, images + 10).astype(np.uint8)
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(COUNT), random.permutation(COUNT)])  # two samples for each mask
    _, section = reported(real, sampled_for(real, shifted).rows(order))
    assert section is not None
    every = section.values["subgroups"]["all"]
    assert every["rmse"]["synthetic"]["value"] == pytest.approx(10)
    assert every["psnr"]["synthetic"]["value"] == pytest.approx(20 * np.log10(25.5))
    assert every["ssim"]["synthetic"]["value"] > every["ssim"]["baseline"]["high"] + 0.3
    assert every["rmse"]["baseline"]["low"] > 25
    assert section.per_pair["paired_rmse"] == [10.0] * 2 * COUNT
    assert section.skipped[0] == "LPIPS: needs --lpips_weights."


def test_train_masks_and_held_out_masks_stand_apart(real: SampleSet) -> None:
    """Damage: copies of train pictures are hidden in the mean over all masks."""
    pairs = load_pairs(real, SIZE, "real")
    learnt = np.array([r.split == "train" for r in real.records])
    images = np.where(learnt[:, None, None], pairs.images, sampled(COUNT, 5, "other").images)
    _, section = reported(real, sampled_for(real, images))
    assert section is not None
    subgroups = section.values["subgroups"]
    assert subgroups["all"]["pairs"] == COUNT
    assert subgroups["masks of train pictures"]["ssim"]["synthetic"]["low"] == pytest.approx(1)
    assert "masks of held-out pictures" not in subgroups  # eight are too few
    assert any("masks of held-out pictures: 8 pairs" in line for line in section.skipped)
    # Equal pictures have no PSNR: reported, and left empty
    assert subgroups["masks of train pictures"]["psnr"]["synthetic"] is None
    assert any("PSNR of 16 images" in line for line in section.skipped)
    assert section.per_pair["paired_psnr"][:1] == [None]


def test_the_floor_is_another_picture_of_the_class(real: SampleSet) -> None:
    """Damage: the baseline compares a picture with itself or with one of another class."""
    pairs = load_pairs(real, SIZE, "real")
    grey = {"benign": 50, "malignant": 200}
    flat = dataclasses.replace(pairs, images=np.stack([np.full((SIZE, SIZE), grey[v], np.uint8) for v in pairs.labels]))
    synthetic = sampled_for(real, pairs.images)
    c = context(Sets(flat, flat, synthetic, CLASSES, SIZE))
    section = run(dataclasses.replace(c, real=real))
    assert section is not None
    mean = {label: pairs.images[pairs.of(label)].astype(float) for label in CLASSES}
    for label in CLASSES:
        expected = np.sqrt(((mean[label] - grey[label]) ** 2).mean(axis=(1, 2))).mean()
        assert section.values["subgroups"][label]["rmse"]["baseline"]["value"] == pytest.approx(expected)


def test_a_class_of_one_patient_has_no_baseline(real: SampleSet) -> None:
    """Damage: the baseline is taken against an empty picture where there is no other one of the class."""
    pairs = load_pairs(real, SIZE, "real")
    one = pairs.of("malignant")[:1]  # the only malignant picture of the real sets, sampled for twelve times
    train, held_out = pairs.rows(pairs.of("benign")), pairs.rows(one)
    rows = np.concatenate([pairs.of("benign"), np.repeat(one, 12)])
    sets = Sets(train, held_out, sampled_for(real, pairs.images[::-1]).rows(rows), CLASSES, SIZE)
    section = run(dataclasses.replace(context(sets), real=real))
    assert section is not None
    subgroups = section.values["subgroups"]
    assert subgroups["malignant"]["rmse"]["baseline"] is None
    assert subgroups["malignant"]["rmse"]["synthetic"]["value"] > 0
    assert subgroups["benign"]["rmse"]["baseline"]["value"] < 60
    assert any("Baseline of 12 pairs" in line for line in section.skipped)


def test_sets_that_were_not_drawn_for_masks_have_no_such_figures(real: SampleSet) -> None:
    """Damage: a set of new pairs, or the real set itself, is taken for one sampled for masks."""
    pairs = load_pairs(real, SIZE, "real")
    assert reported(real, pairs)[1] is None
    assert reported(real, sampled_for(real, pairs.images, groups="syn_{}_000"))[1] is None
    assert reported(real, sampled_for(real, pairs.images, names="syn_benign_{:0>6}"))[1] is None


def test_masks_without_a_data_set_are_found_by_their_content(real: SampleSet) -> None:
    """Damage: masks given as a folder of pictures, whose group is made from the mask, have no real image."""
    synthetic = sampled_for(real, load_pairs(real, SIZE, "real").images)
    groups = [f"m{r.mask_hash[:12]}" for r in real.records]
    records = tuple(
        dataclasses.replace(r, id=f"syn_picture-{i}_{r.label}_003", group=group)
        for i, (r, group) in enumerate(zip(synthetic.records, groups, strict=True))
    )
    c, section = reported(real, dataclasses.replace(synthetic, records=records))
    assert section is not None
    matched = match(c)
    assert matched is not None
    assert [r.id for r in matched.real.records] == [r.id for r in real.records]


def test_pairs_of_other_names_say_their_mask(real: SampleSet) -> None:
    """Damage: pairs that `combine` gave other ids have no real image any more."""
    synthetic = sampled_for(real, load_pairs(real, SIZE, "real").images, names="syn_syn_{}_000")
    assert reported(real, synthetic)[1] is None
    records = (dataclasses.replace(r, derived_from=r.id[8:-4]) for r in synthetic.records)
    c, _ = reported(real, dataclasses.replace(synthetic, records=tuple(records)))
    matched = match(c)
    assert matched is not None
    assert [r.id for r in matched.real.records] == [r.id for r in real.records]


def test_pairs_of_other_masks_are_left_out_and_reported(real: SampleSet) -> None:
    """Damage: one pair of unknown origin ends the comparison of all, or shifts the column of per_pair.csv."""
    synthetic = sampled_for(real, load_pairs(real, SIZE, "real").images)
    stranger = dataclasses.replace(synthetic.records[0], id="syn_benign_000001", group="syn_benign_000001")
    _, section = reported(real, dataclasses.replace(synthetic, records=(stranger, *synthetic.records[1:])))
    assert section is not None
    assert section.skipped[0] == "1 of 24 pairs: their masks are not of the real set."
    assert section.per_pair["paired_ssim"] == [None, *[1.0] * (COUNT - 1)]


def test_constant_pictures_and_empty_masks_have_finite_figures(real: SampleSet) -> None:
    """Damage: a black picture divides by zero."""
    synthetic = sampled_for(real, np.zeros((COUNT, SIZE, SIZE), np.uint8))
    _, section = reported(real, dataclasses.replace(synthetic, masks=np.zeros_like(synthetic.masks)))
    assert section is not None
    assert np.isfinite(np.array(section.per_pair["paired_ssim"], dtype=float)).all()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the layers of AlexNet that LPIPS looks at, at random."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    tensors = {k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith("features")}
    torch.save(tensors, path)
    return path


def test_lpips_uses_the_weights_of_the_file(real: SampleSet, weights: Path) -> None:
    """Damage: layers are mixed up or stay random, or equal pictures are apart."""
    images = load_pairs(real, SIZE, "real").images
    c, section = reported(real, sampled_for(real, images), lpips_weights=str(weights))
    assert section is not None
    figure = section.values["subgroups"]["all"]["lpips"]
    assert figure["synthetic"]["value"] == pytest.approx(0, abs=1e-6)
    assert figure["baseline"]["low"] > 1e-4
    assert not any("LPIPS" in line for line in section.skipped)
    stored = torch.load(weights, weights_only=True)
    own = dict(network.load_lpips(c.config.lpips_weights or "").named_parameters())
    assert torch.equal(own["net.slice3.6.weight"], stored["features.6.weight"])


def test_lpips_weights_that_cannot_be_had_are_reported_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: a bad file or a lost connection ends in a traceback, or is reported under another setting's name."""

    def check(value: str) -> str:
        network.load_lpips.cache_clear()
        with pytest.raises(UserError) as error:
            METRIC.check(
                context(Sets(*[sampled(2, 1, "x")] * 3, CLASSES, SIZE), lpips_weights=value).config,
                SampleSet(Path(), (), {}),
            )
        assert str(error.value).startswith("--lpips_weights")
        return str(error.value)

    assert "no such file" in check(str(tmp_path / "gone.pth"))
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, other)
    assert "another network" in check(str(other))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("medsegdiff.features.perceptual.weights.load_state_dict_from_url", refuse)
    assert "no route to host" in check("download")
