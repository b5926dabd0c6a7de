"""Out of memory: the largest batch that fits is found by trial, reported, and with --find_batch_size used."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import TWO_SIZES
from trainer_runs import fail_at

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.memory import BatchSizeFinder, largest_batch, micro_batches, out_of_memory
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer, train

ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


def limited(limit: int, error: Exception = ERRORS[0]) -> tuple[Callable[[int], None], list[int]]:
    """A step with memory for so many pairs, and the sizes that it was tried with."""
    tried: list[int] = []

    def step(pairs: int) -> None:
        tried.append(pairs)
        if pairs > limit:
            raise error

    return step, tried


@pytest.mark.parametrize("limit", [0, 1, 5, 31, 32, 33, 63, 64, 100])
def test_largest_batch(limit: int) -> None:
    """Damage: the power of two below the limit; one too many; going on for ever at 0; trying every size in turn."""
    step, tried = limited(limit)
    assert largest_batch(step, 64) == min(limit, 64)
    assert len(tried) <= 13
    assert max(tried) <= 64
    assert min(tried) > 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_way_to_run_out_of_memory(error: Exception) -> None:
    """Damage: knowing that of CUDA alone; taking any RuntimeError for it."""
    assert out_of_memory(error)
    assert largest_batch(limited(3, error)[0], 8) == 3
    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch(limited(3, RuntimeError("shapes do not match"))[0], 8)


def test_micro_batches_keep_the_pairs_of_a_step() -> None:
    """Damage: another product; a batch above the limit, or one that processes cannot share; the smallest that fits."""
    assert micro_batches(32, 32, 1) == (32, 1)
    assert micro_batches(32, 13, 1) == (8, 4)
    assert micro_batches(24, 13, 2) == (12, 2)
    assert micro_batches(12, 5, 2) is None
    assert micro_batches(6, 5, 3) == (3, 2)
    assert micro_batches(8, 0, 1) is None


def settings(pairs: SampleSet, output: Path, **changes: Any) -> TrainConfig:
    """3 steps of 8 pairs."""
    config = TrainConfig(
        data_dir=str(pairs.root), output_dir=str(output), img_size=16, batch_size=8, num_epochs=2, precision="fp32",
        device="cpu", evals=1, save_every=2, eval_samples=4, eval_steps=2,
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for 5 pairs at once."""
    loss = train_module.denoising_loss

    def limited_loss(denoiser: Any, x0: Any, *rest: Any) -> Any:
        if len(x0) > 5:
            raise ERRORS[0]
        return loss(denoiser, x0, *rest)

    monkeypatch.setattr(train_module, "denoising_loss", limited_loss)


def test_a_batch_that_failed_is_not_advised(
    ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: trying the batch of the failed step as well, which may fit into a trial."""
    learner = DiffusionTrainer(settings(ellipses, tmp_path), ellipses)
    monkeypatch.setattr(learner.batch_size_finder, "try_batch", lambda *_: None)
    assert "expected at most 7. Use --batch_size 4 --accumulate 2" in str(
        learner.batch_size_finder.too_large(learner.config)
    )


@pytest.mark.usefixtures("small")
def test_running_out_of_memory_is_reported_in_one_line(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: a traceback of torch; naming a size without trying it; forgetting the pairs a step in the advice."""
    expected = (
        r"--batch_size: found 8, too many for the memory of cpu; expected at most 5\. "
        r"Use --batch_size 4 --accumulate 2 \(as many pairs a step\) and a new --output_dir, "
        r"or --checkpoint_gradients true and the same one\."
    )
    with pytest.raises(UserError, match=expected):
        train(settings(ellipses, tmp_path / "run"))


def test_memory_for_full_size_pictures_is_asked_for_first(
    ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: finding out where the small pictures end, which may be hours later."""
    loss, seen = train_module.denoising_loss, []

    def limited_loss(denoiser: Any, x0: Any, *rest: Any) -> Any:
        seen.append(x0.shape[-1])
        if len(x0) * x0.shape[-1] > 5 * 16:
            raise ERRORS[0]
        return loss(denoiser, x0, *rest)

    monkeypatch.setattr(train_module, "denoising_loss", limited_loss)
    monkeypatch.setattr("medsegdiff.generators.joint_diffusion.config.SMALLEST", 8)
    with pytest.raises(UserError, match="--batch_size: found 8, too many"):
        train(settings(ellipses, tmp_path / "run", progressive_resizing=0.5))
    assert set(seen) == {16}


def test_the_trial_is_of_full_size_pictures(
    ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage: a trial at high noise, where pictures are seen smaller: a step of low noise runs out of memory later."""
    caplog.set_level(logging.INFO, "medsegdiff")
    loss = train_module.denoising_loss

    def limited_loss(denoiser: Any, x0: Any, cond: Any, sigma: Any, noise: Any, config: Any, high: int) -> Any:
        if len(x0) - high > 3:
            raise ERRORS[0]
        return loss(denoiser, x0, cond, sigma, noise, config, high)

    monkeypatch.setattr(train_module, "denoising_loss", limited_loss)
    train(settings(ellipses, tmp_path / "run", find_batch_size=True, model=TWO_SIZES))
    assert "3 of 8 pairs a step fit" in caplog.text


@pytest.mark.usefixtures("small")
def test_a_batch_that_fits_is_found_and_kept(
    ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage: finding it anew where a run goes on, which may find another; other pairs a step; reporting nobody."""
    caplog.set_level(logging.INFO, "medsegdiff")
    config = settings(ellipses, tmp_path / "run", find_batch_size=True)
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionTrainer, "train_step", fail_at(3, DiffusionTrainer.train_step))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    reported = "5 of 8 pairs a step fit into memory at once: going on as with --batch_size 4 --accumulate 2"
    assert [m for m in caplog.messages if "fit into memory" in m] == [reported]
    monkeypatch.setattr(BatchSizeFinder, "largest", lambda *_: pytest.fail("looked for it again"))
    summary = train(config)
    assert (summary["config"]["batch_size"], summary["config"]["accumulate"], summary["steps"]) == (4, 2, 4)
    same = settings(ellipses, tmp_path / "other", batch_size=4, accumulate=2)
    assert train(same)["best"] == summary["best"]
    fingerprint = json.loads((tmp_path / "run" / "state" / "fingerprint.json").read_text())
    assert fingerprint == json.loads((tmp_path / "other" / "state" / "fingerprint.json").read_text())


def test_a_trial_changes_nothing(ellipses: SampleSet, tmp_path: Path) -> None:
    """Damage: gradients of the trial left for the first step; weights moved by it."""
    config = settings(ellipses, tmp_path)
    learner = DiffusionTrainer(config, read_samples(ellipses.root))
    before = {name: w.clone() for name, w in learner.denoiser.state_dict().items()}
    assert learner.batch_size_finder.largest(8, config) == 8
    assert all(p.grad is None for p in learner.denoiser.parameters())
    assert all(torch.equal(w, before[name]) for name, w in learner.denoiser.state_dict().items())
    assert not learner.optimiser.state
