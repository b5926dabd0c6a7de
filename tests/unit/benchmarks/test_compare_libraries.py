"""benchmarks/compare_libraries.py: what it builds of other libraries, that phase 3 serves them as it serves our own
network, and that all get the same time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.generators.base import GENERATORS, load_generator
from medsegdiff.synthesis import samples
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

pytestmark = pytest.mark.slow

SIZE = 64  # six levels leave more than one pixel
# What a test may shrink of a network: where its class lies, and how
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusers": ("diffusers.UNet2DModel", {"block_out_channels": (32,) * 6, "layers_per_block": 1}),
    "diffusers_small": ("diffusers.UNet2DModel", {"block_out_channels": (32,) * 4}),
    "monai": ("monai.networks.nets.DiffusionModelUNet", {"channels": (32, 32, 32), "num_head_channels": 32}),
    "ddp_plain": ("denoising_diffusion_pytorch.Unet", {"dim": 8}),
    "ddp": ("denoising_diffusion_pytorch.classifier_free_guidance.Unet", {"dim": 8}),
}


@pytest.fixture
def modules(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The files of the benchmark; their row is gone after the test."""
    monkeypatch.setitem(GENERATORS, "benchmarks.library", "library_generator")
    names = ("library_networks", "library_generator", "compare_libraries")
    return {name: benchmark(name) for name in names}


@pytest.fixture
def small(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Gives `build(name)`: a network of a library, but narrow."""

    def build(name: str) -> Any:
        where, changes = SMALL[name]
        pytest.importorskip(where.split(".")[0])
        owner = importlib.import_module(where.rpartition(".")[0])
        real = getattr(owner, where.rpartition(".")[2])
        monkeypatch.setattr(owner, real.__name__, lambda **settings: real(**settings | changes))
        torch.manual_seed(0)
        return modules["library_networks"].build_library(name, SIZE, 2)

    return build


@pytest.mark.parametrize("name", SMALL)
def test_a_network_trains_and_draws(small: Callable[[str], Any], name: str) -> None:
    """Damage: leave `* 2 - 1` out of what `Gaussian.draw` returns, or `clip_sample` out of MONAI's scheduler; sample
    `ddp` with the library's default guidance, which calls the network twice for once."""
    library = small(name)
    x0, labels = torch.rand(2, 2, SIZE, SIZE) * 2 - 1, torch.tensor([0, 1])
    loss = library.loss(x0, labels)
    assert loss.ndim == 0
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in library.network.parameters())
    assert library.call(x0, torch.tensor([3, 700]), labels).shape == x0.shape
    calls: list[int] = []
    library.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        drawn = library.eval().draw(labels, SIZE, 5)
    assert len(calls) == 5
    assert drawn.shape == x0.shape
    assert float(drawn.min()) < -0.4
    assert float(drawn.abs().max()) < 1.5


@pytest.mark.parametrize("name", ["diffusers", "monai", "ddp"])
def test_the_class_reaches_the_network(small: Callable[[str], Any], name: str) -> None:
    """Damage: leave `class_labels=labels` out of `Scheduled.call`."""
    library = small(name).eval()
    with torch.no_grad():
        for weight in library.network.parameters():  # networks begin with a last layer of zeros
            weight.add_(0.05 * torch.randn_like(weight))
        x, t = torch.randn(1, 2, SIZE, SIZE), torch.tensor([500])
        assert not torch.allclose(library.call(x, t, torch.tensor([0])), library.call(x, t, torch.tensor([1])))


@pytest.mark.parametrize(
    ("name", "millions"),
    [("diffusers", 113.7), ("diffusers_small", 5.6), ("monai", 18.5), ("ddp_plain", 35.7), ("ddp", 38.4)],
)
def test_networks_have_their_documented_sizes(modules: dict[str, Any], name: str, millions: float) -> None:
    """Damage: one block a level less in `diffusers_network` (diffusers says 113.7 M parameters for its tutorial)."""
    pytest.importorskip(SMALL[name][0].split(".")[0])
    with torch.device("meta"):
        library = modules["library_networks"].build_library(name, 128, 2)
    assert sum(p.numel() for p in library.network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_batches_keep_the_pixels_of_a_step(modules: dict[str, Any]) -> None:
    """Damage: scale by the side rather than the area in `Recipe.batch_at`."""
    recipe = modules["library_networks"].LIBRARIES["monai"][0]
    assert [recipe.batch_at(size) for size in (64, 128, 256)] == [128, 32, 8]


def test_phase_3_serves_a_library(
    small: Callable[[str], Any], modules: dict[str, Any], ellipses: SampleSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Damage: weights that are not those that were trained, a class that is not handed on, a sample that depends on
    what is asked for beside it; `--steps` without effect."""
    small("diffusers_small")
    trainer = modules["library_generator"].LibraryTrainer(
        "diffusers_small", ellipses, SIZE, "fp32", torch.device("cpu"), 4, 2
    )
    trainer.total_steps = 20
    assert np.isfinite([trainer.train_step(step) for step in range(3)]).all()
    checkpoint = tmp_path / "best_model.safetensors"
    trainer.save(checkpoint, 3)
    monkeypatch.setattr(samples, "mask_fault", lambda *_: None)

    def drawn(name: str, **changes: Any) -> dict[str, str]:
        settings = {"num_samples_per_class": 1, "steps": 2, "device": "cpu", "precision": "fp32"} | changes
        found = generate(GenerateConfig(str(checkpoint), str(tmp_path / name), **settings))
        assert isinstance(found, SampleSet)
        return {r.id: r.image_hash for r in found.records}

    one, two, longer = drawn("one"), drawn("two", num_samples_per_class=2), drawn("longer", steps=4)
    assert {key: two[key] for key in one} == one
    assert len(set(two.values())) == 4
    assert not set(one.values()) & set(longer.values())
    assert read_samples(tmp_path / "one").info["checkpoint"]["step"] == 3
    again: Any = load_generator(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), again.library.network.parameters(),
                                                 strict=True))  # fmt: skip


def test_parts_of_a_batch_add_up_to_it(
    small: Callable[[str], Any], modules: dict[str, Any], ellipses: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: leave `count / self.batch` out of `LibraryTrainer.train_step`."""
    small("diffusers_small")
    x0 = torch.linspace(-1, 1, 4 * 2 * SIZE * SIZE).view(4, 2, SIZE, SIZE)
    losses = []
    for part in (4, 3):
        trainer = modules["library_generator"].LibraryTrainer(
            "diffusers_small", ellipses, SIZE, "fp32", torch.device("cpu"), 4, part
        )
        trainer.channels = lambda step, first, count: (x0[first : first + count], torch.zeros(count).long())
        # Without chance, which differs between parts
        trainer.library.loss = lambda x, labels, library=trainer.library: (
            library.call(x, torch.full((len(x),), 9), labels).square().mean()
        )
        losses.append(trainer.train_step(5))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class FakeTrainer:
    """Steps that take so many seconds of a clock that stands still between them."""

    batch, total_steps = 2, 1

    def __init__(self, seconds: list[float], loss: float = 1.0) -> None:
        self.seconds, self.loss, self.now = seconds, loss, 0.0

    def train_step(self, step: int) -> float:
        self.now += self.seconds[min(step, len(self.seconds) - 1)]
        return self.loss


@pytest.mark.parametrize("seconds", [[0.1], [0.7], [5.0, 0.3], [0.2] * 20 + [0.6], [30.0]])
def test_budgets_are_equal_whatever_a_step_takes(modules: dict[str, Any], seconds: list[float]) -> None:
    """Damage: set `arm.total_steps` from the first step alone in `train_for`; go on after a loss of NaN."""
    arm = FakeTrainer(seconds)
    done = modules["compare_libraries"].train_for(arm, 20.0, clock=lambda: arm.now)
    assert abs(done["seconds"] - 20.0) <= max(seconds[-1], seconds[0] - 20.0)
    assert (arm.total_steps, done["pairs_seen"]) == (done["steps"], 2 * done["steps"])
    broken = FakeTrainer(seconds, float("nan"))
    assert modules["compare_libraries"].train_for(broken, 20.0, clock=lambda: broken.now)["steps"] == 1


def test_the_page_has_ratios_in_favour_of_ours(modules: dict[str, Any], tmp_path: Path) -> None:
    """Damage: a ratio upside down, a failure or a refusal that is not said, KeyError for figures of few pairs."""
    compare = modules["compare_libraries"]
    row = {"parameters": 5e6, "gib": 1.0, "gflop": 2.0, "images_per_second": 10.0, "seconds_a_call": 0.01}
    other = row | {"gflop": 50.0, "images_per_second": 0.5}
    compare.write_json(
        tmp_path / "speed.json", {"medsegdiff 128": row, "monai 128": other, "ddp 128": {"failed": "full"}}
    )
    trained = {"network": "monai", "batch": 2, "steps": 3, "pairs_seen": 6, "seconds": 60.0}
    (tmp_path / "monai").mkdir()
    compare.write_json(tmp_path / "monai" / "figures.json", {"trained": trained, "refused": "4 masks degenerate"})
    page = compare.page(tmp_path)
    assert "| monai | 128 | 5 | 50 | 25x | 0.5 | 20x | 1 |" in page
    assert "| ddp | 128 | full |" in page
    assert "| monai | 2 | 3 | 6 | 1.0 | 4 masks degenerate |" in page
    few = {"metrics": {"distances": {"spaces": {"radiomics": {}}}, "agreement": {}}, "verdicts": []}
    assert compare.figures_of(few) == {"frechet": None, "agreement": None, "privacy": None}
