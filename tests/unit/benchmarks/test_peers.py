"""benchmarks/peers.py: what it builds of other libraries, that all get the same time, and the page that it writes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medsegdiff.data.records import SampleSet
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = {
    "diffusers": "diffusers",
    "diffusers_small": "diffusers",
    "monai": "monai",
    "ddp_plain": "denoising_diffusion_pytorch",
    "ddp": "denoising_diffusion_pytorch",
}
SIZE = 64  # six levels leave more than one pixel
SMALL: dict[str, tuple[str, dict[str, Any]]] = {  # what a test may shrink of a network: where its class lies, and how
    "diffusers": ("diffusers.UNet2DModel", {"block_out_channels": (32,) * 6, "layers_per_block": 1}),
    "diffusers_small": ("diffusers.UNet2DModel", {"block_out_channels": (32,) * 4}),
    "monai": ("monai.networks.nets.DiffusionModelUNet", {"channels": (32, 32, 32), "num_head_channels": 32}),
    "ddp_plain": ("denoising_diffusion_pytorch.Unet", {"dim": 8}),
    "ddp": ("denoising_diffusion_pytorch.classifier_free_guidance.Unet", {"dim": 8}),
}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a file of benchmarks/, which is no package: its scripts find each other by their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in list(sys.modules):
        if name.startswith("peer"):
            monkeypatch.delitem(sys.modules, name)
    return importlib.import_module


@pytest.fixture
def small(modules: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Gives `build(name)`: a peer with the network of its adapter, but narrow."""

    def build(name: str) -> Any:
        pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
        where, changes = SMALL[name]
        owner = importlib.import_module(where.rpartition(".")[0])
        real = getattr(owner, where.rpartition(".")[2])
        monkeypatch.setattr(owner, real.__name__, lambda **settings: real(**settings | changes))
        torch.manual_seed(0)
        return modules("peer_nets").build_peer(name, SIZE, 2)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_peer_trains_and_draws(small: Callable[[str], Any], name: str) -> None:
    """Damage: leave `* 2 - 1` out of what `PhilPeer.sample` returns, or `clip_sample` out of MONAI's scheduler."""
    peer = small(name)
    x0, labels = torch.rand(2, 2, SIZE, SIZE) * 2 - 1, torch.tensor([0, 1])
    loss = peer.loss(x0, labels)
    assert loss.ndim == 0
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in peer.network.parameters())
    assert peer.call(x0, torch.tensor([3, 700]), labels).shape == x0.shape
    with torch.inference_mode():
        sampled = peer.eval().sample(labels, SIZE, 10)
    assert sampled.shape == x0.shape
    assert float(sampled.min()) < -0.5
    assert float(sampled.abs().max()) < 1.5


@pytest.mark.parametrize("name", ["diffusers", "diffusers_small", "monai", "ddp"])
def test_the_class_reaches_the_network(small: Callable[[str], Any], name: str) -> None:
    """Damage: leave `class_labels=labels` out of `DiffusersPeer.call`."""
    peer = small(name).eval()
    with torch.no_grad():
        for weight in peer.network.parameters():  # networks begin with a last layer of zeros
            weight.add_(0.05 * torch.randn_like(weight))
        x, t = torch.randn(1, 2, SIZE, SIZE), torch.tensor([500])
        assert not torch.allclose(peer.call(x, t, torch.tensor([0])), peer.call(x, t, torch.tensor([1])))


@pytest.mark.parametrize("name", LIBRARIES)
def test_samples_take_as_many_calls_as_asked_for(small: Callable[[str], Any], name: str) -> None:
    """Damage: sample `ddp` with the library's default guidance, which calls the network twice for once."""
    peer = small(name).eval()
    calls = []
    peer.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        peer.sample(torch.tensor([0, 1]), SIZE, 5)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("name", "millions"),
    [("diffusers", 113.7), ("diffusers_small", 5.6), ("monai", 18.5), ("ddp_plain", 35.7), ("ddp", 38.4)],
)
def test_networks_have_their_documented_sizes(modules: Callable[[str], Any], name: str, millions: float) -> None:
    """Damage: one block a level less in `DiffusersPeer` (diffusers says 113.7 M parameters for its tutorial)."""
    pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
    with torch.device("meta"):
        peer = modules("peer_nets").build_peer(name, 128, 2)
    assert sum(p.numel() for p in peer.network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_batches_keep_the_pixels_of_a_step(modules: Callable[[str], Any]) -> None:
    """Damage: scale by the side rather than the area in `Recipe.batch_at`."""
    recipe = modules("peer_nets").PEERS["monai"][0]
    assert [recipe.batch_at(size) for size in (64, 128, 256)] == [128, 32, 8]


class FakeArm:
    """Steps that take so many seconds of a clock that stands still between them."""

    batch, total_steps = 2, 1

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.totals = seconds, 0.0, []

    def train_step(self, step: int) -> dict[str, float]:
        self.now += self.seconds[min(step, len(self.seconds) - 1)]
        self.totals.append(self.total_steps)
        return {"loss": 1.0}


@pytest.mark.parametrize("seconds", [[0.1], [0.7], [5.0, 0.3], [0.2] * 20 + [0.6], [30.0]])
def test_budgets_are_equal_whatever_a_step_takes(modules: Callable[[str], Any], seconds: list[float]) -> None:
    """Damage: set `arm.total_steps` from the first step alone in `train_for`."""
    arm = FakeArm(seconds)
    done = modules("peer_arms").train_for(arm, 20.0, clock=lambda: arm.now)
    assert abs(done["seconds"] - 20.0) <= max(seconds[-1], seconds[0] - 20.0)
    assert arm.total_steps == done["steps"]
    assert done["pairs_seen"] == 2 * done["steps"]


def test_a_loss_that_is_not_finite_ends_an_arm(modules: Callable[[str], Any]) -> None:
    """Damage: go on after a loss of NaN in `train_for`."""
    arm = FakeArm([1.0])
    arm.train_step = lambda step: {"loss": float("nan")}  # type: ignore[method-assign]
    assert modules("peer_arms").train_for(arm, 10.0, clock=lambda: arm.now)["steps"] == 1


def test_parts_of_a_batch_add_up_to_it(
    small: Callable[[str], Any], modules: Callable[[str], Any], ellipses: SampleSet, tmp_path: Path
) -> None:
    """Damage: leave `count / self.batch` out of `PeerArm.train_step`."""
    small("diffusers")  # narrow from here on
    arms = modules("peer_arms")
    grads = []
    for part in (4, 3):
        setting = arms.Setting(Path("none.yaml"), SIZE, batch=4, part=part, device="cpu")
        arm = arms.PeerArm("diffusers", setting, ellipses)
        arm.peer.loss = lambda x0, labels, peer=arm.peer: (
            peer.call(  # without chance, which differs between parts
                x0, torch.zeros(len(x0), dtype=torch.long), labels
            )
            .square()
            .mean()
        )
        arm.recipe = type(arm.recipe)(**vars(arm.recipe) | {"augment": arms.PEERS["ddp"][0].augment, "clip": None})
        kept = arm.optimiser.step
        arm.optimiser.step = lambda a=arm, kept=kept: (  # type: ignore[method-assign,assignment]
            grads.append(torch.cat([p.grad.flatten() for p in a.peer.network.parameters()])),
            kept(),
        )
        arm._channels = (
            lambda step, first, count: (  # type: ignore[method-assign]
                torch.linspace(-1, 1, 4 * 2 * SIZE * SIZE).view(4, 2, SIZE, SIZE)[first : first + count],
                torch.tensor([0, 1, 0, 1])[first : first + count],
            )
        )
        arm.total_steps = 100
        arm.peer.network.eval()
        arm.train_step(5)
        arm.save(tmp_path / f"{part}.safetensors", 6)
        again = arms.PeerArm("diffusers", setting, ellipses)
        again.load(tmp_path / f"{part}.safetensors")
        both = (a.peer.network.state_dict() for a in (arm, again))
        assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in both), strict=True))
    assert torch.allclose(grads[0], grads[1], atol=1e-4 * float(grads[0].abs().max()))


def test_samples_that_are_no_lesions_come_last_and_are_counted(modules: Callable[[str], Any]) -> None:
    """Damage: return `bad + good` in `sample_class`, or stop after the first `count` samples."""
    train = modules("peer_train")
    lesion = np.zeros((1, 64, 64), np.uint8)
    lesion[:, 20:40, 20:40] = 255

    def sample(labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        number = torch.arange(len(labels)) + key[1]
        masks = torch.stack([torch.from_numpy(lesion) * int(n % 3 == 0) for n in number])
        return torch.zeros_like(masks), masks

    pairs, sampled, passed = train.sample_class(sample, 1, 9, 4)
    filled = [bool(mask.any()) for _, mask in pairs]
    assert (len(pairs), sampled, passed) == (9, 18, 6)
    assert filled == [True] * 6 + [False] * 3


def test_figures_of_few_pairs(modules: Callable[[str], Any]) -> None:
    """Damage: KeyError where a report has no distances, since there are too few pairs for them."""
    metrics = {"distances": {"spaces": {"radiomics": {}}}, "agreement": {}}
    found = modules("peer_train").figures_of({"metrics": metrics, "verdicts": []})
    assert found["frechet"] is None
    assert found["agreement"] is None


def test_giving_up_on_noise(modules: Callable[[str], Any]) -> None:
    """Damage: sample on where no mask of a class is a lesion, which takes hours; or give up where some are."""
    train = modules("peer_train")

    def sample(labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        masks = torch.zeros(len(labels), 1, 64, 64, dtype=torch.uint8)
        masks[lesions[key[0]] :, :, 20:40, 20:40] = 255
        return torch.zeros_like(masks), masks

    lesions = {0: 99, 1: 0}  # from which pair of a batch on
    assert [d[1:] for d in train.sample_classes(sample, 2, 100, 50, 5)] == [(5, 0), (5, 5)]
    assert [d[1:] for d in train.sample_classes(sample, 2, 100, 50, 0)] == [(200, 0), (100, 100)]
    lesions = {0: 4, 1: 0}
    assert [d[1:] for d in train.sample_classes(sample, 2, 10, 10, 5)] == [(20, 12), (10, 10)]


def test_our_words_for_too_little_memory_are_known(modules: Callable[[str], Any], ellipses: SampleSet) -> None:
    """Damage: ours running out of memory taken for a bug, which ends the whole comparison."""
    trainer = DiffusionTrainer(TrainConfig(str(ellipses.root), img_size=16, device="cpu", precision="fp32"), ellipses)
    trainer.batch_size_finder.try_batch = lambda *_: None  # type: ignore[method-assign]
    known = modules("peer_speed").is_about_memory
    assert known(trainer.batch_size_finder.too_large(trainer.config))
    assert known(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not known(UserError("--img_size", 3, "4", "Mend it."))


def test_batches_of_speed_have_as_many_pixels(modules: Callable[[str], Any]) -> None:
    """Damage: as many pairs at every size."""
    speed, options = modules("peer_speed"), argparse.Namespace(speed_batch=4)
    assert [speed.batch_at(options, size) for size in (64, 128, 256, 512)] == [16, 4, 1, 1]


def test_the_page_say_no_folder_of_the_run(modules: Callable[[str], Any], tmp_path: Path) -> None:
    """Damage: take `real_data` or `run_dir` out of `hidden` in `peers.command`."""
    peers = modules("peers")
    (tmp_path / "ddp_batch_4").mkdir()
    line = ["--real_data", "/private/data", "--run_dir", str(tmp_path), "--minutes", "1", "--no_judge"]
    options: argparse.Namespace = peers.parser().parse_args(line)
    reported = peers.command(options)
    assert len(reported) == 2
    assert "private" not in reported[0]
    assert str(tmp_path) not in reported[0]
    assert "--minutes 1" in reported[0]
    assert reported[0].endswith("--no_judge") or "--no_judge " in reported[0]
    assert reported[1].endswith("--batch 4")
