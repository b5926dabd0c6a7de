"""What `precision` means on a device, and loss scaling."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch

from medsegdiff.data.records import SampleSet
from medsegdiff.engine import device as device_module
from medsegdiff.engine.device import autocast, clip_gradients, gradient_scaler, settle_precision
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer, train

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "has_bf16", "asked", "settled", "level"),
    [
        (GPU, True, "auto", "bf16", None),
        (GPU, True, "bf16", "bf16", None),
        (GPU, True, "fp16", "fp16", None),
        (GPU, False, "auto", "fp16", logging.INFO),
        (GPU, False, "bf16", "fp16", logging.WARNING),
        (GPU, False, "fp32", "fp32", None),
        (CPU, True, "auto", "bf16", None),
        (CPU, False, "auto", "fp32", None),
        (CPU, False, "bf16", "bf16", None),
    ],
)
def test_what_a_precision_means(
    device: torch.device, has_bf16: bool, asked: str, settled: str, level: int | None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Damage: bf16 that a GPU emulates; fp32 without a word where the GPU has no bf16; fp16 on a CPU."""
    caplog.set_level(logging.INFO, "medsegdiff")
    monkeypatch.setattr(device_module, "has_fast_bf16", lambda _: has_bf16)
    config = settle_precision(dataclasses.replace(TrainConfig("d"), precision=asked), device)
    assert config.precision == settled
    assert [r.levelno for r in caplog.records] == ([level] if level else [])
    assert all("no bf16: computing in fp16" in message for message in caplog.messages)


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    """Damage: going on with bf16 or fp32 unasked, or with numbers that a CPU emulates."""
    with pytest.raises(UserError, match="--precision: found fp16 on a CPU; expected bf16, fp32 or auto there"):
        train(TrainConfig(str(tmp_path), precision="fp16", device="cpu"))


@pytest.mark.parametrize(("precision", "found"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", None)])
def test_autocast_computes_in_the_type_named(precision: str, found: torch.dtype | None) -> None:
    """Damage: bf16 for fp16; autocast that stays on for fp32."""
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (found or torch.float32)


def one_weight() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    return network, torch.optim.SGD(network.parameters(), lr=1.0)


def test_gradients_are_clipped_at_their_own_scale() -> None:
    """Damage: clipping scaled gradients, all of which are far above the norm; stepping with scaled ones."""
    network, optimiser = one_weight()
    scaler = gradient_scaler(CPU, "fp16")
    assert scaler.is_enabled()
    scaler.scale(network(torch.full((1, 1), 0.25)).sum()).backward()
    assert float(clip_gradients(scaler, optimiser, network, 1.0)) == pytest.approx(0.25)
    scaler.step(optimiser)
    assert float(network.weight.detach()) == pytest.approx(0.75)


def test_an_overflow_leaves_out_a_step_and_halves_the_scale() -> None:
    """Damage: no update of the scale; a stop for what scaling did; no stop for what it did not do."""
    network, optimiser = one_weight()
    scaler = gradient_scaler(CPU, "fp16")
    norms = []
    for _ in range(17):
        optimiser.zero_grad()
        scaler.scale(network(torch.full((1, 1), math.inf)).sum()).backward()
        norms.append(float(clip_gradients(scaler, optimiser, network, 1.0)))
        scaler.step(optimiser)
        scaler.update()
    assert float(network.weight.detach()) == 1.0
    assert norms[:16] == [0.0] * 16  # scales 65536, 32768, ..., 2
    assert not math.isfinite(norms[16])


def test_scaling_is_off_for_other_types() -> None:
    """Damage: a norm that hides NaN, or a loss that is scaled, in fp32 and bf16."""
    network, optimiser = one_weight()
    scaler = gradient_scaler(CPU, "bf16")
    assert scaler.state_dict() == {}
    scaler.scale(network(torch.full((1, 1), math.nan)).sum()).backward()
    assert math.isnan(float(clip_gradients(scaler, optimiser, network, 1.0)))


def settings(pairs: SampleSet, output: Path) -> TrainConfig:
    """2 steps of 8 pairs."""
    return TrainConfig(
        data_dir=str(pairs.root), output_dir=str(output), img_size=16, batch_size=8, num_epochs=1, precision="fp32",
        device="cpu", evals=1, save_every=2, eval_samples=4, eval_steps=2, compile=False,
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2, dropout=0.0),
    )  # fmt: skip


def test_the_scale_is_part_of_the_state(ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a resumed run that begins with the first scale again; a state of an older version refused."""
    monkeypatch.setattr("medsegdiff.engine.optimise.gradient_scaler", lambda *_: gradient_scaler(CPU, "fp16"))
    first = DiffusionTrainer(settings(ellipses, tmp_path), ellipses)
    first.train_step(0)
    first.optimisation.scaler.update(512.0)
    second = DiffusionTrainer(settings(ellipses, tmp_path), ellipses)
    second.load_state_dict(first.state_dict())
    assert second.optimisation.scaler.get_scale() == 512.0
    monkeypatch.undo()
    older = DiffusionTrainer(settings(ellipses, tmp_path), ellipses)
    older.load_state_dict({k: v for k, v in older.state_dict().items() if k != "scaler"})
