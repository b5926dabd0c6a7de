"""Small trainings for tests: their settings, and whether two of them came out the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medsegdiff.data.records import read_samples
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

if TYPE_CHECKING:
    from sample_sets import WriteSamples

STEPS = 6
PLAIN = ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2)


def settings(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """6 steps of 4 pairs at 16 px: states after steps 2, 3, 4 and 6, evaluations after 3 and 6."""
    config = TrainConfig(
        data_dir=str(data), output_dir=str(output), img_size=16, batch_size=4, num_epochs=2, lr=3e-3, warmup_steps=2,
        ema_lengths=[0.05, 0.1], precision="fp32", device="cpu", evals=2, save_every=2, eval_samples=4, eval_steps=2,
        model=PLAIN,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def write_data(root: Path, write_ellipses: WriteSamples) -> Path:
    """12 train, 6 val pairs; the test pictures are rubbish, since training may not look at them."""
    pairs = write_ellipses(root, {"train": 6, "val": 3, "test": 1})
    for record in pairs.select("test").records:
        (root / record.image_file_name).write_bytes(b"nobody reads this")
    return root


def trainer(data: Path, output: Path, **changes: Any) -> DiffusionTrainer:
    return DiffusionTrainer(settings(data, output, **changes), read_samples(data))


def final_state(output: Path) -> dict[str, Any]:
    assert sorted(p.name for p in (output / "state").iterdir()) == ["fingerprint.json", f"step_{STEPS:08d}"]
    state: dict[str, Any] = torch.load(output / "state" / f"step_{STEPS:08d}" / "state.pt", weights_only=True)
    return state["trainer"]  # type: ignore[no-any-return]


def same(a: Any, b: Any) -> bool:
    """Equality to the bit, all the way down."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def assert_same_run(output: Path, other: Path) -> None:
    assert same(final_state(output), final_state(other))
    for name in ("last_model.safetensors", "best_model.safetensors"):
        (model, card, _), (other_model, other_card, _) = (load_checkpoint(folder / name) for folder in (output, other))
        assert same(dict(model.state_dict()), dict(other_model.state_dict()))
        assert card == other_card
    assert (output / "history.jsonl").read_bytes() == (other / "history.jsonl").read_bytes()


def fail_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises KeyboardInterrupt instead of its `call`-th call."""
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapped
