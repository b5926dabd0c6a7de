"""An embedding in which a copy lies next to its original, however it was mirrored, moved or brightened.

Learnt without labels, by contrast (NT-Xent: Chen et al. 2020, "A simple framework for contrastive learning of visual
representations", eq. 1): two altered views of one picture have to be nearer to each other than to views of all others
of the batch. Near-duplicates of a picture (its group) are no counterexamples. As in Pizzi et al. 2022 ("A
self-supervised descriptor for image copy detection", section 4.2) the nearest others are also pushed apart, which
spreads the pictures evenly, so that one limit of similarity suits all of them.

A network knows the pictures that it learnt better than others, and finds similarity to them where there is none. So no
train picture is evaluated by a network that learnt it: two are learnt, each from half of the train pictures, and score
the other half (cross-fitting: Chernozhukov et al. 2018, "Double/debiased machine learning", definition 3.1). Held-out
pictures, which neither has learnt, are dealt to the two in the same way. What such a pair says depends on the halves
and on chance in training, so several pairs of other halves are learnt, and their similarities averaged (after the idea
of section 3.4 there, which averages estimates).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import AugmentConfig, augment
from medsegdiff.downstream.weights import load_weights, save_weights
from medsegdiff.engine.device import choose_device
from medsegdiff.engine.loop import LoopConfig, lr_factor, run_loop
from medsegdiff.engine.optimise import Optimisation
from medsegdiff.engine.rng import generator
from medsegdiff.engine.run_folder import Fingerprint, Kind, RunFolder
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy.neighbours import limit_of
from medsegdiff.evaluation.privacy.planted import KINDS, altered
from medsegdiff.evaluation.privacy.rules import CURRENT
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModel
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.bootstrap import mean_interval

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "best_model.safetensors"
RECIPE = CURRENT.embedding_recipe  # of what decides the weights below: kept embeddings are of one recipe
PARTS = 2  # of the train pictures; the network that scores one has learnt the others
REPEATS = 4  # deals of the pictures to parts, each with networks of its own
SIDE = 64  # of the pictures that the network sees, pixels
FEATURES = 128
CHANNELS = (24, 48, 96)
BATCH, CHUNK = 48, 256  # pictures of a step (two views each); pictures embedded together
LR, WARMUP, WEIGHT_DECAY = 2e-3, 50, 1e-4
TEMPERATURE = 0.1
SPREAD = 0.3  # weight of the term that pushes the nearest others apart
NOISE = 0.06  # largest standard deviation of additive noise, grey values of 1
INITIAL, VIEWS, GRAIN, DEAL = 1, 2, 3, 4  # purposes of random numbers
EVALS, SAVE_EVERY = 4, 100
# What a copy may have gone through. Beyond what is planted, so that the controls are not at the edge of what was learnt
VIEW = AugmentConfig(
    zoom_out=0.1, zoom_in=0.3, aspect=0.1, rotate=5.0, shift=0.05, gamma=0.5, gain=0.3, speckle=0.4, blur=0.3
)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016); halves the picture."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs, S/2, S/2) of (B, inputs, S, S)."""
        y = self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))
        return torch.relu(y + self.shortcut(nn.functional.avg_pool2d(x, 2)))


class EmbeddingNet(nn.Module):
    """(B, 1, 64, 64) grey pictures, in any units, to (B, F) vectors of length 1.

    Every picture is evened to mean 0 and standard deviation 1, so that brightness and contrast do not count; where
    things stand does (the last maps are not averaged to one number).
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, features: int = FEATURES) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels[0], 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        pairs = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairs))
        self.head = nn.Linear(channels[-1] * (SIDE // 2 ** (len(channels) + 1)) ** 2, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) vectors of length 1."""
        spread, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
        x = (x - mean) / spread.clamp(min=1e-2)  # a constant picture must not divide by zero
        return normalize(self.head(self.blocks(self.stem(x)).flatten(1)), dim=1)


class CrossEmbedding(nn.Module):
    """Networks of which number repeat * `PARTS` + k scores part k of that deal, and has learnt nothing of it."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)


def parts_of(groups: np.ndarray, repeat: int) -> np.ndarray:
    """(N,) which of the `PARTS` a picture belongs to: whole `groups` (N,) in random order, each to the smallest part.

    The same groups are always dealt in the same way, so that what was learnt need not be written down; every `repeat`
    deals them anew.
    """
    parts, sizes = np.zeros(len(groups), int), np.zeros(PARTS, int)
    for group in np.random.default_rng([DEAL, repeat]).permutation(np.unique(groups)):
        rows = np.flatnonzero(groups == group)
        parts[rows] = smallest = int(sizes.argmin())
        sizes[smallest] += len(rows)
    return parts


def contrast_loss(first: Tensor, second: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views (B, F) of length 1; pictures of the same `groups` (B,) number are no counterexamples."""
    views, group = torch.cat([first, second]), groups.repeat(2)
    count = len(first)
    logits = views @ views.T / temperature
    partner = torch.arange(2 * count, device=views.device).roll(count)
    own = logits.gather(1, partner[:, None])
    others = logits.masked_fill(group[:, None] == group[None], -torch.inf)
    return (torch.logsumexp(torch.cat([own, others], dim=1), dim=1) - own[:, 0]).mean()


def spread_loss(first: Tensor, second: Tensor, groups: Tensor) -> Tensor:
    """Mean negative log distance to the nearest view of another group (Sablayrolles et al. 2019, KoLeo, eq. 1)."""
    views, group = torch.cat([first, second]), groups.repeat(2)
    alike = (views @ views.T).masked_fill(group[:, None] == group[None], -1.0)
    nearest = alike.max(dim=1).values
    return -0.5 * torch.log((2 - 2 * nearest).clamp(min=1e-4)).mean()


class EmbeddingTrainer:
    """The trainer that `run_loop` drives. All chance depends on (seed, step, purpose) only.

    It learns from the real train pictures; `held_out` only says how well the embedding does, and decides nothing.
    """

    def __init__(self, train: Pairs, held_out: Pairs, steps: int, seed: int, device: torch.device) -> None:
        self.images = small(train.images)
        self.groups = torch.from_numpy(np.unique(train.groups, return_inverse=True)[1])
        deals = [torch.from_numpy(parts_of(train.groups, repeat)) for repeat in range(REPEATS)]
        self.learnt = [torch.nonzero(parts != part).flatten() for parts in deals for part in range(PARTS)]  # rows
        self.train, self.held_out = train, held_out
        self.steps, self.seed, self.device = steps, seed, device
        torch.manual_seed(generator(seed, INITIAL).initial_seed())
        model = CrossEmbedding([EmbeddingNet() for _ in self.learnt])
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        self.optimisation = Optimisation(self.model, optimiser)

    def views(self, rows: Tensor, step: int, number: int) -> Tensor:
        """(B, 1, 64, 64) altered copies, number `number` of the step, of the train pictures of `rows` (B,)."""
        images = self.images[rows]
        images, _ = augment(images, torch.zeros_like(images), VIEW, generator(self.seed, step, number, VIEWS))
        random = generator(self.seed, step, number, GRAIN)
        strength = NOISE * torch.rand(len(rows), 1, 1, 1, generator=random)
        return (images + strength * torch.randn(images.shape, generator=random)).to(self.device)

    def train_step(self, step: int) -> dict[str, float]:
        """One optimiser step of every network on two views each of `BATCH` pictures; step counts from 0."""
        reported: list[dict[str, float]] = []
        numbers = [number for number, learnt in enumerate(self.learnt) if len(learnt)]

        def loss(part: int) -> Tensor:
            found, scalars = self._loss(numbers[part], step)
            reported.append(scalars)
            return found

        self.optimisation.step(step, LR * lr_factor(step, WARMUP, self.steps), loss, parts=len(numbers))
        return {name: float(np.mean([one[name] for one in reported])) for name in ("loss", "contrast")}

    def _loss(self, number: int, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of network `number`, from pictures of the parts that it does not score; means over the batch."""
        learnt = self.learnt[number]
        rows = learnt[sample_indices(torch.zeros(len(learnt)), step * BATCH, BATCH, self.seed, balanced=False)]
        batch = torch.cat([self.views(rows, step, 2 * number + view) for view in (0, 1)])
        first, second = self.model.nets[number](batch.contiguous(memory_format=torch.channels_last)).chunk(2)
        groups = self.groups[rows].to(self.device)
        contrast, spread = contrast_loss(first, second, groups, TEMPERATURE), spread_loss(first, second, groups)
        loss = contrast + SPREAD * spread
        return loss, {"loss": float(loss.detach()), "contrast": float(contrast.detach())}

    def evaluate(self, step: int) -> dict[str, float]:
        """How many altered copies of held-out pictures it finds so far."""
        found = copies_found(self.model.eval(), self.held_out, self.train, self.seed, self.device)
        return {"held_out/found": float(found.mean())}

    def finished(self) -> bool:
        """The number of steps is fixed by the settings."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"model": self.model.state_dict(), **self.optimisation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimisation.load_state_dict(state)


def small(images: np.ndarray) -> Tensor:
    """(N, 1, 64, 64) float32 grey values in [0, 1] of (N, S, S) uint8 pictures; shrinking averages pixels."""
    grey = torch.from_numpy(np.ascontiguousarray(images))[:, None].float() / 255
    return interpolate(grey, size=SIDE, mode="area")


@torch.no_grad()
def embed(net: nn.Module, images: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, F) float32 vectors of length 1 of (N, S, S) uint8 pictures; their scalar product is the similarity.

    `net` is one network, in evaluation mode on `device`.
    """
    parts = [net(small(images[i : i + CHUNK]).to(device)).cpu().numpy() for i in range(0, len(images), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, FEATURES), np.float32)


def similarities(model: CrossEmbedding, images: np.ndarray, real: Pairs, device: torch.device) -> np.ndarray:
    """(N, K) similarity of (N, S, S) uint8 pictures to K `real` ones, -1 to 1: the larger one of as it is and mirrored.

    `real` are all the train pictures or all the held-out ones. Each is compared by the network of every deal that
    scores its part, and the mean is reported.
    """
    return np.asarray(
        np.mean([similarities_of_deal(model, repeat, images, real, device) for repeat in range(REPEATS)], axis=0)
    )


def similarities_of_deal(
    model: CrossEmbedding, repeat: int, images: np.ndarray, real: Pairs, device: torch.device
) -> np.ndarray:
    """`similarities` by the networks of one deal."""
    found, parts = np.empty((len(images), len(real.images)), np.float32), parts_of(real.groups, repeat)
    for part in np.unique(parts):
        net, own = model.nets[repeat * PARTS + part], parts == part
        target = embed(net, real.images[own], device)
        both = [embed(net, turned, device) @ target.T for turned in (images, images[:, :, ::-1])]
        found[:, own] = np.maximum(*both)
    return found


def copies_found(model: CrossEmbedding, held_out: Pairs, train: Pairs, seed: int, device: torch.device) -> np.ndarray:
    """(N,) 1 where an altered copy of a held-out picture is known for one, else 0.

    That is: where it is more alike to the original than 95 % of held-out pictures are to any train picture. (That no
    other real picture is nearer says little: networks that have learnt nothing reach that for nearly all copies.) Each
    picture is altered in one of the planted `KINDS`, in turn; exact copies, which any network finds, are left out.
    """
    kinds = [kind for kind in KINDS if kind != "exact"]
    copies = np.empty_like(held_out.images)
    for number, kind in enumerate(kinds):
        copies[number :: len(kinds)] = altered(held_out.images[number :: len(kinds)], kind, seed)
    limit = limit_of(similarities(model, held_out.images, train, device))
    return np.asarray(np.diag(similarities(model, copies, held_out, device)) > limit, dtype=float)


def load_embedding(path: Path) -> tuple[CrossEmbedding, dict[str, Any]]:
    """The networks of a file, in evaluation mode on the CPU, and its settings.

    Raises `UserError` where the file is missing, broken, or holds something else.
    """
    weights, settings = load_weights(path)
    model = CrossEmbedding([EmbeddingNet() for _ in range(REPEATS * PARTS)])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(path, "weights of another network", "those of an embedding", "Delete the file.") from error
    return model.eval().requires_grad_(False), settings


def _made_by(weights: Path) -> Fingerprint:
    return dict(load_embedding(weights)[1].get("config") or {})


KIND = Kind(WEIGHTS_FILE, "an embedding", "a folder for an embedding", read=_made_by)


def fit_embedding(
    config: EvaluateConfig, train: Pairs, held_out: Pairs, folder: Path, fingerprint: dict[str, Any]
) -> ReferenceModel:
    """The embedding of the real train pictures, trained in `folder` unless weights of this `fingerprint` are there.

    An interrupted training goes on, and one that another process is at is waited for. Raises `UserError` where one of
    another fingerprint was interrupted there.
    """
    device, run = choose_device(config.device), RunFolder(folder, KIND, fingerprint)
    if not run.is_finished():  # asked before anything is written or locked: others may be using it
        with run.held(wait=True):
            if not run.is_finished():
                trainer = EmbeddingTrainer(train, held_out, config.embedding_steps, config.seed, device)
                loop = LoopConfig(run, config.embedding_steps, EVALS, SAVE_EVERY, BATCH, ("loss", "contrast"))
                run_loop(trainer, loop, "training embedding")
                save_weights(run.sign, trainer.model.state_dict(), {"config": fingerprint, "side": SIDE})
    run.tidy()  # only now is there nothing left to resume
    model, settings = load_embedding(run.sign)
    found = copies_found(model.to(device), held_out, train, config.seed, device)
    quality = mean_interval(found, held_out.groups, config.bootstrap, config.seed)
    return ReferenceModel(
        "embedding", model, settings, "share of altered copies found", quality, CURRENT.embedding_finds
    )
