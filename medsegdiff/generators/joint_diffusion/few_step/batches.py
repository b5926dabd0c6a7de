"""Pairs of a step of few-step training: which levels, what is known, and what the network itself has begun."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from medsegdiff.conditioning.base import Conditions, encode, hide, rows_of
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.sampling import sample_indices
from medsegdiff.data.transforms import GENERATIVE, augment
from medsegdiff.engine.device import autocast, send
from medsegdiff.engine.rng import generator
from medsegdiff.generators.joint_diffusion.checkpoint import ModelCard
from medsegdiff.generators.joint_diffusion.codec import encode_sdf
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, expand_levels
from medsegdiff.generators.joint_diffusion.few_step.config import FewStepConfig
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK
from medsegdiff.generators.joint_diffusion.run import FINER

AUGMENT, LEVELS, NOISE = 31, 32, 33  # purpose numbers of random streams
LARGEST_WEIGHT = 25.0  # of the squared error: at low noise there is one right answer, and many chances to blur
KNOWN_WEIGHT = 1.0  # least weight of a mask whose image is known


@dataclass(frozen=True)
class Batch:
    """A step's pairs; those that are seen smaller come first."""

    noisy: Tensor  # (B, C, S, S)
    real: Tensor  # (B, C, S, S) what estimates should look like
    real_noisy: Tensor  # (B, C, S, S) a noisy version of it
    sigma: Tensor  # (B, M)
    level: Tensor  # (B,) row of the table of levels
    kind: Tensor  # (B,) class; of those seen smaller, class + number of classes
    cond: Conditions
    own: Tensor  # (B,) neither modality is known, and all of it began with noise alone
    weight: Tensor  # (B, M) of the squared error; 0 where there is no right answer: of what the network itself began


class Batches:
    """Makes batches of a train split that was read at twice the size of the network, on its device."""

    def __init__(self, config: FewStepConfig, card: ModelCard, denoiser: Denoiser, train: SampleTensors) -> None:
        self.config, self.denoiser, self.codec, self.classes = config, denoiser, card.codec, card.classes
        self.train_set = dataclasses.replace(train, masks=encode_sdf(train.masks, self.codec.sdf_truncation * FINER))
        self.device = next(denoiser.parameters()).device
        self.resident: SampleTensors = self.train_set.to(self.device)
        self.known = encode(card.conditions, [vars(record) for record in self.train_set.records])
        self.conditions = [c for c in card.conditions if c.name in self.known]
        self.levels = torch.tensor(config.sigmas)
        low_res = denoiser.low_res
        self.small_levels = 0 if low_res is None else int((self.levels >= low_res.sigma).sum())

    def rows(self, step: int) -> Tensor:
        """(B,) rows of the train split that a step sees."""
        count = self.config.batch_size
        labels, balanced = self.train_set.labels, self.config.balance_classes
        return sample_indices(labels, step * count, count, self.config.seed, balanced)

    def _level_rows(self, smaller: int, random: torch.Generator) -> Tensor:
        """(B,) numbers of levels: of those seen smaller many at the first one, the others at all alike."""
        n, own = self.config.batch_size, self.small_levels
        anywhere = torch.rand(n, generator=random)
        first = torch.rand(n, generator=random) < self.config.share_first
        low = torch.where(first | (own < 2), 0, 1 + (anywhere * (own - 1)).long())
        high = own + (anywhere * (len(self.levels) - own)).long()
        return torch.where(torch.arange(n) < smaller, low, high)

    def _smaller(self) -> int:
        """How many pairs of a batch are seen smaller: where there are levels of both sizes, one of each at least."""
        n = self.config.batch_size
        if self.small_levels in (0, len(self.levels)):
            return n if self.small_levels else 0
        return min(max(n - round(self.config.full_share * n), 1), n - 1)

    def make(self, step: int) -> Batch:
        """The pairs of a step; the denoiser makes the noisy ones of its own."""
        config, n, smaller = self.config, self.config.batch_size, self._smaller()
        random = generator(config.seed, step, LEVELS)
        rows = self.rows(step)[torch.randperm(n, generator=random)]  # or the same classes would be seen smaller
        images, masks, labels = self.resident.batch(send(rows, self.device))
        images, masks = augment(images, masks, GENERATIVE, generator(config.seed, step, AUGMENT))
        small, small_masks = avg_pool2d(images, FINER), avg_pool2d(masks, FINER)
        x0 = self.codec.encode(small, small_masks)
        level = self._level_rows(smaller, random)
        table = self._tables(torch.rand(n, generator=random))
        sigma = table[torch.arange(n), level]
        simulated = (torch.rand(n, generator=random) < config.share_simulated) & (level > 0)
        image_known = (sigma[:, IMAGE] == 0) & (sigma[:, MASK] > 0)
        cond = {}
        for c in self.conditions:
            values = c.thinned(c.seen(self.known[c.name][rows], small, small_masks), random)
            cond[c.name] = send(hide(values, ~image_known), self.device)
        count = 2 + len(self.levels)
        noises = torch.randn((count, *x0.shape), generator=generator(config.seed, step, NOISE)).to(self.device)
        start = self._simulated(x0, torch.where(simulated, level, 0), table, cond, noises[2:])
        weight = config.regression_weight * torch.where(sigma > 0, 1 / sigma.square(), 0.0).clamp(max=LARGEST_WEIGHT)
        weight[simulated] = 0
        weight[image_known, MASK] = weight[image_known, MASK].clamp(min=KNOWN_WEIGHT)
        own = ((level == 0) | simulated) & (sigma > 0).all(dim=1)
        sigma = send(sigma, self.device)
        by_channel = expand_levels(sigma, self.denoiser.modality, x0.ndim)
        return Batch(
            start + by_channel * noises[0],
            self._without_detail(x0, sigma, smaller),
            x0 + by_channel * noises[1],
            sigma,
            send(level, self.device),
            labels + send(torch.arange(n) < smaller, self.device) * len(self.classes),
            cond,
            send(own, self.device),
            send(weight, self.device),
        )

    def _tables(self, chance: Tensor) -> Tensor:
        """(B, levels, M) levels from first to last: alike for most, with one modality known, or the image hidden."""
        config = self.config
        table = self.levels[None, :, None].repeat(len(chance), 1, 2)
        edges = torch.tensor([config.share_mask_clean, config.share_image_clean, config.share_image_hidden]).cumsum(0)
        table[chance < edges[0], :, MASK] = 0
        table[(chance >= edges[0]) & (chance < edges[1]), :, IMAGE] = 0
        table[(chance >= edges[1]) & (chance < edges[2]), :, IMAGE] = self.levels[0]
        return table

    @torch.no_grad()
    def _simulated(self, x0: Tensor, calls: Tensor, table: Tensor, cond: Conditions, noises: Tensor) -> Tensor:
        """x0, and what the network itself makes of noise in `calls` (B,) calls, where those are any.

        Sampling gives it that (Yin et al., NeurIPS 2024, DMD2): of one call alone, after a real picture, nobody would
        judge the errors that add up over all of them.
        """
        found = x0.clone()
        for number in range(int(calls.max())):
            rows = torch.nonzero(calls > number).flatten()
            sigma, own = send(table[rows, number], self.device), send(rows, self.device)
            noisy = found[own] + expand_levels(sigma, self.denoiser.modality, x0.ndim) * noises[number, own]
            with autocast(self.device, self.config.precision):
                estimate = self.denoiser(noisy, sigma, rows_of(cond, own))
            found = found.index_copy(0, own, estimate.float())
        return found

    def _without_detail(self, x0: Tensor, sigma: Tensor, smaller: int) -> Tensor:
        """Pairs as estimates of the first `smaller` ones can be: without the finest detail, but for what is known."""
        low_res = self.denoiser.low_res
        if low_res is None or not smaller:
            return x0
        coarse = low_res.enlarged(low_res.reduced(x0[:smaller]))
        known = expand_levels(sigma[:smaller], self.denoiser.modality, x0.ndim) == 0
        return torch.cat([torch.where(known, x0[:smaller], coarse), x0[smaller:]])
