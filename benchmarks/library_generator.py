"""Networks of other libraries as generators: their training, their checkpoints, and what phase 3 asks them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from library_networks import LIBRARIES, LibraryNetwork, build_library
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import load_tensors
from medsegdiff.data.records import SampleSet
from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import augment
from medsegdiff.engine.device import autocast, send
from medsegdiff.engine.files import write_bytes
from medsegdiff.engine.rng import generator
from medsegdiff.generators.base import GENERATORS, Arrays, GeneratorCard, Request, Task, opened, settings_of

KIND = "benchmarks.library"
GENERATORS[KIND] = __name__  # the row
WARMUP_SHARE = 0.1  # a documented warm-up is cut to this share of the steps that a budget has room for
WEIGHTS, AUGMENT, NOISE, SAMPLE = 31, 32, 33, 34  # purpose numbers of the random streams


@dataclass(frozen=True)
class LibrarySettings:
    """Settings of sampling."""

    steps: int = 20  # network calls


@dataclass(frozen=True)
class LibraryGenerator:
    """A trained network of a library."""

    library: LibraryNetwork
    card: GeneratorCard
    own: LibrarySettings
    device: torch.device | str
    precision: str
    tasks: frozenset[Task] = frozenset({"joint"})

    def settings(self, task: Task) -> dict[str, Any]:
        """Network calls a sample."""
        return dataclasses.asdict(self.own)

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], attempt: int) -> list[Arrays]:
        """With the library's quick sampler, one at a time: its chance is torch's global one."""
        found: list[Arrays] = []
        for request in requests:
            torch.manual_seed(generator(*request.seed, attempt, SAMPLE).initial_seed())
            label = torch.tensor([self.card.classes.index(str(request.conditions["label"]))], device=self.device)
            with autocast(torch.device(self.device), self.precision):
                x = self.library.draw(label, self.card.img_size, self.own.steps).float().cpu()
            image, mask = ((x[0] + 1) / 2).clamp(0, 1).numpy()
            found.append({"image": (image * 255).round().astype(np.uint8), "mask": (mask > 0.5).astype(np.uint8) * 255})
        return found


def load(
    path: Path, settings: Mapping[str, Any], device: torch.device | str, precision: str, batch_size: int
) -> LibraryGenerator:
    """The generator of a checkpoint of `LibraryTrainer.save`."""
    with opened(path) as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    values = json.loads(metadata["card"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    card = GeneratorCard(kind=KIND, digest=digest, arrays=ArraySpec(), **values)
    library = build_library(metadata["library"], card.img_size, len(card.classes))
    library.network.load_state_dict(weights)
    own = settings_of(LibrarySettings, settings, LIBRARIES[metadata["library"]][0].title)
    return LibraryGenerator(library.eval().to(device), card, own, device, precision)


class LibraryTrainer:
    """A network trained as its documentation does, on the samples that our trainer would see."""

    flop_pairs = 1  # pairs of a call over which operations are averaged

    def __init__(
        self, name: str, pairs: SampleSet, size: int, precision: str, device: torch.device, batch: int | None = None,
        part: int = 4, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name, self.size, self.precision, self.device, self.seed = name, size, precision, device, seed
        self.pairs, self.total_steps = pairs, 10**9
        self.recipe = LIBRARIES[name][0]
        self.train_set = load_tensors(pairs.select("train"), size, what="train split").to(device)
        self.labels = self.train_set.labels.cpu()  # by which rows are sampled
        self.batch = batch or self.recipe.batch_at(size)
        self.part = min(part, self.batch)
        torch.manual_seed(generator(seed, WEIGHTS).initial_seed())
        self.library = build_library(name, size, len(pairs.classes)).to(device)
        weights, decay = self.library.network.parameters(), self.recipe.weight_decay
        shared: dict[str, Any] = {"lr": self.recipe.lr, "betas": self.recipe.betas}
        kind = torch.optim.Adam if decay is None else torch.optim.AdamW
        self.optimiser: Any = kind(weights, **shared, **({} if decay is None else {"weight_decay": decay}))
        self.ema: Any = None
        if self.recipe.ema is not None:
            from ema_pytorch import EMA  # what the library's own Trainer averages with

            self.ema = EMA(self.library.network, beta=self.recipe.ema, update_every=10, include_online_model=False)

    @property
    def network(self) -> torch.nn.Module:
        """What has the weights."""
        return self.library.network

    def lr_at(self, step: int) -> float:
        """The documented rate: constant, or warm-up and cosine decay that ends with the budget."""
        if self.recipe.warmup is None:
            return self.recipe.lr
        warmup = cut_warmup(self.recipe.warmup, self.total_steps)
        if step < warmup:
            return self.recipe.lr * step / warmup
        progress = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def channels(self, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Clean channels and classes of a part of the batch of a step."""
        rows = sample_indices(self.labels, step * self.batch + first, count, self.seed, True)
        images, masks, labels = self.train_set.batch(send(rows, self.device))
        images, masks = augment(images, masks, self.recipe.augment, generator(self.seed, step, first, AUGMENT))
        return torch.cat([images, masks], dim=1) * 2 - 1, labels

    def train_step(self, step: int) -> float:
        """One optimiser step over the batch, computed in parts; the loss."""
        self.library.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr_at(step)
        total = 0.0
        for first in range(0, self.batch, self.part):
            count = min(self.part, self.batch - first)
            x0, labels = self.channels(step, first, count)
            torch.manual_seed(generator(self.seed, step, first, NOISE).initial_seed())
            with autocast(self.device, self.precision):
                loss = self.library.loss(x0, labels)
            (loss * (count / self.batch)).backward()
            total += float(loss.detach()) * count / self.batch
        if self.recipe.clip is not None:
            clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        return total

    @torch.inference_mode()
    def call(self, count: int) -> None:
        """One network call for `count` pairs."""
        x = torch.zeros(count, 2, self.size, self.size, device=self.device)
        t = torch.full((count,), 500, device=self.device)
        with autocast(self.device, self.precision):
            self.library.eval().call(x, t, torch.zeros(count, dtype=torch.long, device=self.device))

    def save(self, path: Path, step: int) -> None:
        """A checkpoint, with averaged weights once averaging has begun: until then they are ten steps old."""
        averages = self.ema is not None and step > self.ema.update_after_step
        network = self.ema.ema_model if averages else self.network
        records, classes = self.train_set.records, self.pairs.classes
        aspects = {c: [r.width * r.pixel_aspect / r.height for r in records if r.label == c] for c in classes}
        hashes = [{"image_hash": r.image_hash, "perceptual_hash": r.perceptual_hash} for r in records]
        card = {"img_size": self.size, "classes": classes, "lesion_classes": classes, "conditions": [],
                "aspects": aspects, "train_hashes": hashes, "step": step}  # fmt: skip
        weights = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
        write_bytes(path, save(weights, {"kind": KIND, "library": self.name, "card": json.dumps(card)}))


def cut_warmup(documented: int, total: int) -> int:
    """Steps of warm-up: as documented, or fewer where they would take more than `WARMUP_SHARE` of a run."""
    return max(1, min(documented, round(WARMUP_SHARE * total)))
