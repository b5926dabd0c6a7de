"""A classifier learns what there is to learn, and nothing where there is nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.records import SampleRecord
from medsegdiff.downstream.classification.results import score_pairs
from medsegdiff.downstream.classification.training import ClassificationTrainer, build_network, predict_probabilities
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.errors import UserError
from medsegdiff.statistics.roc import rank_auc

pytestmark = pytest.mark.slow

CLASSES = ["benign", "malignant"]
SIDE = 32
CPU = torch.device("cpu")


def record(number: int, label: str) -> SampleRecord:
    """A row of metadata for a picture that was never written."""
    values = {f.name: 1 for f in dataclasses.fields(SampleRecord)}
    text = {"id": f"p{number}", "group": f"g{number}", "label": label, "split": "train", "source": "test"}
    return SampleRecord(**{**values, **text})  # type: ignore[arg-type]


def blobs(count: int, seed: int, shuffled: bool = False) -> SampleTensors:
    """Round lesions on noise, malignant ones bright and benign ones dark; `shuffled`: labels sampled anew."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.arange(count) % 2
    centre = random.uniform(12, 20, size=(count, 2, 1, 1))
    masks = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 36
    images = 110 + np.where(masks, np.where(labels == 1, 60, -60)[:, None, None], 0)
    images = (images + random.normal(0, 25, size=images.shape)).clip(0, 255)
    if shuffled:
        labels = random.permutation(labels)
    pictures = [torch.from_numpy(part.astype(np.uint8))[:, None] for part in (images, masks * 255)]
    return SampleTensors(
        *pictures, torch.from_numpy(labels), tuple(record(i, CLASSES[k]) for i, k in enumerate(labels))
    )


def settings(**changes: object) -> SegmentConfig:
    """A small network and 30 steps at 32 pixels."""
    base = SegmentConfig(
        "data", task="classify", model="resnet10t", img_size=SIDE, batch_size=8, warmup_steps=2, lr=3e-3,
        ema_decay=0.9, device="cpu", precision="fp32",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def trained(shuffled: bool, steps: int = 30) -> ClassificationTrainer:
    """A trainer after its steps and one evaluation."""
    trainer = ClassificationTrainer(settings(), CLASSES, blobs(48, 0, shuffled), blobs(24, 1, shuffled), steps)
    for step in range(steps):
        trainer.train_step(step)
    trainer.evaluate(steps)
    return trainer


@pytest.fixture(scope="module")
def learnt() -> ClassificationTrainer:
    """Trained on what can be learnt."""
    return trained(shuffled=False)


def unseen_auc(trainer: ClassificationTrainer, shuffled: bool) -> float:
    """AUC on pictures that the trainer has not seen."""
    data = blobs(60, 2, shuffled)
    found = predict_probabilities(trainer.ema.model, data, trainer.mean, trainer.std, trainer.config, CPU)
    return rank_auc(found[:, 1], data.labels.numpy() == 1)


@pytest.mark.slow
def test_what_can_be_learnt_is_learnt(learnt: ClassificationTrainer) -> None:
    """Damage: labels and pictures are shuffled against each other, or pictures are not standardised in predicting."""
    assert unseen_auc(learnt, shuffled=False) > 0.95
    assert learnt.best_score > 0.95


@pytest.mark.slow
def test_what_cannot_be_learnt_is_not() -> None:
    """Labels without a meaning. Damage: what is scored has the label in it, such as a mask that is shown."""
    assert 0.25 < unseen_auc(trained(shuffled=True), shuffled=True) < 0.75


def test_smoothed_labels_are_what_the_loss_wants(learnt: ClassificationTrainer) -> None:
    """The logits of a picture that is all certain. Damage: `label_smoothing` is not handed on."""
    images, masks, labels = learnt.batch(0)
    plain = learnt.loss(images, masks, labels).item()
    learnt_config = learnt.config
    learnt.config = settings(label_smoothing=0.2)
    learnt.model.train()
    logits = learnt.model(images).detach()
    expected = -(logits.log_softmax(1) * (0.8 * torch.eye(2)[labels] + 0.1)).sum(dim=1).mean()
    found = learnt.loss(images, masks, labels).item()
    learnt.config = learnt_config
    assert found == pytest.approx(float(expected), abs=1e-5)
    assert found != pytest.approx(plain, abs=1e-3)


def test_mirrored_pictures_get_the_same_probabilities(learnt: ClassificationTrainer) -> None:
    """Damage: `tta_flip` is not heeded, or the mirror image is not part of the mean."""
    data = blobs(8, 3)
    mirrored = dataclasses.replace(data, images=data.images.flip(-1))

    def both(flip: bool) -> list[np.ndarray]:
        config = settings(tta_flip=flip)
        model, mean, std = learnt.ema.model, learnt.mean, learnt.std
        return [predict_probabilities(model, d, mean, std, config, CPU) for d in (data, mirrored)]

    straight, flipped = both(True)
    assert np.abs(straight - flipped).max() < 1e-6
    assert straight.sum(axis=1) == pytest.approx(np.ones(8))
    straight, flipped = both(False)
    assert np.abs(straight - flipped).max() > 1e-4


def test_more_certain_weights_win_among_those_with_the_same_auc() -> None:
    """Logits halved: the same order of the pictures. Damage: the first of many weights with AUC 1 is kept for ever."""
    trainer = ClassificationTrainer(settings(tta_flip=False), CLASSES, blobs(8, 0), blobs(8, 1), 5)
    head = trainer.ema.model.get_classifier()
    direction = trainer.ema.model.forward_head(  # type: ignore[operator]
        trainer.ema.model.forward_features(standardised(trainer)),
        pre_logits=True,  # type: ignore[operator]
    )
    signs = torch.where(trainer.val.labels == 1, 1.0, -1.0)[:, None]
    line = torch.linalg.lstsq(direction, signs).solution[:, 0]  # says the few pictures of val apart
    scores = []
    for scale in (1.0, 2.0):
        with torch.no_grad():
            head.weight.copy_(torch.stack([-line, line]) * scale)
            head.bias.zero_()
        scores.append(trainer.score())
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert 0 < scores[1] - scores[0] < 1e-6


def standardised(trainer: ClassificationTrainer) -> torch.Tensor:
    """The val pictures as a network sees them."""
    return (trainer.val.images.float() / 255 - trainer.mean) / trainer.std


def test_threshold_comes_from_val_and_the_best_weights(learnt: ClassificationTrainer) -> None:
    """Damage: the threshold is found with the last weights, or on train, or for benign."""
    settings_before = learnt.model_settings()
    values = predict_probabilities(learnt.ema.model, learnt.val, learnt.mean, learnt.std, learnt.config, CPU)[:, 1]
    negatives = np.sort(values[learnt.val.labels.numpy() == 0])
    assert settings_before["threshold"] == negatives[-2]  # one of the twelve may be wrong
    assert settings_before["classes"] == CLASSES
    kept = {name: value.clone() for name, value in learnt.ema.state_dict().items()}
    with torch.no_grad():
        learnt.ema.model.get_classifier().weight.zero_()
    found = learnt.model_settings()
    learnt.ema.load_state_dict(kept)
    assert found == settings_before


def test_rows_of_the_test_pictures(learnt: ClassificationTrainer, tmp_path: Path) -> None:
    """Classes in another order than the alphabet's. Damage: `probability` is that of the last class."""
    data = blobs(6, 4)
    settings_there = {**learnt.model_settings(), "classes": ["malignant", "benign"], "threshold": 0.25}
    rows = score_pairs(learnt.ema.model, settings_there, data, learnt.config, tmp_path / "roc.png")
    found = predict_probabilities(learnt.ema.model, data, learnt.mean, learnt.std, learnt.config, CPU)
    assert [row.probability for row in rows] == found[:, 0].tolist()
    assert [(row.id, row.group, row.label) for row in rows] == [(r.id, r.group, r.label) for r in data.records]
    assert {row.positive for row in rows} == {"malignant"}
    assert [row.predicted for row in rows] == [["malignant", "benign"][k] for k in found.argmax(axis=1)]
    assert [json.loads(row.probabilities)["benign"] for row in rows] == found[:, 1].tolist()
    assert rows[0].threshold == 0.25
    assert (tmp_path / "roc.png").is_file()


def test_pictures_of_a_class_that_was_not_learnt_are_refused(learnt: ClassificationTrainer, tmp_path: Path) -> None:
    """Damage: a normal picture counts as one that is not malignant."""
    data = blobs(2, 0)
    data = dataclasses.replace(data, records=(data.records[0], record(7, "normal")))
    with pytest.raises(UserError, match="test picture p7: found class 'normal'; expected one of benign, malignant"):
        score_pairs(learnt.ema.model, learnt.model_settings(), data, learnt.config, tmp_path / "roc.png")


def test_a_network_of_one_size_never_sees_small_pictures() -> None:
    """At 96 pixels training begins with 64. Damage: those go to a network that takes 96 alone."""
    big = [dataclasses.replace(blobs(8, s), images=torch.zeros(8, 1, 96, 96, dtype=torch.uint8)) for s in (0, 1)]
    fixed = ClassificationTrainer(settings(img_size=96, model="test_vit_relpos"), CLASSES, *big, 10)
    free = ClassificationTrainer(settings(img_size=96), CLASSES, *big, 10)
    assert (fixed.sizes, free.sizes) == ([96], [64, 96])


def test_one_class_is_nothing_to_distinguish() -> None:
    """Damage: a network with one output is trained."""
    with pytest.raises(UserError, match=r"--task classify: found one class \(benign\); expected two or more"):
        build_network(settings(), ["benign"])
