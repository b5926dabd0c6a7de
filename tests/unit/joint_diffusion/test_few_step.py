"""Few-step training: where it starts, what it sees, that it resumes to the bit, and how its checkpoints sample."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.models import mobilenet_v2
from trainer_runs import fail_at, same, settings, write_data

from medsegdiff.data.records import read_samples
from medsegdiff.errors import UserError
from medsegdiff.features.perceptual.mobilenet import load_mobilenet
from medsegdiff.generators.base import Request, load_generator
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import ModelConfig
from medsegdiff.generators.joint_diffusion.few_step.config import FewStepConfig
from medsegdiff.generators.joint_diffusion.few_step.discriminator import Discriminator, OnLesions, _spread, moved
from medsegdiff.generators.joint_diffusion.few_step.lesions import RealLesions, edges, energy_distance, shapes
from medsegdiff.generators.joint_diffusion.few_step.trainer import (
    MISMATCHED,
    FewStepTrainer,
    few_step,
    hinge_loss,
    lacking_lesion,
)
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK
from medsegdiff.generators.joint_diffusion.samplers import renoise
from medsegdiff.generators.joint_diffusion.trainer import train

if TYPE_CHECKING:
    from sample_sets import WriteSamples

LEVELS = [80.0, 6.0, 2.0, 0.7]
TWO_SIZES = ModelConfig(
    patch_size=2, model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2, low_res_factor=2
)


@pytest.fixture(autouse=True)
def _without_perceptual_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network for photographs takes a second a set."""
    place = "medsegdiff.generators.joint_diffusion.sample_quality.packaged_weights"
    monkeypatch.setattr(place, lambda: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 that has learnt nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    save_file(mobilenet_v2().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_ellipses: WriteSamples) -> tuple[Path, Path]:
    """A sample folder, and the checkpoint of a short training on it."""
    root = tmp_path_factory.mktemp("few_step")
    data = write_data(root / "data", write_ellipses)
    train(settings(data, root / "trained", model=TWO_SIZES))
    return data, root / "trained" / "best_model.safetensors"


Config = Callable[..., FewStepConfig]


@pytest.fixture
def config(trained: tuple[Path, Path], weights: Path, tmp_path: Path) -> Config:
    """Settings of a short run."""

    def make(**changes: Any) -> FewStepConfig:
        plain: dict[str, Any] = {
            "checkpoint_path": str(trained[1]), "data_dir": str(trained[0]), "output_dir": str(tmp_path / "run"),
            "feature_weights": str(weights), "sigmas": LEVELS, "num_steps": 4, "batch_size": 5, "evals": 2,
            "save_every": 1, "eval_samples": 4, "warmup_steps": 2, "device": "cpu", "precision": "fp32",
        }  # fmt: skip
        return FewStepConfig(**plain | changes)

    return make


def trainer_of(config: FewStepConfig) -> FewStepTrainer:
    """The trainer before its first step."""
    denoiser, card, _ = load_checkpoint(Path(config.checkpoint_path))
    pairs, features = read_samples(Path(config.data_dir)), load_mobilenet(config.feature_weights)
    return FewStepTrainer(config, card, denoiser, pairs, features)


def test_it_starts_as_the_network_of_the_checkpoint(config: Config) -> None:
    """Damage: weights that are not taken over, a layout code that says something before it has learnt anything."""
    trainer = trainer_of(config())
    before, _, _ = load_checkpoint(Path(config().checkpoint_path))
    x, sigma = torch.randn(3, 2, 16, 16), torch.tensor([[80.0, 80], [2, 0], [0.3, 0.7]])
    cond = {"label": torch.zeros(3).long()}
    with torch.no_grad():
        assert torch.equal(trainer.denoiser.train()(x, sigma, cond), before(x, sigma, cond))


def test_both_sides_learn(config: Config) -> None:
    """Damage: the generator's step moves the discriminators, one side has no gradient, the eyes of one learn."""
    trainer = trainer_of(config())
    own = [{k: v.clone() for k, v in n.state_dict().items()} for n in (trainer.denoiser, trainer.discriminator)]
    scalars = trainer.train_step(0)
    assert {"loss", "regression", "lesions_apart", "discriminator_loss", "grad_norm"} == set(scalars)
    after = [trainer.denoiser.state_dict(), trainer.discriminator.state_dict()]
    both = zip(own, after, strict=True)
    changed = [{k for k, v in before.items() if not torch.equal(v, now[k])} for before, now in both]
    assert any(k.startswith("backbone.layout_code.out") for k in changed[0])
    assert any(k.startswith("backbone.stem") for k in changed[0])
    assert {k.split(".")[0] for k in changed[1]} == {"heads", "on_pairs", "on_masks", "on_lesions"}
    assert not any("projection" in k for k in changed[1])


def test_resumes_to_the_bit(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: an optimiser, the average, singular vectors of spectral norms or the history are not saved."""
    straight, broken = (config(output_dir=str(tmp_path / name)) for name in ("straight", "broken"))
    few_step(straight)
    with monkeypatch.context() as patch:
        patch.setattr(FewStepTrainer, "train_step", fail_at(4, FewStepTrainer.train_step))
        with pytest.raises(KeyboardInterrupt):
            few_step(broken)
    summary = few_step(broken)
    states = [
        torch.load(tmp_path / name / "state" / "step_00000004" / "state.pt", weights_only=True)["trainer"]
        for name in ("straight", "broken")
    ]
    assert same(*states)
    assert not any(name.startswith("features.") for name in states[0]["discriminator"])  # the eyes come from their file
    assert (tmp_path / "straight" / "history.jsonl").read_text() == (tmp_path / "broken" / "history.jsonl").read_text()
    assert few_step(broken) == json.loads(json.dumps(summary))  # finished: found, not trained again
    with pytest.raises(UserError, match=r"other settings \(lr: 0\.0002 -> 0\.01\)"):
        few_step(config(output_dir=str(tmp_path / "broken"), lr=0.01))


def test_levels_and_what_is_known(config: Config) -> None:
    """Damage: small pictures at levels of large ones, no mask or image known, also where the network itself began, the
    network's own pictures compared with real ones."""
    shares = {"share_mask_clean": 0.3, "share_image_clean": 0.2}
    trainer = trainer_of(config(batch_size=40, full_share=0.25, share_simulated=0.8, **shares))
    batch = trainer.batches.make(0)
    level, sigma = batch.level, batch.sigma
    assert int((batch.kind >= len(trainer.classes)).sum()) == 30
    assert set(level[:30].tolist()) == {0, 1, 2}
    assert (level[:30] == 0).sum() > (level[:30] == 1).sum()
    assert set(level[30:].tolist()) == {3}
    assert ((sigma == 0) | (sigma == torch.tensor(LEVELS)[level][:, None]) | (sigma == LEVELS[0])).all()
    assert (batch.weight[level == 0][:, IMAGE] < 1e-4).all()
    image_known, mask_known = sigma[:, IMAGE] == 0, sigma[:, MASK] == 0
    assert (batch.weight[image_known][:, MASK] >= 0.9).all()
    assert torch.equal(batch.noisy[:, IMAGE][image_known], batch.real_noisy[:, IMAGE][image_known])
    assert torch.equal(batch.noisy[:, MASK][mask_known], batch.real_noisy[:, MASK][mask_known])
    own = (batch.weight[:, IMAGE] == 0) & ~image_known  # begun by the network itself
    assert (own & mask_known).any()
    assert (own & ~mask_known).any()
    assert (~own & mask_known).any()


def test_noisy_pairs_of_its_own_come_all_the_way_from_noise(config: Config) -> None:
    """Damage: they begin one level up, at a real picture, and errors that add up over the calls are never judged."""
    trainer = trainer_of(config())
    calls = torch.tensor([0, 1, 3, 2])
    random = torch.Generator().manual_seed(0)
    x0, noises = torch.randn(4, 2, 32, 32, generator=random), torch.randn(4, 4, 2, 32, 32, generator=random)
    table = torch.tensor(LEVELS)[None, :, None].repeat(4, 1, 2)
    table[3, :, MASK] = 0  # known
    cond = {name: values[:4] for name, values in trainer.batches.known.items()}
    given: list[tuple[Tensor, Tensor]] = []
    trainer.denoiser.register_forward_pre_hook(lambda _, inputs: given.append(inputs[:2]))
    found = trainer.batches._simulated(x0, calls, table, cond, noises)
    assert [len(sigma) for _, sigma in given] == [3, 2, 1]
    assert [float(sigma[0, IMAGE]) for _, sigma in given] == list(LEVELS[:3])
    assert torch.allclose(
        given[0][0], x0[1:] + table[1:, 0][:, trainer.denoiser.modality][..., None, None] * noises[0, 1:]
    )
    assert torch.equal(found[0], x0[0])
    assert torch.allclose(found[3, 1], x0[3, 1], atol=1e-5)
    assert (found[1:, 0] - x0[1:, 0]).abs().amin(dim=(1, 2)).max() > 0


def test_the_class_is_hidden_where_the_image_is_known(config: Config) -> None:
    """Damage: segmentation, which is not told the class, asks for what was never learnt."""
    batch = trainer_of(config(batch_size=40, share_image_clean=0.3)).batches.make(0)
    image_known = (batch.sigma[:, IMAGE] == 0) & (batch.sigma[:, MASK] > 0)
    assert image_known.any()
    assert torch.equal(batch.cond["label"] == -1, image_known)


@pytest.mark.parametrize("size", [2, 3, 16])
def test_both_sizes_see_all_classes(config: Config, size: int) -> None:
    """Damage: a small batch has no picture of full size, or full size always is of the same class."""
    trainer = trainer_of(config(batch_size=size, full_share=0.1))
    batches = [trainer.batches.make(step) for step in range(12)]
    count = len(trainer.classes)
    small = [batch.kind >= count for batch in batches]
    assert all(0 < int(rows.sum()) < size for rows in small)
    for rows in (small, [~of_one for of_one in small]):
        seen = torch.cat([batch.kind[own] % count for batch, own in zip(batches, rows, strict=True)])
        assert set(seen.tolist()) == set(range(count))


def test_too_little_memory_is_said(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a traceback, hours after the command."""
    trainer = trainer_of(config())

    def full(step: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(trainer.batches, "make", full)
    with pytest.raises(UserError, match="--batch_size: found 5, too many for the memory of cpu"):
        trainer.train_step(0)


def test_estimates_of_small_pictures_are_compared_with_pictures_without_detail(config: Config) -> None:
    """Damage: a network that sees half the size is asked for detail that it cannot see, or a known mask is blurred."""
    trainer = trainer_of(config())
    x0, sigma = torch.randn(3, 2, 16, 16), torch.tensor([[6.0, 6], [6, 0], [0.7, 0.7]])
    found = trainer.batches._without_detail(x0, sigma, smaller=2)
    low_res = trainer.denoiser.low_res
    assert low_res is not None
    assert torch.allclose(found[0], low_res.enlarged(low_res.reduced(x0[:1]))[0])
    assert torch.equal(found[1, 1], x0[1, 1])
    assert not torch.equal(found[1, 0], x0[1, 0])
    assert torch.equal(found[2], x0[2])


def test_discriminators_see_the_pair_and_its_noisy_one(weights: Path) -> None:
    """Damage: a discriminator that looks at images alone."""
    frozen = load_mobilenet(str(weights))
    network = Discriminator(frozen, 2, 1, 4, radius=8, seed=0)
    random = torch.Generator().manual_seed(0)
    x, noisy = torch.rand(2, 6, 2, 32, 32, generator=random)
    kind, level = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])

    def logits(**changes: Tensor) -> list[Tensor]:
        given = {"x": x, "noisy": noisy, "kinds": kind[None], "level": level} | changes
        with torch.no_grad():
            return network.eval()(**given)

    plain = logits()
    assert len(plain) == 9
    other_mask = torch.cat([x[:, :1], 1 - x[:, 1:]], dim=1)
    for changes, blind in (({"x": other_mask}, 0), ({"noisy": 1 - noisy}, 5), ({"kinds": 3 - kind[None]}, 0)):
        same = [torch.allclose(a, b) for a, b in zip(plain, logits(**changes), strict=True)]
        assert same == [False] * (9 - blind) + [True] * blind  # the last ones see masks, or pairs, alone
    for both, own, other in zip(
        logits(kinds=torch.stack([kind, 3 - kind])), plain, logits(kinds=3 - kind[None]), strict=True
    ):
        assert torch.allclose(both, torch.cat([own, other]), atol=1e-5)
    weights = network.weights(2.0, 3.0)
    assert len(weights) == 9
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[-2] == weights[-3] == 2 * weights[0]
    assert weights[-1] == pytest.approx(3 * float(weights[0]))


def test_lesions_are_what_lies_inside_the_mask() -> None:
    """Damage: maps that see the mask, so that it is judged without its image; or the whole picture counts."""
    torch.manual_seed(0)
    network = OnLesions(1, 1, 2, 8).eval()
    image, kinds = torch.rand(2, 1, 32, 32), torch.tensor([[0, 1]])
    mask = (0.5 - (torch.arange(32) - 16).abs() / 16).expand(
        2, 1, 32, 32
    )  # a band across, its edges 8 px off the middle
    with torch.no_grad():
        found = network(image, mask, kinds)
        assert found.shape == (1, 2, 2)
        assert torch.allclose(network(torch.full_like(image, 0.5), mask, kinds), found) is False
        assert torch.allclose(network(image, -mask, kinds)[..., 0], -found[..., 0], atol=1e-5)  # inside is outside
        assert torch.allclose(network(image, -mask, kinds)[..., 1], found[..., 1], atol=1e-5)  # the outline is the same
        assert torch.allclose(network(image, torch.ones_like(mask), kinds)[..., 1], found[..., 1]) is False


def discs(*radii: float, side: int = 48) -> Tensor:
    """(n, 1, side, side) masks of discs in the middle, shares of pixels."""
    away = (torch.arange(side) - side / 2 + 0.5).square()
    return torch.stack([(r - (away[:, None] + away).sqrt() + 0.5).clamp(0, 1) for r in radii])[:, None]


def test_shapes_are_those_of_circles_ellipses_and_pairs() -> None:
    """Damage: a figure that size alone changes, or that does not see length, two lesions, or a rough outline."""
    small, large = shapes(discs(6, 15)).exp()
    assert float(small[0]) == pytest.approx(math.pi * 36, rel=0.02)
    assert small[1:].tolist() == pytest.approx(large[1:].tolist(), rel=0.05)
    assert float(large[1]) == pytest.approx(1 / (2 * math.pi), rel=0.02)
    assert float(large[2]) == pytest.approx(4 * math.pi, rel=0.2)  # differences of pixels run a little long
    two = torch.maximum(discs(6).roll(12, dims=-1), discs(6).roll(-12, dims=-1))
    assert shapes(two)[0, 1] > small.log()[1] + 1
    rough = discs(15) * (torch.arange(48) % 4 < 3)
    assert shapes(rough)[0, 2] > large.log()[2] + 0.5
    three = discs(6).expand(-1, 3, -1, -1)  # classes of a label map are taken together
    assert torch.allclose(shapes(three), shapes(discs(6)))


def test_the_energy_distance_is_0_where_both_are_spread_alike() -> None:
    """Damage: what is all alike costs nothing, or the few of a batch are drawn together."""
    y = torch.linspace(0, 4, 401)[:, None]
    spread = torch.linspace(0, 4, 41)[:, None]
    assert abs(float(energy_distance(spread, y))) < 0.05
    assert float(energy_distance(torch.full((41, 1), 2.0), y)) == pytest.approx(2 / 3, abs=0.02)  # 2 E|y-2| - E|y-y'|
    assert float(energy_distance(spread / 2 + 1, y)) > 0.1
    random = torch.Generator().manual_seed(0)
    drawn = [float(energy_distance(torch.rand(3, 1, generator=random) * 4, y)) for _ in range(400)]
    assert abs(sum(drawn) / 400) < 0.1


def lesions(mask: Tensor, step: float = 0.3, line: float = 0.0) -> Tensor:
    """Images (n, 1, side, side) that are darker by `step` where the masks are, with a line around them."""
    ring = max_pool2d(mask, 5, 1, 2) - mask
    return 0.6 - step * mask + line * ring


def test_edges_say_how_clear_they_are_and_how_evenly() -> None:
    """Damage: faint lesions look like clear ones, an edge that half vanishes like a whole one; a line is unseen."""
    mask = discs(12)
    clear, faint, lined = (edges(lesions(mask, *given), mask)[0] for given in ((0.3,), (0.05,), (0.3, 0.2)))
    assert float(clear[0]) == pytest.approx(0.3, abs=0.05)  # less, as pixels on the edge are of both sides
    assert float(faint[0]) == pytest.approx(0.05, abs=0.01)
    assert float(lined[2]) > float(clear[2]) + 0.05
    half = torch.where(torch.arange(48) < 24, lesions(mask, 0.3), lesions(mask, 0.0))
    assert float(clear[1]) < 0.03 < 0.1 < float(edges(half, mask)[0, 1])
    brighter = edges(lesions(mask) + 0.2, mask)[0]
    assert torch.allclose(brighter, clear, atol=0.02)


def test_lesions_apart_goes_by_kind_and_leaves_out_what_is_empty() -> None:
    """Damage: benign lesions are compared with malignant ones; an empty mask makes the loss NaN; one lesion counts;
    faint ones are not missed."""
    small, large = discs(5, 6, 7, 8), discs(14, 15, 16, 17)
    steps = torch.tensor([0.05, 0.1, 0.2, 0.4]).view(4, 1, 1, 1)
    real = RealLesions([(lesions(m, steps), m) for m in (small, large)])
    kind = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    alike, swapped = torch.cat([small, large]), torch.cat([large, small])
    both = torch.cat([steps, steps])

    def apart(masks: Tensor, step: Tensor | float) -> float:
        return float(real.apart(lesions(masks, step), masks, kind))

    assert apart(alike, both) < 0.1 < apart(swapped, both)
    assert apart(alike, 0.4) > 0.3
    with_empty = torch.cat([alike, torch.zeros(1, 1, 48, 48)]).requires_grad_()
    images = torch.cat([lesions(alike, both), torch.rand(1, 1, 48, 48)]).requires_grad_()
    found = real.apart(images, with_empty, torch.tensor([*kind, 0]))
    found.backward()
    assert float(found.detach()) == pytest.approx(apart(alike, both))
    for given in (images, with_empty):
        assert given.grad is not None
        assert given.grad.isfinite().all()
    assert float(real.apart(images[:1], alike[:1], kind[:1])) == 0
    alone = RealLesions([(lesions(m[:1]), m[:1]) for m in (small, large)])
    assert float(alone.apart(lesions(alike), alike, kind)) == 0


def test_lesions_are_compared_where_the_network_began_with_noise(config: Config) -> None:
    """Damage: lesions of real pictures, or known masks, are pulled to the shape of others."""
    trainer = trainer_of(config(batch_size=40, share_mask_clean=0.3))
    batch = trainer.batches.make(0)
    images, masks = (array.requires_grad_() for array in trainer.codec.pixels(batch.real))
    trainer._lesions_apart(batch, images, masks).backward()
    for given in (images, masks):
        assert given.grad is not None
        asked = given.grad.flatten(1).abs().amax(dim=1) > 0
        assert asked.any()
        assert (batch.sigma[asked] > 0).all()
        assert ((batch.level == 0) | (batch.weight[:, MASK] == 0))[asked].all()


def test_what_is_noise_alone_is_not_shown(config: Config) -> None:
    """Damage: discriminators tell pictures by the noise that they were made of, and variety is unlearnt."""
    trainer = trainer_of(config(batch_size=40, share_image_hidden=0.3))
    batch = trainer.batches.make(0)
    shown: list[Tensor] = []
    trainer.discriminator.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[1]))
    with torch.no_grad():
        trainer._seen(batch, batch.real, batch.noisy, torch.Generator().manual_seed(0))
    first = batch.sigma == LEVELS[0]
    assert (first[:, IMAGE] & ~first[:, MASK]).any()  # the image hidden, the mask seen
    seen = shown[0][:, trainer.denoiser.modality].flatten(2).std(dim=2) > 0
    assert torch.equal(seen, ~first)


def test_variety_is_that_of_pairs_of_one_level() -> None:
    """Damage: pictures of other levels count, which differ anyway, and a collapse at one level goes unseen."""
    random = torch.Generator().manual_seed(0)
    h, level = torch.randn(6, 8, 4, 4, generator=random), torch.tensor([0, 0, 0, 1, 1, 2])
    h[:3] = h[0]
    found = _spread(h, level).flatten()
    assert found[:3].tolist() == pytest.approx([-1, -1, -1], abs=1e-3)  # 2 x 0 - 1
    assert (found[3:5] > 0.5).all()
    assert found[5] == -1  # alone


def test_pairs_are_moved_as_one_and_stay_at_their_depth() -> None:
    """Damage: the mask moves in another way than its image; grey values or depth change, by which machines differ."""
    pairs = torch.zeros(4, 4, 32, 32)
    pairs[:, :, 12:20, 8:16] = 0.7
    found = moved(pairs, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == set(pairs.unique().tolist())
    for n in range(4):
        assert all(torch.equal(found[n, 0], found[n, channel]) for channel in range(1, 4))
        assert torch.equal(found[n, 0].any(dim=1), pairs[n, 0].any(dim=1))
    assert not torch.equal(found[0], found[1])


def test_other_classes_keep_their_size(config: Config) -> None:
    """Damage: a small picture is called a full one, or a pair its own class."""
    trainer = trainer_of(config())
    count = len(trainer.classes)
    kind = torch.arange(2 * count).repeat(20)
    found = trainer._others(kind, torch.Generator().manual_seed(0))
    assert found is not None
    assert (found != kind).all()
    assert torch.equal(found // count, kind // count)
    trainer.classes = trainer.classes[:1]
    assert trainer._others(kind, torch.Generator()) is None


def test_a_real_pair_of_the_wrong_class_is_false() -> None:
    """Damage: the wrong class is called right, or counts as much as generated pairs."""
    good, bad = torch.full((1, 3, 4), 2.0), torch.full((1, 3, 4), -2.0)
    assert hinge_loss(good, bad) == 0
    assert hinge_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)) == 2
    assert hinge_loss(torch.cat([good, bad]), bad) == 0
    assert hinge_loss(torch.cat([good, good]), bad) == MISMATCHED * 3


def test_a_class_with_lesions_has_one() -> None:
    """Damage: an empty mask of a class with lesions costs nothing, or one of a class without them does."""
    masks = torch.full((3, 2, 8, 8), 0.1)
    masks[2, 1, 4, 4] = 0.9
    lesion = torch.tensor([1.0, 0.0, 1.0])
    assert float(lacking_lesion(masks, lesion)) == pytest.approx(0.25)  # (0.6 - 0.1) / 2
    assert float(lacking_lesion(masks[2:], lesion[2:])) == 0
    assert float(lacking_lesion(masks, torch.zeros(3))) == 0


def test_renoise_takes_the_estimate_and_leaves_what_is_known() -> None:
    """Damage: noise of another level, noise after the last step, or noise on a known mask."""
    modality, table = torch.tensor([0, 1]), torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x.clone())
        return torch.full_like(x, 7.0)

    start = torch.randn(1, 2, 4, 4)
    found = renoise(denoise, start, table, modality, lambda step: torch.full((1, 2, 4, 4), 10.0 + step))
    assert torch.equal(seen[1][:, 0], torch.full((1, 4, 4), 7 + 2 * 10.0))
    assert torch.equal(found[:, 0], torch.full((1, 4, 4), 7.0))
    assert torch.equal(found[:, 1], start[:, 1])
    with pytest.raises(ValueError, match="stochastic"):
        renoise(denoise, start, table, modality)


@pytest.fixture(scope="module")
def finished(trained: tuple[Path, Path], weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few-step checkpoint."""
    folder = tmp_path_factory.mktemp("finished")
    few_step(
        FewStepConfig(
            str(trained[1]), str(trained[0]), str(folder), str(weights), LEVELS, 2, 4, evals=1, eval_samples=4,
            device="cpu", precision="fp32",
        )
    )  # fmt: skip
    return folder / "best_model.safetensors"


def requests(task: Any, given: dict[str, np.ndarray], count: int = 3) -> list[Request]:
    return [Request(f"r{k}", task, (0, k), {"label": "benign"}, given) for k in range(count)]


def test_its_checkpoints_sample_in_the_levels_that_they_learnt(finished: Path) -> None:
    """Damage: they sample by the solver of ordinary checkpoints, or a sample depends on its batch."""
    generator = load_generator(finished, batch_size=2)
    settled = generator.settings("joint")
    assert (settled["sampler"], settled["steps"], settled["mask_guidance"]) == ("renoise", 4, 1.0)
    calls: list[Tensor] = []
    generator.denoiser.register_forward_hook(lambda _, inputs, __: calls.append(inputs[1]))  # type: ignore[attr-defined]
    alone = generator.sample(requests("joint", {}, 1), 0)
    assert [float(sigma[0, IMAGE]) for sigma in calls] == pytest.approx(LEVELS)
    both = generator.sample(requests("joint", {}, 2), 0)
    assert np.array_equal(alone[0]["image"], both[0]["image"])
    assert np.array_equal(alone[0]["mask"], both[0]["mask"])
    assert not np.array_equal(both[0]["image"], both[1]["image"])


def test_all_tasks_are_served(finished: Path) -> None:
    """Damage: a task walks another table, or what is given comes back changed."""
    generator = load_generator(finished)
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[:, 4:9, 5:11] = 255
    for result in generator.sample(requests("mask_to_image", {"mask": mask}), 0):
        assert np.array_equal(result["mask"], mask[0])
    found = generator.sample(requests("image_to_mask", {"image": mask // 2}), 0)
    assert all(result["mask"].shape == (16, 16) for result in found)
    assert all(result["image"].shape == (16, 16) for result in generator.sample(requests("mask_first", {}), 0))


@pytest.mark.parametrize("setting", [{"sampler": "heun"}, {"steps": 20}, {"mask_guidance": 2.0}, {"guidance": 3.0}])
def test_other_ways_to_sample_are_refused(finished: Path, setting: dict[str, Any]) -> None:
    """Damage: a solver or guidance that it never learnt gives bad samples without a word."""
    name = next(iter(setting))
    with pytest.raises(UserError, match=rf"--{name}: found .* with a checkpoint of few-step training"):
        load_generator(finished, setting)


def test_its_sampler_is_for_its_checkpoints(trained: tuple[Path, Path]) -> None:
    """Damage: an ordinary checkpoint samples blurred means without a word."""
    with pytest.raises(UserError, match="--sampler: found renoise with a checkpoint that did not learn"):
        load_generator(trained[1], {"sampler": "renoise"})


def test_what_it_cannot_start_from(
    config: Config, finished: Path, tmp_path: Path, write_ellipses: WriteSamples
) -> None:
    """Damage: few-step training on top of itself, or on pictures that the checkpoint holds out."""
    with pytest.raises(UserError, match="found a checkpoint of few-step training"):
        few_step(config(checkpoint_path=str(finished)))
    other = write_ellipses(tmp_path / "other", {"train": 4, "val": 3, "test": 1})
    turned = tmp_path / "turned"
    shutil.copytree(config().data_dir, turned)
    described = json.loads((turned / "dataset.json").read_text())
    (turned / "dataset.json").write_text(json.dumps(described | {"classes": described["classes"][::-1]}))
    with pytest.raises(UserError, match=r"found classes malignant, benign and .*those of the checkpoint: benign, mali"):
        few_step(config(data_dir=str(turned)))
    with pytest.raises(UserError, match="train pictures that it did not learn"):
        few_step(config(data_dir=str(other.root)))
    with pytest.raises(UserError, match=r"--feature_weights .*no such file"):
        few_step(config(feature_weights=str(tmp_path / "none.pth")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [2.0, 6.0]}, "--sigmas"),
        ({"sigmas": []}, "--sigmas"),
        ({"share_mask_clean": 0.9, "share_image_clean": 0.2}, "add up to at most 1"),
        ({"full_share": 1.5}, "full_share"),
        ({"batch_size": 1}, "--batch_size"),
    ],
)
def test_settings_that_cannot_be(config: Config, change: dict[str, Any], message: str) -> None:
    """Damage: they end in a traceback, hours later."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config(), **change)
