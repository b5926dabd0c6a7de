"""What is trained and timed: our trainer and those of the peers, behind one interface, with a budget of seconds."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from peer_nets import PEERS, Peer, build_peer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from medsegdiff.cli import parse
from medsegdiff.conditioning.condition import Condition
from medsegdiff.data.dataset import SampleTensors, load_tensors
from medsegdiff.data.records import SampleSet
from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import augment
from medsegdiff.engine.device import autocast, choose_device, send
from medsegdiff.engine.rng import generator
from medsegdiff.generators.joint_diffusion.checkpoint import save_checkpoint
from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import TrainConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import NONE
from medsegdiff.generators.joint_diffusion.guidance_defaults import default_guidance
from medsegdiff.generators.joint_diffusion.noise import sample_sigma, sigma_table
from medsegdiff.generators.joint_diffusion.sampling import sample_pairs
from medsegdiff.generators.joint_diffusion.trainer import DiffusionTrainer
from medsegdiff.synthesis.config import GenerateConfig

OURS = "medsegdiff"
WARMUP_SHARE = 0.1  # a documented warm-up is cut to this share of the steps that a budget has room for
WEIGHTS, AUGMENT, NOISE, SAMPLE = 31, 32, 33, 34  # purpose numbers of the random streams
UNPLANNED = 10**9  # steps of a run whose first step has not been timed


def arm_names() -> list[str]:
    """Ours, then the peers."""
    return [OURS, *PEERS]


def title_of(name: str) -> str:
    return name if name == OURS else PEERS[name][0].title


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all arms of a comparison share."""

    config: Path  # settings file of our arm
    size: int = 128
    precision: str = "fp32"
    device: str = "auto"
    batch: int | None = None  # pairs an optimiser step; None: as each documentation has it
    part: int = 4  # pairs that a peer computes at once; a step gathers its batch over so many
    seed: int = 0
    small_first: bool = True  # whether ours takes its first steps on smaller pictures, where its settings say so
    compile: bool = True  # whether ours is built into kernels where that is its default


class Arm(Protocol):
    """A network in training."""

    batch: int
    total_steps: int
    flop_pairs: int  # pairs of a call over which operations are averaged

    def train_step(self, step: int) -> dict[str, float]: ...
    def modules(self) -> nn.Module: ...
    def call(self, count: int) -> None:
        """One network call for `count` pairs, without gradients."""

    def sample(self, labels: Tensor, key: tuple[int, ...], calls: int) -> tuple[Tensor, Tensor]:
        """Images (B, 1, S, S) and masks {0, 255}, uint8, of the weights that were loaded; `key` is its own chance."""

    def save(self, path: Path, step: int) -> None: ...
    def load(self, path: Path) -> None: ...


class OurArm:
    """`medsegdiff.generators.joint_diffusion.trainer.DiffusionTrainer` as it is."""

    flop_pairs = 64  # fewer operations are taken where noise is high

    def __init__(self, setting: Setting, pairs: SampleSet) -> None:
        line = ["--config", str(setting.config), "--data_dir", str(pairs.root), "--img_size", str(setting.size)]
        line += ["--precision", setting.precision, "--device", setting.device, "--seed", str(setting.seed)]
        if setting.batch is not None:
            line += ["--batch_size", str(setting.batch)]
        if not setting.small_first:
            line += ["--progressive_resizing", "0"]
        if not setting.compile:
            line += ["--compile", "false"]
        config = parse("train", TrainConfig, line)
        self.setting, self.warmup = setting, config.warmup_steps
        self.trainer = DiffusionTrainer(config, pairs)
        # Runs are planned by time here: a share of the steps, which on small pictures are cheap, as one of the time
        work = config.progressive_resizing * self.trainer.small_price
        share = work / (work + 1 - config.progressive_resizing)
        self.trainer.config = dataclasses.replace(self.trainer.config, progressive_resizing=share)
        # ... so steps are counted by their time already, and none is to count less for the learning rate
        self.trainer.small_price = 1.0
        self.batch = config.batch_size * config.accumulate
        self.defaults = GenerateConfig("", "")

    @property
    def total_steps(self) -> int:
        return self.trainer.total_steps

    @total_steps.setter
    def total_steps(self, total: int) -> None:
        self.trainer.total_steps = total
        warmup = cut_warmup(self.warmup, total)
        self.trainer.config = dataclasses.replace(self.trainer.config, warmup_steps=warmup)

    def train_step(self, step: int) -> dict[str, float]:
        # Numbers, not tensors on a device: reading them is waiting for the step
        return {name: float(value) for name, value in self.trainer.train_step(step).items()}

    def modules(self) -> nn.Module:
        return self.trainer.denoiser

    @property
    def codec(self) -> PairCodec:
        return self.trainer.codec

    def call(self, count: int) -> None:
        device, size = self.trainer.device, self.setting.size
        x = torch.zeros(count, 2, size, size, device=device)
        # Levels as training samples them: at high noise a pair costs less
        sigma = sample_sigma(count, self.trainer.config.diffusion, generator(self.setting.seed, SAMPLE)).to(device)
        cond = Condition(torch.zeros(count, dtype=torch.long, device=device))
        with torch.inference_mode(), autocast(device, self.setting.precision):
            self.trainer.ema.model(x, sigma, cond)

    def sample(
        self, labels: Tensor, key: tuple[int, ...], calls: int, sampler: str | None = None, sigmas: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `generate` does by default, in at most `calls`; or by `sampler` at the levels `sigmas` (T + 1, 2)."""
        model: Denoiser = self.trainer.ema.model
        defaults, guidance, sigma_scale = self.defaults, NONE, 1.0
        if sigmas is None:
            guidance = default_guidance(self.trainer.config.diffusion)
            sigma_scale = defaults.sigma_scale
            walks = (
                sigma_table("joint", self.trainer.config.diffusion, n) for n in range(min(calls, defaults.steps), 1, -1)
            )
            sigmas = next(walk for walk in walks if guidance.calls(walk) <= calls)
        shape = (len(labels), 2, self.setting.size, self.setting.size)

        def noise(step: int) -> Tensor:
            return torch.randn(shape, generator=generator(self.setting.seed, *key, step, SAMPLE))

        with autocast(self.trainer.device, self.setting.precision):
            return sample_pairs(
                model, self.codec, labels, sigmas, noise, sampler=sampler or defaults.sampler, guidance=guidance,
                sigma_scale=sigma_scale,
            )  # fmt: skip

    def save(self, path: Path, step: int) -> None:
        """With the average that does best on val, where the settings keep several: the choice belongs to the recipe."""
        trainer = self.trainer
        if len(trainer.ema.lengths) > 1:
            trainer.ema.choose(lambda model: trainer.validator.val_losses(model)["val_loss"])
        save_checkpoint(path, trainer.ema.model.state_dict(), trainer.card(step))

    def load(self, path: Path) -> None:
        self.trainer.ema.model.load_state_dict(load_file(path))


_read: dict[tuple[Path, int], SampleTensors] = {}


def train_set(pairs: SampleSet, size: int) -> SampleTensors:
    """The train split at `size` x `size`, read once for all peers."""
    if (pairs.root, size) not in _read:
        _read[pairs.root, size] = load_tensors(pairs.select("train"), size, what="train split")
    return _read[pairs.root, size]


class PeerArm:
    """A peer, trained as its documentation does, on the samples that our trainer would see."""

    flop_pairs = 1

    def __init__(self, name: str, setting: Setting, pairs: SampleSet) -> None:
        self.recipe, self.setting, self.total_steps = PEERS[name][0], setting, UNPLANNED
        self.device = choose_device(setting.device)
        self.train_set = train_set(pairs, setting.size).to(self.device)
        self.labels = self.train_set.labels.cpu()  # by which rows are sampled
        self.batch = setting.batch or self.recipe.batch_at(setting.size)
        self.part = min(setting.part, self.batch)
        torch.manual_seed(generator(setting.seed, WEIGHTS).initial_seed())
        self.peer: Peer = build_peer(name, setting.size, len(pairs.classes)).to(self.device)
        weights, recipe = self.peer.network.parameters(), self.recipe
        if recipe.weight_decay is None:
            self.optimiser: torch.optim.Optimizer = torch.optim.Adam(weights, lr=recipe.lr, betas=recipe.betas)
        else:
            decay = recipe.weight_decay
            self.optimiser = torch.optim.AdamW(weights, lr=recipe.lr, betas=recipe.betas, weight_decay=decay)
        self.ema: Any = None
        if recipe.ema is not None:
            from ema_pytorch import EMA  # what the library's own Trainer averages with

            self.ema = EMA(self.peer.network, beta=recipe.ema, update_every=10, include_online_model=False)

    def lr_at(self, step: int) -> float:
        """The documented rate: constant, or warm-up and cosine decay that ends with the budget."""
        if self.recipe.warmup is None:
            return self.recipe.lr
        warmup = cut_warmup(self.recipe.warmup, self.total_steps)
        if step < warmup:
            return self.recipe.lr * step / warmup
        progress = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def _channels(self, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        rows = sample_indices(self.labels, step * self.batch + first, count, self.setting.seed, True)
        images, masks, labels = self.train_set.batch(send(rows, self.device))
        images, masks = augment(images, masks, self.recipe.augment, generator(self.setting.seed, step, first, AUGMENT))
        return torch.cat([images, masks], dim=1) * 2 - 1, labels

    def train_step(self, step: int) -> dict[str, float]:
        """One optimiser step over the batch, computed in parts."""
        self.peer.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr_at(step)
        total = 0.0
        for first in range(0, self.batch, self.part):
            count = min(self.part, self.batch - first)
            x0, labels = self._channels(step, first, count)
            torch.manual_seed(generator(self.setting.seed, step, first, NOISE).initial_seed())
            with autocast(self.device, self.setting.precision):
                loss = self.peer.loss(x0, labels)
            (loss * (count / self.batch)).backward()
            total += float(loss.detach()) * count / self.batch
        if self.recipe.clip is not None:
            clip_grad_norm_(self.peer.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        return {"loss": total}

    def modules(self) -> nn.Module:
        return self.peer.network

    def call(self, count: int) -> None:
        x = torch.zeros(count, 2, self.setting.size, self.setting.size, device=self.device)
        t = torch.full((count,), 500, device=self.device)
        with torch.inference_mode(), autocast(self.device, self.setting.precision):
            self.peer.eval().call(x, t, torch.zeros(count, dtype=torch.long, device=self.device))

    def sample(self, labels: Tensor, key: tuple[int, ...], calls: int) -> tuple[Tensor, Tensor]:
        """With the library's quick sampler."""
        torch.manual_seed(generator(self.setting.seed, *key, SAMPLE).initial_seed())
        self.peer.eval()
        with torch.inference_mode(), autocast(self.device, self.setting.precision):
            x = self.peer.sample(labels.to(self.device), self.setting.size, calls).float().cpu()
        image, mask = ((x + 1) / 2).clamp(0, 1).split(1, dim=1)
        return (image * 255).round().to(torch.uint8), (mask > 0.5).to(torch.uint8) * 255

    def save(self, path: Path, step: int) -> None:
        """The averaged weights, once averaging has begun: until then they are a copy that is up to ten steps old."""
        averages = self.ema is not None and step > self.ema.update_after_step
        network = self.ema.ema_model if averages else self.peer.network
        save_file({name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        self.peer.network.load_state_dict(load_file(path))


def build_arm(name: str, setting: Setting, pairs: SampleSet) -> Arm:
    """A fresh arm. Raises ImportError where a library is not installed."""
    return OurArm(setting, pairs) if name == OURS else PeerArm(name, setting, pairs)


def cut_warmup(documented: int, total: int) -> int:
    """Steps of warm-up: as documented, or fewer where they would take more than `WARMUP_SHARE` of a run."""
    return max(1, min(documented, round(WARMUP_SHARE * total)))


def train_for(arm: Arm, seconds: float, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Train for so many seconds of steps: after each the number of steps is set from the time that steps take.

    So the schedule ends with the budget, and a run ends at the step that comes nearest to it.
    """
    started, step, loss = clock(), 0, math.nan
    arm.total_steps = UNPLANNED
    while step < arm.total_steps:
        loss = arm.train_step(step)["loss"]
        step += 1
        if not math.isfinite(loss):
            break
        arm.total_steps = max(step, round(seconds * step / max(clock() - started, 1e-9)))
    spent = clock() - started
    return {"steps": step, "seconds": spent, "loss": loss, "pairs_seen": step * arm.batch}
