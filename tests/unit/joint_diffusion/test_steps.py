"""Steps do not wait for the device; the loop reads what they returned, many at a time, before anything is saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.data.sampling import sample_indices
from medsegdiff.engine.distributed import SingleProcess
from medsegdiff.engine.loop import LoopConfig, Scalars, run_loop
from medsegdiff.engine.run_folder import TRAINING, RunFolder
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer

WAITS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"}  # what hands a number to the host


class Watched(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().rpartition(".")[0] in WAITS or func.name() in WAITS:
            self.waits.append(func.name())
        return func(*args, **(kwargs or {}))


class Counting(SingleProcess):
    """Notes how many numbers are read at a time."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def mean(self, values: Tensor) -> Tensor:
        self.reads.append(len(values))
        return values


class Learner:
    """Loses 1, 2, 3, ... and at one step NaN."""

    def __init__(self, spoilt: int = -1) -> None:
        self.spoilt, self.steps, self.evaluations = spoilt, 0, 0

    def train_step(self, step: int) -> Scalars:
        self.steps += 1
        return {"loss": torch.tensor(math.nan if step == self.spoilt else step + 1.0), "lr": 0.5}

    def evaluate(self, step: int) -> dict[str, float]:
        self.evaluations += 1
        return {"val_loss": float(step)}

    def finished(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def loop(output: Path, **changes: Any) -> LoopConfig:
    settings: dict[str, Any] = {
        "total_steps": 20,
        "evals": 1,
        "save_every": 100,
        "images_per_step": 4,
    }
    return LoopConfig(RunFolder(output, TRAINING), **(settings | {"read_every": 5} | changes))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_reads_nothing(
    accumulate: int, ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: float(norm), total.cpu() or .tolist() within a step; asking whether the norm is finite."""
    config = TrainConfig(
        data_dir=str(ellipses.root), output_dir=str(tmp_path), img_size=16, batch_size=4, accumulate=accumulate,
        precision="fp32", device="cpu", eval_samples=4,
        model=ModelConfig(model_channels=8, channel_mult=[1, 2], transformer_depth=1, num_heads=2),
    )  # fmt: skip
    learner = DiffusionTrainer(config, read_samples(ellipses.root))
    sample_ids = {
        first: sample_indices(learner.train_set.labels, first, 4, 0, True) for first in range(0, 8 * accumulate, 4)
    }
    # Samples count on the CPU, where nobody is waited for
    monkeypatch.setattr(train_module, "sample_indices", lambda _, first, *rest: sample_ids[first])
    with Watched() as watched:
        scalars = learner.train_step(0)
        learner.train_step(1)
        assert watched.waits == []
        assert isinstance(scalars["loss"], Tensor)
        float(scalars["loss"])
        assert watched.waits != []  # the watch sees one when there is one
    numbers = {name: float(value) for name, value in scalars.items()}
    assert numbers["loss"] == pytest.approx(numbers["image_loss"] + numbers["mask_loss"])
    monkeypatch.undo()
    rows = [row for first in range(4 * accumulate, 8 * accumulate, 4) for row in sample_ids[first].tolist()]
    assert learner.sample_ids(1) == [learner.train_set.records[row].id for row in rows]


def test_numbers_are_read_many_at_a_time(tmp_path: Path) -> None:
    """Damage: reading every step; giving a point of a curve the loss of another step, or losing one."""
    counting = Counting()
    run_loop(Learner(), loop(tmp_path, total_steps=13, processes=counting), "training")
    assert counting.reads == [5, 5, 3]  # the step number is a plain number, which nobody waits for
    curves = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    assert [(e.step, e.value) for e in curves.Scalars("train/loss")] == [(10, 10.0), (13, 13.0)]
    assert [e.value for e in curves.Scalars("train/lr")] == [0.5, 0.5]


def test_a_spoilt_step_is_found_among_those_read_together(tmp_path: Path) -> None:
    """Damage: naming the step at which the loss was read; checking the last of them only; naming other pairs."""
    learner = Learner(spoilt=6)
    config = loop(tmp_path, sample_ids=lambda step: [f"pair_{step}_{n}" for n in range(20)])
    with pytest.raises(UserError, match=r"^training step 6: found loss .*nan.* of the pairs pair_6_0, .*") as caught:
        run_loop(learner, config, "training")
    assert "pair_6_15 and 4 more; expected finite numbers. Lower --lr" in str(caught.value)
    assert learner.steps == 10


@pytest.mark.parametrize("changes", [{"save_every": 4}, {"evals": 5}])
def test_nothing_is_kept_of_a_spoilt_step(changes: dict[str, int], tmp_path: Path) -> None:
    """Damage: saving a state, or choosing the best weights, before the loss of its last steps is read."""
    learner = Learner(spoilt=6)
    with pytest.raises(UserError, match=r"^training step 6: "):
        run_loop(learner, loop(tmp_path, read_every=100, **changes), "training")
    assert learner.steps == 8
    assert [p.name for p in (tmp_path / "state").glob("step_*")] == ["step_00000004"]
    assert learner.evaluations == (1 if "evals" in changes else 0)


def test_others_than_the_main_process_write_nothing(tmp_path: Path) -> None:
    """Damage: every process writing states and curves over those of the others."""

    class Other(SingleProcess):
        is_main = False

        def run_on_main(self, find: Any) -> Any:
            return None

        def smallest(self, value: int) -> int:
            return next(answers)

    answers = iter([0, 0, 1])  # all are at step 0, and see the run that the main process began
    run_loop(Learner(), loop(tmp_path, processes=Other()), "training")
    assert list(tmp_path.iterdir()) == []


def test_processes_have_to_see_one_folder(tmp_path: Path) -> None:
    """Damage: one that finds no state where others go on, begins anew, and averages gradients of other weights."""

    class Beside(SingleProcess):
        """Of step, minus step, and whether the folder holds a run, the smallest of this process and another one."""

        def __init__(self, other: list[int]) -> None:
            self.other = iter(other)

        def smallest(self, value: int) -> int:
            return min(value, next(self.other))

    for number, (other, found) in enumerate((([4, -4, 1], "steps 0 to 4"), ([0, 0, 0], "steps 0 to 0"))):
        learner = Learner()
        with pytest.raises(UserError, match=f"found a folder that some processes do not see .*{found}"):
            run_loop(learner, loop(tmp_path / str(number), processes=Beside(other)), "training")
        assert learner.steps == 0
    run_loop(learner, loop(tmp_path / "seen", processes=Beside([0, 0, 1])), "training")
