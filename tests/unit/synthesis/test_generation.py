"""Generation: counts, determinism, resuming, gates, and checkpoints that cannot be used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import TWO_SIZES, random_checkpoint, refuse_to_sample

from medsegdiff.data.records import SampleSet, class_counts, read_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import generator as joint
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint, save_checkpoint
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.guidance import Guidance
from medsegdiff.synthesis import samples as drawing
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.plan import plan_pairs
from medsegdiff.synthesis.quality_filters import mask_fault
from medsegdiff.synthesis.run import generate

SIDE = 16
CLASSES = ["benign", "malignant"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights. Its masks are noise of which half is lesion: one large connected part."""
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors")


def settings(checkpoint: Path, output: Path, **changes: Any) -> GenerateConfig:
    """6 pairs a class in chunks of 4."""
    config = GenerateConfig(
        str(checkpoint), str(output), num_samples_per_class=6, steps=2, chunk_size=4, precision="fp32", device="cpu"
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> SampleSet:
    """What a run without any interruption samples."""
    return generate(settings(checkpoint, tmp_path_factory.mktemp("straight") / "pairs"))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pictures(pairs: SampleSet) -> dict[str, tuple[bytes, bytes, float]]:
    """Pixels and pixel aspect by id."""
    return {r.id: (pairs.read_image(r).tobytes(), pairs.read_mask(r).tobytes(), r.pixel_aspect) for r in pairs.records}


def count_samples(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record every call of `sample_pairs`."""
    calls: list[dict[str, Any]] = []
    original = joint.sample_pairs

    def spy(denoiser: Any, codec: Any, cond: Any, sigmas: Any, noise: Any, **options: Any) -> Any:
        calls.append({"labels": cond["label"].tolist(), "sigmas": sigmas, **options})
        return original(denoiser, codec, cond, sigmas, noise, **options)

    monkeypatch.setattr(joint, "sample_pairs", spy)
    return calls


def corner(mask: np.ndarray, has_lesion: bool) -> str | None:
    """A gate that refuses about every second mask."""
    return "corner" if mask[0, 0] else None


def test_counts_and_records(straight: SampleSet, checkpoint: Path) -> None:
    """Damage: keeping the padding of the last chunk; split test; aspects of another class."""
    pairs = read_samples(straight.root)
    assert class_counts(pairs.records) == {"train": {"benign": 6, "malignant": 6}}
    digest = load_checkpoint(checkpoint)[2]
    for r in pairs.records:
        assert (r.width, r.height, r.fold, r.generator) == (SIDE, SIDE, -1, digest)
        assert r.pixel_aspect in {"benign": (1.25, 1.5), "malignant": (0.75,)}[r.label]
        assert set(np.unique(pairs.read_mask(r))) <= {0, 255}
    assert len({r.group for r in pairs.records}) == len({r.image_hash for r in pairs.records}) == 12
    assert {r.pixel_aspect for r in pairs.select(label="benign").records} == {1.25, 1.5}
    assert pairs.info["checkpoint"]["train_hashes"] == [{"image_hash": "ab", "perceptual_hash": "cd"}]
    assert (pairs.info["checkpoint"]["step"], pairs.info["fingerprint"]["phase"]) == (7, "generate")
    balance = json.loads((pairs.root / "class_balance.json").read_text())
    assert balance["generated"] == {"benign": 6, "malignant": 6}
    assert (pairs.root / "contact_sheet.png").is_file()
    assert not pairs.root.with_name("pairs.partial").exists()


def test_same_seed_same_bytes(straight: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: noise from torch's global generator; the output folder or the time in the metadata."""
    torch.manual_seed(99)
    again = generate(settings(checkpoint, tmp_path / "elsewhere"))
    assert files(again.root) == files(straight.root)


LED = {"mask_guidance": 6.0, "guidance_low": 0.0, "guidance_high": 100.0}


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}, {"sampler": "ddpm"}, {"guidance": 4.0}, LED])
def test_settings_matter(change: dict[str, Any], straight: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a setting that is parsed and not handed on."""
    other = generate(settings(checkpoint, tmp_path / "pairs", num_samples_per_class=2, **change))
    assert not {r.image_hash for r in other.records} & {r.image_hash for r in straight.records}


def test_the_grain_is_what_is_reported(tmp_path: Path) -> None:
    """Damage: a share that sample_pairs takes and drops."""
    fine = random_checkpoint(tmp_path / "fine.safetensors", diffusion=DiffusionConfig(sigma_max=2.0, sigma_min=0.1))
    found = [
        generate(
            settings(fine, tmp_path / f"{reported}", num_samples_per_class=2, steps=3, sigma_scale=reported)
        ).records
        for reported in (0.5, 1.0)
    ]
    assert not {r.image_hash for r in found[0]} & {r.image_hash for r in found[1]}


def test_autoguidance_samples_with_the_guidance_model(checkpoint: Path, straight: SampleSet, tmp_path: Path) -> None:
    """Damage: the guidance model loaded and not handed on, or left out of what a folder says it was made with."""
    denoiser, card, _ = load_checkpoint(checkpoint)
    weights = {name: 0.7 * value for name, value in denoiser.state_dict().items()}
    guidance_model = tmp_path / "early.safetensors"
    save_checkpoint(guidance_model, weights, card)
    chosen = {"num_samples_per_class": 2, "guidance": 2.0}
    pairs = generate(settings(checkpoint, tmp_path / "auto", guidance_checkpoint=str(guidance_model), **chosen))
    plain = generate(settings(checkpoint, tmp_path / "plain", **chosen))
    assert not {r.image_hash for r in pairs.records} & {r.image_hash for r in plain.records}
    reported = json.loads((pairs.root / "dataset.json").read_text())["fingerprint"]
    assert reported["guidance_sha256"] == load_checkpoint(guidance_model)[2]


def test_images_follow_their_masks_where_images_alone_were_learnt(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a default that steers away from what was never learnt, or that the folder does not say."""
    denoiser, card, _ = load_checkpoint(checkpoint)
    paired = tmp_path / "paired.safetensors"
    alone = dataclasses.replace(card.diffusion, share_marginal=0.0)
    save_checkpoint(paired, denoiser.state_dict(), dataclasses.replace(card, diffusion=alone))
    for path, weight in ((checkpoint, 2.0), (paired, 1.0)):
        pairs = generate(settings(path, tmp_path / f"pairs_{weight:g}", num_samples_per_class=1))
        assert pairs.info["fingerprint"]["mask_guidance"] == weight
    with pytest.raises(UserError, match=r"--mask_guidance: found 2.0 with a checkpoint .*; expected 1: it knows"):
        generate(settings(paired, tmp_path / "pairs", mask_guidance=2.0))


@pytest.mark.parametrize("change", [{"classes": ["malignant", "benign"]}, {"train_hashes": []}])
def test_a_guidance_model_of_other_data_is_refused(change: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a guidance model that saw other pictures, of which `combine` would not know."""
    denoiser, card, _ = load_checkpoint(checkpoint)
    guidance_model = tmp_path / "other.safetensors"
    save_checkpoint(guidance_model, denoiser.state_dict(), dataclasses.replace(card, **change))
    message = rf"--guidance_checkpoint: found .*other.safetensors, whose {next(iter(change))} is not that of"
    with pytest.raises(UserError, match=message):
        generate(settings(checkpoint, tmp_path / "pairs", guidance=2.0, guidance_checkpoint=str(guidance_model)))


def test_a_guidance_model_that_sees_other_sizes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: steering away from what is coarse, as if that were the fault of a guidance model that learnt less."""
    card = load_checkpoint(checkpoint)[1]
    guidance_model = random_checkpoint(tmp_path / "two.safetensors", **{f.name: getattr(card, f.name) for f in
        dataclasses.fields(card) if f.name not in ("model", "scores")} | {"model": TWO_SIZES})  # fmt: skip
    with pytest.raises(
        UserError, match=r"--guidance_checkpoint: found .*two.safetensors, which sees pictures at other sizes"
    ):
        generate(settings(checkpoint, tmp_path / "pairs", guidance=2.0, guidance_checkpoint=str(guidance_model)))


@pytest.mark.parametrize("sampler", ["heun", "ddim"])
def test_every_sampler_samples(sampler: Any, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a name in GenerateConfig that SAMPLERS does not know."""
    pairs = generate(settings(checkpoint, tmp_path / "pairs", num_samples_per_class=1, sampler=sampler))
    assert len(pairs) == 2


@pytest.mark.parametrize("gate", [None, corner])
def test_more_pairs_leave_the_first_ones_as_they_are(
    gate: Callable[..., str | None] | None, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: the number of items of a chunk among the counters of the noise."""
    if gate is not None:
        monkeypatch.setattr(drawing, "mask_fault", gate)
    sampled = [
        pictures(generate(settings(checkpoint, tmp_path / f"{n}", num_samples_per_class=n))) for n in (3, 10, 14)
    ]
    for few, many in zip(sampled[:-1], sampled[1:], strict=True):
        assert few == {name: many[name] for name in few}
    assert [len(d) for d in sampled] == [6, 20, 28]


def test_a_class_alone_is_drawn_as_with_the_others(straight: SampleSet, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: numbering the class by its place in --classes, which gives malignant the embedding of benign."""
    alone = generate(settings(checkpoint, tmp_path / "pairs", classes=["malignant"]))
    assert alone.classes == ["malignant"]
    assert pictures(alone) == pictures(straight.select(label="malignant"))


@pytest.mark.parametrize(("name", "call", "left"), [("write_sample", 6, 3), ("write_json", 3, 2), ("gather", 1, 0)])
def test_resumes_to_the_same_bytes(
    name: str, call: int, left: int, straight: SampleSet, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Damage: writing the record of a chunk before its pairs; sampling finished chunks again."""
    config, calls = settings(checkpoint, tmp_path / "pairs"), []
    original = getattr(drawing, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(config)
    assert not (tmp_path / "pairs").exists()
    samples = count_samples(monkeypatch)
    generate(config)
    assert len(samples) == left
    assert files(tmp_path / "pairs") == files(straight.root)


def test_leftovers_of_other_settings_are_neither_used_nor_lost(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: keeping every partial folder, which mixes two seeds; deleting hours of work without a word."""
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "gather", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate(settings(checkpoint, tmp_path / "pairs", seed=5))
    before = files(tmp_path / "pairs.partial")
    with pytest.raises(UserError, match=r"found work begun with other settings \(seed: 5 -> 0\)"):
        generate(settings(checkpoint, tmp_path / "pairs"))
    assert files(tmp_path / "pairs.partial") == before
    assert len(generate(settings(checkpoint, tmp_path / "pairs", seed=5))) == 12


def test_a_finished_set_is_not_drawn_again(
    straight: SampleSet, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: sampling for hours what lies there."""
    samples = count_samples(monkeypatch)
    assert generate(settings(checkpoint, straight.root)).records == straight.records
    assert samples == []


def test_other_settings_do_not_overwrite(straight: SampleSet, checkpoint: Path) -> None:
    """Damage: replacing a finished data set without a word."""
    with pytest.raises(UserError, match=r"other settings \(num_samples_per_class: 6 -> 7\); expected the same"):
        generate(settings(checkpoint, straight.root, num_samples_per_class=7))


def test_the_network_is_reported_the_class_and_the_options(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: labels of one class for all; guidance bounds swapped."""
    calls = count_samples(monkeypatch)
    monkeypatch.setattr(drawing, "mask_fault", lambda *_: None)
    chosen = {"guidance": 2.0, "guidance_low": 0.4, "guidance_high": 3.0, "sampler": "ddim", "mask_guidance": 1.5}
    generate(settings(checkpoint, tmp_path / "pairs", sigma_scale=0.6, **chosen))
    assert [c["labels"] for c in calls] == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    for c in calls:
        assert (c["sampler"], c["sigma_scale"]) == ("ddim", 0.6)
        assert c["guidance"] == Guidance({"label": 2.0}, mask_weight=1.5, interval=(0.4, 3.0))
        assert c["sigmas"].shape == (3, 2)


def test_refused_masks_are_drawn_again_and_counted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: keeping a refused mask; the image of one sample with the mask of another; no count."""
    monkeypatch.setattr(drawing, "mask_fault", corner)
    sampled: dict[bytes, bytes] = {}
    original = joint.JointDiffusion.sample

    def remember(*args: Any) -> Any:
        found = original(*args)
        sampled.update({arrays["mask"].tobytes(): arrays["image"].tobytes() for arrays in found})
        return found

    monkeypatch.setattr(joint.JointDiffusion, "sample", remember)
    pairs = generate(settings(checkpoint, tmp_path / "pairs", num_samples_per_class=12))
    assert class_counts(pairs.records)["train"] == {"benign": 12, "malignant": 12}
    for r in pairs.records:
        assert not pairs.read_mask(r)[0, 0]
        assert sampled[pairs.read_mask(r).tobytes()] == pairs.read_image(r).tobytes()
    counts = pairs.info["masks_redrawn"]
    assert set(counts) == set(CLASSES)
    assert all(c["corner"] > 0 for c in counts.values())
    assert json.loads((pairs.root / "class_balance.json").read_text())["masks_redrawn"] == counts


def test_gives_up_after_max_redraws(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: letting degenerate masks through in the end, or sampling for ever."""
    monkeypatch.setattr(drawing, "mask_fault", lambda *_: "empty")
    message = (
        r"^chunk benign_00000: found 4 of 4 masks degenerate after 2 redraws \(benign: 12 empty\); "
        "expected lesion masks"
    )
    with pytest.raises(UserError, match=message):
        generate(settings(checkpoint, tmp_path / "pairs", max_redraws=2))
    assert not (tmp_path / "pairs").exists()


def test_plan() -> None:
    """Damage: a last chunk of 0 pairs where the count is a multiple of the chunk; one key for two items."""
    tasks = plan_pairs("joint", ["a", "b"], ["b", "a"], 5, 4, 7)
    assert [(t.name, len(t.items)) for t in tasks] == [("a_00000", 4), ("a_00001", 1), ("b_00000", 4), ("b_00001", 1)]
    items = [item for task in tasks for item in task.items]
    assert len({i.request.seed for i in items}) == len({i.request.id for i in items}) == 10
    assert items[0].request.seed == (7, 0, 1, 0)
    assert [len(t.items) for t in plan_pairs("joint", ["a"], ["a"], 8, 4, 0)] == [4, 4]


@pytest.mark.parametrize("gate", [None, corner])
def test_the_chunk_size_changes_nothing_that_can_be_seen(
    gate: Callable[..., str | None] | None, straight: SampleSet, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Damage: noise of a chunk instead of an item; redraws that fill gaps in the order of the chunk."""
    if gate is not None:
        monkeypatch.setattr(drawing, "mask_fault", gate)
    small, large = (
        generate(settings(checkpoint, tmp_path / f"{size}", chunk_size=size, num_samples_per_class=10))
        for size in (3, 8)
    )
    assert [r.id for r in small.records] == [r.id for r in large.records]
    assert small.info["masks_redrawn"] == large.info["masks_redrawn"]
    for one, other in zip(small.records, large.records, strict=True):
        difference = np.abs(small.read_image(one).astype(int) - large.read_image(other).astype(int))
        assert (difference <= 1).mean() >= 0.999
        assert (small.read_mask(one) == large.read_mask(other)).mean() >= 0.999
        assert one.pixel_aspect == other.pixel_aspect


def spots(*areas: int) -> np.ndarray:
    """A 100 x 100 mask of separate squares of the given areas."""
    mask = np.zeros((100, 100), np.uint8)
    left = 0
    for area in areas:
        side = round(area**0.5)
        mask[:side, left : left + side] = 255
        left += side + 2
    return mask


@pytest.mark.parametrize(
    ("mask", "has_lesion", "fault"),
    [
        (spots(), True, "empty"),
        (spots(16), True, "too small"),
        (spots(25), True, None),
        (np.full((100, 100), 255, np.uint8), True, "too large"),
        (spots(400, 100), True, None),
        (spots(100, 100, 100), True, "scattered"),
        (spots(), False, None),
        (spots(4), False, "not empty"),
    ],
)
def test_gates(mask: np.ndarray, has_lesion: bool, fault: str | None) -> None:
    """Damage: dropping any one gate; the area in pixels instead of a share."""
    assert mask_fault(mask, has_lesion) == fault


def refuse(message: str, path: Path | str, tmp_path: Path, **changes: Any) -> None:
    refuse_to_sample(message, lambda: settings(Path(path), tmp_path / "pairs", **changes), tmp_path / "pairs")


def test_unknown_class(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: ValueError of list.index, or an empty class."""
    message = "--classes: found 'cyst'; expected classes of the checkpoint, with blanks between them: benign malignant"
    refuse(message, checkpoint, tmp_path, classes=["benign", "cyst"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples_per_class": 0}, "--num_samples_per_class: found 0; expected a number above 0"),
        ({"chunk_size": 0}, "--chunk_size: found 0"),
        ({"steps": 1}, "--steps: found 1; expected 2 or more"),
        ({"classes": ["benign", "benign"]}, "--classes: found benign benign; expected each class once"),
        ({"guidance": -1.0}, "--guidance: found -1.0; expected 0 or more"),
        ({"guidance_low": 6.0}, "--guidance_low: found 6.0; expected less than --guidance_high 5.0"),
        ({"mask_guidance": -1.0}, "--mask_guidance: found -1.0; expected 0 or more"),
        ({"sigma_scale": 0.0}, "--sigma_scale: found 0.0; expected above 0, at most 1"),
        ({"max_redraws": -1}, "--max_redraws: found -1"),
        ({"guidance_checkpoint": "x.safetensors"}, "--guidance_checkpoint: found --guidance 1, which is none"),
        ({"guidance_checkpoint": "x.safetensors", "guidance": 2.0}, "x.safetensors: found no such file"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: dropping any one check."""
    refuse(message, checkpoint, tmp_path, **change)


def test_pth_name_finds_the_safetensors_beside(checkpoint: Path, straight: SampleSet, tmp_path: Path) -> None:
    """Damage: taking the user's own command line `--checkpoint_path best_model.pth` at its word."""
    pairs = generate(settings(checkpoint.with_suffix(".pth"), tmp_path / "pairs"))
    assert pictures(pairs) == pictures(straight)
