"""Size, speed and memory of our network and of the peers, side by side on one machine."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peer_arms import OURS, Arm, OurArm, Setting, build_arm
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from medsegdiff.data.records import SampleSet, read_samples
from medsegdiff.engine.device import autocast, choose_device, has_fast_bf16
from medsegdiff.engine.files import read_json, write_json
from medsegdiff.engine.memory import out_of_memory
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.noise import ddpm_sigmas

SPEED_FILE = "speed.json"
CALLS, LONG_CALLS = 20, 1000  # network calls at most of our default sampler (guidance counted), and of DDPM
TIMED_CALLS = 10  # of the long walk, from all of it: the rest is multiplied
TRAIN_FACTOR = 3  # a training step computes the forward pass and, for the backward pass, twice as much
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices of the measured peak
SWEEP = [2**n for n in range(10)]
KIB_A_GIB = 2**20
REFERENCE_SIDE = 128  # side of the pictures, pixels, that --speed_batch is reported for


def setting_of(options: argparse.Namespace, size: int, precision: str, batch: int) -> Setting:
    """Steps on pictures of this size alone: no cheaper ones of ours first."""
    return Setting(Path(options.config), size, precision, options.device, batch, part=batch, small_first=False)


def batch_at(options: argparse.Namespace, size: int) -> int:
    """Pairs a step: at all sizes as many pixels."""
    return max(1, round(options.speed_batch * (REFERENCE_SIDE / size) ** 2))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def matrix_peak(device: torch.device, precision: str) -> float:
    """GFLOP/s of the best of some large matrix products: what this machine can do at all, with these threads."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(MATRIX[device.type], MATRIX[device.type], device=device).to(kind) for _ in range(2))
    with autocast(device, precision):
        seconds = min(timed(device, lambda: a @ b) for _ in range(5))
    return 2 * MATRIX[device.type] ** 3 / seconds / 1e9


def forward_flops(arm: Arm) -> float:
    """GFLOP of one network call for one pair, at noise levels as training samples them.

    As `torch.utils.flop_counter` counts them, 2 a multiplication-addition. Attention is computed the plain way
    meanwhile, since not every fused kernel is counted; Fourier transforms are not.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        arm.call(arm.flop_pairs)
    return counter.get_total_flops() / arm.flop_pairs / 1e9


def high_water() -> float:
    """Largest resident memory of this process so far, GiB. `ru_maxrss` would hold that of the parent before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / KIB_A_GIB


def limit_memory(gib: float) -> None:
    """Have allocations fail, rather than the machine swap or kill, beyond so much."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30),) * 2)


def available_memory() -> float:
    """GiB that a new process may take without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / KIB_A_GIB


def is_about_memory(error: Exception) -> bool:
    """Whether torch, Python, or our trainer (in its own words) said that memory ran out."""
    return out_of_memory(error) or any(word in str(error) for word in ("allocat", "for the memory of"))


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak of two training steps in this process, above what it held before the network was made."""
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    pairs = read_samples(Path(options.real_data))
    size = options.sizes[0]
    setting = setting_of(options, size, options.precisions[0], batch_at(options, size))
    if device.type == "cpu":
        limit_memory(0.8 * available_memory())
    before = high_water()
    try:
        arm = build_arm(options.arms[0], setting, pairs)
        for step in range(2):
            arm.train_step(step)
    except (RuntimeError, MemoryError, UserError) as error:
        if not is_about_memory(error):
            raise
        return {"failed": "does not fit into memory"}
    if device.type == "cuda":
        return {"gib": torch.cuda.max_memory_allocated() / 2**30}
    return {"gib": high_water() - before}


def memory_of(name: str, options: argparse.Namespace, size: int, precision: str) -> dict[str, Any]:
    """`measure_memory` in a process of its own."""
    line = [sys.executable, str(Path(__file__).with_name("peers.py")), "memory", "--real_data", options.real_data]
    line += ["--run_dir", str(options.run_dir), "--config", options.config, "--device", options.device]
    line += ["--arms", name, "--sizes", str(size), "--precisions", precision, "--threads", str(options.threads)]
    line += ["--speed_batch", str(options.speed_batch)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode < 0:
        return {"failed": "killed by the system, probably for its memory"}
    if done.returncode:  # nothing that a table should show
        raise RuntimeError(f"memory of {name} at {size} px:\n{done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def why_not(precision: str, device: torch.device) -> str | None:
    """Why a number type is not measured on this machine."""
    if precision == "bf16" and not has_fast_bf16(device):
        return "not measured: this processor has no bf16 instructions, and emulating them says nothing"
    return None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm at every size in every number type; kept in the run folder after each, and not measured again."""
    file = options.run_dir / SPEED_FILE
    found: dict[str, Any] = read_json(file) if file.is_file() else {"rows": {}, "peak": {}, "sweep": {}, "about": {}}
    device, pairs = choose_device(options.device), read_samples(Path(options.real_data))
    torch.set_num_threads(options.threads)
    for precision in options.precisions:
        for size in options.sizes:
            key = f"{size} {precision}"
            if key in found["rows"]:
                continue
            reason = why_not(precision, device)
            found["rows"][key] = {"failed": reason} if reason else compare(options, pairs, size, precision)
            if not reason:
                found["peak"][precision] = matrix_peak(device, precision)
            if not reason and device.type == "cuda":
                found["sweep"][key] = {name: sweep(name, options, pairs, size, precision) for name in options.arms}
            batch = batch_at(options, size)
            found["about"][key] = {"batch": batch, "rounds": options.rounds, "threads": options.threads}
            write_json(file, found)
    return found


def compare(options: argparse.Namespace, pairs: SampleSet, size: int, precision: str) -> dict[str, Any]:
    """Rows of all arms: memory in children, one after another; then times in this process, the arms in turn."""
    rows: dict[str, Any] = {}
    for name in tqdm(options.arms, desc=f"memory at {size} px, {precision}", unit="network"):
        rows[name] = {"memory": memory_of(name, options, size, precision)}
    fit = [name for name in options.arms if "gib" in rows[name]["memory"]]
    batch = batch_at(options, size)
    setting = setting_of(options, size, precision, batch)
    device = choose_device(options.device)
    for name in fit:
        # In fp32, whose number is the same: what is counted is taken apart where autocast does not reach
        arm = build_arm(name, dataclasses.replace(setting, precision="fp32"), pairs)
        rows[name]["parameters"] = sum(p.numel() for p in arm.modules().parameters())
        rows[name]["gflop"] = forward_flops(arm)
    torch.compiler.reset()  # it keeps few graphs of a network in all, whatever their sizes and number types
    arms = {name: build_arm(name, setting, pairs) for name in fit}
    times: dict[str, dict[str, list[float]]] = {name: {"step": [], "call": []} for name in fit}
    for turn in tqdm(range(options.rounds + 1), desc=f"timing at {size} px, {precision}", unit="round"):
        for name, arm in arms.items():
            step = timed(device, lambda arm=arm, turn=turn: arm.train_step(turn))  # type: ignore[misc]
            call = timed(device, lambda arm=arm: arm.call(batch))  # type: ignore[misc]
            if turn:  # the first round warms up
                times[name]["step"].append(step)
                times[name]["call"].append(call)
    for name in fit:
        medians = {what: statistics.median(values) for what, values in times[name].items()}
        rows[name]["images_per_second"] = batch / medians["step"]
        rows[name]["seconds_a_call"] = medians["call"] / batch  # a pair
        rows[name]["times"] = times[name]
    if OURS in arms:
        rows[OURS]["sampling"] = sampling_times(arms[OURS], batch, device)
    del arms
    gc.collect()
    return rows


def sampling_times(arm: Arm, batch: int, device: torch.device) -> dict[str, float]:
    """Seconds a pair of a whole sample with the default sampler, and of 1000 steps of ddpm, of which a few are
    timed."""
    assert isinstance(arm, OurArm)
    labels = torch.arange(batch) % 2
    arm.sample(labels, (0,), 2)  # warms up
    quick = timed(device, lambda: arm.sample(labels, (1,), CALLS))
    table = ddpm_sigmas(arm.trainer.config.diffusion).flip(0).float()
    # The middles of as many equal parts of the walk, and where it ends: calls at high noise are cheaper
    middles = [round((k + 0.5) * len(table) / TIMED_CALLS) for k in range(TIMED_CALLS)]
    rows = torch.cat([table[middles], torch.zeros(1)]).unsqueeze(1).expand(-1, 2)
    long = timed(device, lambda: arm.sample(labels, (2,), TIMED_CALLS, "ddpm", rows)) * LONG_CALLS / TIMED_CALLS
    return {"default": quick / batch, "ddpm_1000": long / batch, "timed_calls": TIMED_CALLS}


def sweep(name: str, options: argparse.Namespace, pairs: SampleSet, size: int, precision: str) -> dict[str, float]:
    """Training images/s over batch size, until memory ends."""
    device, found = choose_device(options.device), {}
    for batch in SWEEP:
        try:
            torch.compiler.reset()
            arm = build_arm(name, setting_of(options, size, precision, batch), pairs)
            for warm in range(4):  # pairs of each size differ in number from step to step, and may want a graph
                arm.train_step(warm)
            seconds = [timed(device, lambda arm=arm, n=n: arm.train_step(n)) for n in range(4, 9)]  # type: ignore[misc]
        except (RuntimeError, MemoryError, UserError) as error:
            if not is_about_memory(error):
                raise
            break
        finally:
            arm = None  # type: ignore[assignment]
            gc.collect()
            torch.cuda.empty_cache()
        found[str(batch)] = batch / statistics.median(seconds)
    return found
