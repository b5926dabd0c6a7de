"""Training in several processes: the same curve as in one, and one that writes."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from medsegdiff.data.records import SampleSet
from medsegdiff.engine.distributed import Distributed, SingleProcess
from medsegdiff.engine.run_folder import RunFolder
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import trainer as train_module
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.run import run_fingerprint

if TYPE_CHECKING:
    from sample_sets import WriteSamples

ROOT = Path(__file__).parents[3]
FLAGS = (
    "--img_size 16 --batch_size 4 --accumulate 2 --num_epochs 4 --lr 3e-3 --warmup_steps 2 --ema_lengths 0.05 0.1 "
    "--evals 4 --precision fp32 --device cpu --save_every 2 --eval_samples 4 --eval_steps 2 --model.model_channels 8 "
    "--model.channel_mult 1 2 --model.transformer_depth 1 --model.num_heads 2 --model.dropout 0 "
    "--model.patch_size 2 --model.low_res_factor 2"
).split()  # 8 steps of 8 pairs; dropout has random numbers of its own in every process


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def train(data: Path, output: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(ROOT / "train_medsegdiff.py"), *FLAGS]
    command += ["--data_dir", str(data), "--output_dir", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, write_ellipses: WriteSamples) -> None:
    """Damage: gradients not averaged, or added up; each process drawing a batch of its own; both taking one half."""
    write_ellipses(tmp_path / "pairs", {"train": 6, "val": 3})
    alone = train(tmp_path / "pairs", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    # `--cpu` of accelerate launch starts one process where there is no MPI; --device cpu keeps to the CPU
    launcher = f"-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port {free_port()}"
    both = train(tmp_path / "pairs", tmp_path / "both", *launcher.split())
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("training on 12 pairs") == 1
    curves = []
    for name in ("alone", "both"):
        rows = [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        curves.append([row["val_loss"] for row in rows])
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    paths = [tmp_path / name / "last_model.safetensors" for name in ("alone", "both")]
    weights = [torch.cat([w.flatten() for w in load_checkpoint(p)[0].state_dict().values()]) for p in paths]
    assert (weights[1] - weights[0]).norm() < 1e-3 * weights[0].norm()  # Adam makes much of what is hardly a gradient
    files = [{str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*") if "events" not in p.name}
             for name in ("alone", "both")]  # fmt: skip
    assert files[0] == files[1]
    assert len(list((tmp_path / "both" / "tensorboard").iterdir())) == 1


def test_one_process_is_the_special_case() -> None:
    """Damage: a share, a mean or a message that only comes right among several processes."""
    one = Distributed("cpu")
    assert (one.count, one.rank, one.is_main, one.device) == (1, 0, True, torch.device("cpu"))
    assert one.share(6) == slice(0, 6)
    values = torch.tensor([1.0, 2.0])
    for processes in (one, SingleProcess()):
        assert torch.equal(processes.mean(values), values)
        assert processes.run_on_main(lambda: {"a": 1}) == {"a": 1}
    assert one.smallest(7) == 7
    network = torch.nn.Linear(1, 1)
    assert one.prepare(network) is network


def test_shares_make_up_the_batch() -> None:
    """Damage: shares that overlap, or that leave out the last pairs."""
    some, rows = Distributed("cpu"), []
    some.count = 3
    for some.rank in range(3):
        rows += list(range(12))[some.share(12)]
    assert rows == list(range(12))


def test_a_batch_that_cannot_be_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: processes with shares of different size, whose mean is not that of the batch."""

    class Three(Distributed):
        def __init__(self, device: str) -> None:
            super().__init__(device)
            self.count = 3

    monkeypatch.setattr(train_module, "Distributed", Three)
    with pytest.raises(UserError, match="--batch_size: found 8; expected a multiple of the 3 processes"):
        train_module.train(TrainConfig(str(tmp_path), str(tmp_path / "out"), device="cpu", batch_size=8))
    assert not (tmp_path / "out").exists()


def test_a_found_batch_that_cannot_be_shared(
    ellipses: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage: a run that found parts of five pairs, gone on with by two processes, which leave the fifth out."""

    class Two(Distributed):
        def __init__(self, device: str) -> None:
            super().__init__(device)
            self.count = 2

    monkeypatch.setattr(train_module, "Distributed", Two)
    config = TrainConfig(
        str(ellipses.root), str(tmp_path / "out"), img_size=16, device="cpu", batch_size=10, find_batch_size=True,
        precision="fp32",
    )  # fmt: skip
    begun = run_fingerprint(dataclasses.replace(config, batch_size=5, accumulate=2), ellipses)
    monkeypatch.setattr(RunFolder, "begun", lambda _: begun)
    with pytest.raises(UserError, match=r"--batch_size: found 5; .* Start as many processes as before\."):
        train_module.train(config)


@pytest.mark.slow
def test_other_phases_do_not_wait_for_accelerate() -> None:
    """Damage: importing accelerate at the top of a module that every phase uses."""
    modules = "medsegdiff.engine.loop, medsegdiff.downstream.supervised, medsegdiff.engine.device, medsegdiff.cli"
    code = f"import {modules}, sys; sys.exit('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_are_prepared_without_torch() -> None:
    """Damage: importing torch in a module that every phase uses: phases 1 and 4 then start seconds later."""
    modules = "medsegdiff.data.prepare, medsegdiff.data.combine, medsegdiff.data.phantom, medsegdiff.cli"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
