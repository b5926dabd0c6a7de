"""Where torch.compile works, and that what it builds learns the same."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import settings

from medsegdiff.data.records import SampleSet
from medsegdiff.engine import compiling
from medsegdiff.engine.compiling import compiles
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer, train

pytestmark = pytest.mark.slow

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL = ModelConfig(model_channels=8, channel_mult=[1], use_transformer=False, dropout=0.0)  # little to build
STREAMS = ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2, dropout=0.0)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Of each graph that is built, the sizes of its four-dimensional inputs and the names of what it computes.

    There are no minutes of making kernels of them.
    """
    found: list[list[Any]] = []

    def backend(module: Any, inputs: list[Any]) -> Callable[..., Any]:
        # Not of `inputs`: newer versions of torch give numbers there also where the graph takes any size
        known = [node.meta.get("example_value") for node in module.graph.nodes if node.op == "placeholder"]
        sizes = [tuple(i.shape) for i in known if isinstance(i, torch.Tensor) and i.ndim == 4]
        found.append([*sizes, *(str(node.target) for node in module.graph.nodes)])
        made: Callable[..., Any] = torch._dynamo.lookup_backend("aot_eager")(module, inputs)
        return made

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(plain, backend=backend))
    monkeypatch.setattr(compiling, "missing_for_compile", lambda _: None)
    torch.compiler.reset()
    return found


@pytest.mark.parametrize(
    ("backbone", "model"),
    [
        ("patch_unet", SMALL),
        ("patch_unet", dataclasses.replace(SMALL, low_res_factor=2)),
        ("medsegdiff_v2", STREAMS),
    ],
    ids=["one size", "two sizes", "two streams"],
)
def test_a_compiled_network_learns_the_same(
    backbone: str, model: ModelConfig, ellipses: SampleSet, tmp_path: Path, graphs: list[Any]
) -> None:
    """Damage: weights saved as _orig_mod.*; kernels built for the averaged copy, or not at all; other results."""
    config = dataclasses.replace(settings(ellipses.root, tmp_path / "plain"), model=model, backbone=backbone)
    plain = train(config)
    assert not graphs
    built = train(dataclasses.replace(config, output_dir=str(tmp_path / "built"), compile=True))
    assert graphs
    assert built["best"]["val_loss"] == pytest.approx(plain["best"]["val_loss"], rel=1e-4)
    assert built["fingerprint"] == plain["fingerprint"]
    networks = [load_checkpoint(tmp_path / name / "last_model.safetensors")[0] for name in ("plain", "built")]
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    learner = DiffusionTrainer(dataclasses.replace(config, compile=True), ellipses)
    assert learner.denoiser.backbone._compiled_call_impl is not None
    assert learner.ema.model.backbone._compiled_call_impl is None


@pytest.mark.parametrize("backbone", ["patch_unet", "medsegdiff_v2"])
def test_each_size_has_a_graph_of_its_own(
    backbone: str, ellipses: SampleSet, tmp_path: Path, graphs: list[list[Any]]
) -> None:
    """Damage: one graph for all sizes, of which older torch makes no kernels (area means of unknown size)."""
    model = dataclasses.replace(STREAMS, low_res_factor=2, patch_size=2)
    train(dataclasses.replace(settings(ellipses.root, tmp_path), model=model, backbone=backbone, compile=True))
    shapes = [shape for graph in graphs for shape in graph if isinstance(shape, tuple)]
    pictures = [shape for shape in shapes if shape[1] == 2]
    # Behind the Fourier layers of medsegdiff_v2, which are not compiled, graphs of any size begin
    known = shapes if backbone == "patch_unet" else pictures
    assert all(isinstance(side, int) for shape in known for side in shape[2:])
    assert {shape[-1] for shape in pictures} == {8, 16}


def test_complex_numbers_stay_out_of_the_graphs(ellipses: SampleSet, tmp_path: Path, graphs: list[list[Any]]) -> None:
    """Damage: Fourier transforms given to torch.compile, whose kernels fail or are wrong there in some versions."""
    config = dataclasses.replace(settings(ellipses.root, tmp_path), model=STREAMS, backbone="medsegdiff_v2")
    DiffusionTrainer(dataclasses.replace(config, compile=True), ellipses).train_step(0)
    names = [name for graph in graphs for name in graph if isinstance(name, str)]
    assert any("conv" in name for name in names)
    assert not [name for name in names if "fft" in name or "complex" in name]


def test_trials_of_batches_are_not_compiled(ellipses: SampleSet, tmp_path: Path, graphs: list[Any]) -> None:
    """Damage: a graph, a minute each on a GPU, for every batch that is tried; a network that stays plain after them."""
    config = dataclasses.replace(
        settings(ellipses.root, tmp_path / "run"), model=SMALL, compile=True, find_batch_size=True
    )
    learner = DiffusionTrainer(config, ellipses)
    assert learner.batch_size_finder.largest(4, config) == 4
    assert not graphs
    train(config)
    assert graphs
    graphs.clear()
    (tmp_path / "run" / "summary.json").unlink()
    assert DiffusionTrainer(config, ellipses).batch_size_finder.too_large(config)  # nor those of the message
    train(config)  # goes on
    assert not graphs


def test_kernels_with_checkpointed_blocks(ellipses: SampleSet, tmp_path: Path, graphs: list[Any]) -> None:
    """Damage: a network that can be compiled or checkpointed, not both."""
    config = dataclasses.replace(settings(ellipses.root, tmp_path), model=STREAMS)
    plain = DiffusionTrainer(config, ellipses).train_step(0)
    both = DiffusionTrainer(dataclasses.replace(config, compile=True, checkpoint_gradients=True), ellipses)
    assert float(both.train_step(0)["grad_norm"]) == pytest.approx(float(plain["grad_norm"]), rel=1e-4)
    assert graphs


@pytest.mark.parametrize(("capability", "works"), [((6, 1), False), ((7, 0), True)])
def test_where_kernels_are_built(capability: tuple[int, int], works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: compiling on every CPU; on a GPU that triton has no kernels for, which fails in the first step."""
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": __file__})
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    assert [compiles(setting, CPU) for setting in ("auto", True, False)] == [False, True, False]
    assert [compiles(setting, GPU) for setting in ("auto", False)] == [works, False]
    if works:
        assert compiles(True, GPU)
    else:
        with pytest.raises(UserError, match=r"--compile: found true without a GPU of compute capability 7\.0"):
            compiles(True, GPU)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Damage: failing in the first step where there is no compiler, no header, no triton."""
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    with pytest.raises(UserError, match=r"--compile: found true without the header Python\.h"):
        compiles(True, CPU)
    assert not compiles("auto", GPU)
    (tmp_path / "Python.h").touch()
    with pytest.raises(UserError, match="--compile: found true without the package triton"):
        compiles(True, GPU)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"--compile: found true without a C\+\+ compiler"):
        compiles(True, CPU)
    assert not compiles(TrainConfig("d").compile, GPU)
