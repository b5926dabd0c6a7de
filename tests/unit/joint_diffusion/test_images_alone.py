"""Data sets without masks: their channel stays hidden, costs nothing, and images come out alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_runs import settings

import medsegdiff
from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleRecord, SampleSet, read_samples, write_sample, write_samples
from medsegdiff.errors import UserError
from medsegdiff.generators.base import LikelihoodScore, load_generator
from medsegdiff.generators.joint_diffusion.few_step.config import FewStepConfig
from medsegdiff.generators.joint_diffusion.few_step.trainer import few_step
from medsegdiff.generators.joint_diffusion.noise import MASK, DiffusionConfig, sigma_table
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer, train
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

CAPTIONS = {"OCT": "drusen in the left eye", "fundus": "red fundus, right eye"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 train, 6 val and 3 test pictures in colour, of two modalities and with captions, without masks."""
    root, random = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    records: list[SampleRecord] = []
    for split, count in (("train", 12), ("val", 6), ("test", 3)):
        for number in range(count):
            modality = ("OCT", "fundus")[number % 2]
            image = random.integers(0, 90, (24, 24, 3), np.uint8)
            image[..., number % 2] += 100  # OCT is red, fundus is green
            records.append(
                write_sample(
                    root, image, None, id=f"{split}_{number}", label=("ill", "well")[number // 2 % 2], split=split,
                    group=f"{split}{number}", source="drawn", modality=modality, text=CAPTIONS[modality],
                )
            )  # fmt: skip
    write_samples(root, records, classes=["ill", "well"], fingerprint={"phase": "test"}, arrays=ArraySpec(3, None))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """What a short training leaves."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(settings(data, folder, num_epochs=40, conditions=["label", "modality", "text"], lr=1e-2))
    return folder / "last_model.safetensors"


def test_masks_stay_hidden_and_cost_nothing(data: Path, tmp_path: Path) -> None:
    """Damage: a level below the highest, by which the empty masks would be learnt; their loss among that of images."""
    trainer = DiffusionTrainer(settings(data, tmp_path / "run"), read_samples(data))
    _, cond, sigma, _, _ = trainer._batch(0, 0)
    assert (sigma[:, MASK] == trainer.config.diffusion.sigma_max).all()
    assert (sigma[:, 0] < trainer.config.diffusion.sigma_max).any()
    assert (sigma[:, 0] > 0).all()  # nothing is learnt of a clean image and a hidden mask
    assert cond["label"].shape == (4,)
    assert trainer.config.diffusion.mask_weight == 0
    scores = trainer.validator.val_losses(trainer.ema.model)
    images = [value for name, value in scores.items() if name.startswith("val_image")]
    assert scores["val_loss"] == pytest.approx(sum(images) / len(images))
    table = sigma_table("text_to_image", DiffusionConfig(), 4)
    assert (table[:, MASK] == 80).all()
    assert table[-1, 0] == 0


def test_images_of_a_modality(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a mask file of a picture that has none; a modality or a caption that reaches no network, or no table."""
    plain = {"num_samples_per_class": 3, "steps": 4, "chunk_size": 4, "precision": "fp32", "device": "cpu"}
    means = {}
    for modality in CAPTIONS:
        output = str(tmp_path / modality)
        found = generate(GenerateConfig(str(checkpoint), output, modality=modality, prompt=CAPTIONS[modality], **plain))  # type: ignore[arg-type]
        assert isinstance(found, SampleSet)
        assert not (Path(output) / "masks").exists()
        assert {(r.modality, r.text, r.mask_file_name) for r in found.records} == {(modality, CAPTIONS[modality], "")}
        assert [r.label for r in found.records] == ["ill"] * 3 + ["well"] * 3
        means[modality] = np.stack([found.read_image(r) for r in found.records]).mean(axis=(0, 1, 2))
    assert means["OCT"][0] > means["OCT"][1] + 20
    assert means["fundus"][1] > means["fundus"][0] + 20
    loaded = medsegdiff.load_generator(checkpoint, device="cpu", precision="fp32", batch_size=4, steps=4)
    assert loaded.tasks == ["text_to_image"]
    samples = loaded.sample(2, "ill", modality="OCT", prompt=CAPTIONS["OCT"])
    pairs = read_samples(tmp_path / "OCT")
    assert np.array_equal(samples[0].image, pairs.read_image(pairs.records[0]))
    assert samples.sheet.size[0] > 0
    with pytest.raises(UserError, match="mask: found samples of a generator of images alone"):
        samples.masks  # noqa: B018
    (tmp_path / "rows.csv").write_text("label,modality,prompt\nwell,OCT,\nill,fundus,right eye\n")
    rows = generate(GenerateConfig(str(checkpoint), str(tmp_path / "t"), requests=str(tmp_path / "rows.csv"), **plain))  # type: ignore[arg-type]
    assert isinstance(rows, SampleSet)
    assert [(r.label, r.modality, r.text) for r in rows.records] == [
        ("ill", "fundus", "right eye"),
        ("well", "OCT", ""),
    ]


def test_what_was_not_learnt_is_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Damage: masks promised by a generator of images alone; an unknown modality or word sampled all the same."""
    for changes, message in (
        ({"modality": "fundas"}, "--modality: found fundas; expected one of OCT, fundus. Did you mean fundus"),
        ({"prompt": "blue eye"}, "--prompt: found 'blue'"),
        (
            {"mode": "joint"},
            "--mode: found joint, which a generator of kind .* does not serve; expected one of text_to",
        ),
        ({"attributes": ["area=1"]}, "--attributes: found a checkpoint that takes label, modality, text"),
    ):
        with pytest.raises(UserError, match=message):
            generate(GenerateConfig(str(checkpoint), str(tmp_path / "out"), **changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--checkpoint_path .*: found a checkpoint of RGB images without masks"):
        few_step(FewStepConfig(str(checkpoint), str(data), str(tmp_path / "few")))
    assert not (tmp_path / "out").exists()


def test_membership_is_asked_of_the_image_alone(checkpoint: Path, data: Path) -> None:
    """Damage: the loss of masks that are not there among the scores."""
    generator = load_generator(checkpoint)
    assert isinstance(generator, LikelihoodScore)
    train_split = load_tensors(read_samples(data).select("train"), 16, what="train split")
    scores = generator.likelihood_score(train_split, 0)
    assert all(np.isfinite(values).all() and len(values) == 12 for values in scores.values())
    assert max(float(-values.mean()) for values in scores.values()) < 5
    assert torch.is_tensor(train_split.masks)
    assert train_split.masks.shape[1] == 0
