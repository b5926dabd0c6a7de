"""The joint diffusion model as a generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsegdiff.conditioning.base import Condition, encode, encode_seen
from medsegdiff.conditioning.encoded_text import EncodedText
from medsegdiff.data.dataset import SampleTensors, from_channels, with_mask_channel
from medsegdiff.engine.device import autocast
from medsegdiff.engine.progress import progress_bar
from medsegdiff.engine.rng import generator
from medsegdiff.errors import require
from medsegdiff.generators.base import (
    Arrays,
    Generator,
    GeneratorCard,
    Request,
    Task,
    batches,
    parse_weights,
    settings_of,
)
from medsegdiff.generators.joint_diffusion.checkpoint import KIND, ModelCard, load_checkpoint
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA, encode_sdf
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance
from medsegdiff.generators.joint_diffusion.inpainting import Given, inpaint, region_around
from medsegdiff.generators.joint_diffusion.loss import denoising_loss
from medsegdiff.generators.joint_diffusion.noise import hide_masks, highest_sigma, sigma_table
from medsegdiff.generators.joint_diffusion.samplers import Noise
from medsegdiff.generators.joint_diffusion.sampling import sample_masks, sample_pairs
from medsegdiff.generators.joint_diffusion.sampling_settings import SamplingSettings

TASKS: frozenset[Task] = frozenset({"joint", "mask_first", "mask_to_image", "image_to_mask", "inpaint", "remove"})
FEW_STEP_TASKS = TASKS - {"inpaint", "remove"}
IMAGE_TASKS: frozenset[Task] = frozenset({"text_to_image"})
REDRAWN = 8  # attempts after the first go in batches smaller by this: few masks are refused
SAMPLE = 21  # purpose number of the random streams of samples
LEVELS = (0.3, 1.0)  # noise, in standard deviations of the data: one that hides fine detail, one that hides outlines
FURTHER = 2.0  # ... and, where high noise is taken off smaller pictures, one so many times above where that begins
SCORED, SCORE_NOISE = 16, 2  # samples scored together; purpose number of their noise
UNUSED = {
    "image_to_mask": (
        *("mask_guidance", "guidance", "condition_guidance"), *("guidance_low", "guidance_high", "sigma_scale"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class JointDiffusion:
    """A loaded checkpoint and how to sample from it."""

    denoiser: Denoiser
    model_card: ModelCard
    card: GeneratorCard
    sampling: SamplingSettings  # settled
    precision: str  # autocast type
    batch_size: int  # samples computed together; decides pixels in their last bits
    guidance_model: Denoiser | None = None  # a less trained network, which guidance steers away from
    guidance_digest: str | None = None
    tasks: frozenset[Task] = TASKS

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.denoiser.modality.device

    def settings(self, task: Task) -> dict[str, Any]:
        """Settings of sampling, without those that a task makes no use of, and the digest of what guides."""
        unused = UNUSED.get(task, ())
        hint = "Give a weight such as 2, or leave --guidance_checkpoint out."
        wrong = task == "image_to_mask" and self.guidance_model is not None
        require(not wrong, "--guidance_checkpoint", f"mode {task}", "a mode that samples images", hint)
        values = {k: v for k, v in dataclasses.asdict(self.sampling).items() if k not in unused}
        del values["guidance_checkpoint"], values["text_encoder"]  # they count by their content
        if values.get("condition_guidance") is None:  # other folders are known by what they were known by
            values.pop("condition_guidance", None)
        return values | ({} if self.guidance_digest is None else {"guidance_sha256": self.guidance_digest})

    def sample(self, requests: Sequence[Request], attempt: int) -> list[Arrays]:
        """In batches of `batch_size`, padded: a sample does not depend on how many are asked for."""
        size = self.batch_size if attempt == 0 else max(1, self.batch_size // REDRAWN)
        found: list[Arrays] = []
        for count, batch in batches(requests, size):
            with autocast(self.device, self.precision):
                arrays = self._batch(batch, attempt)
            found += [{name: stack[row] for name, stack in arrays.items()} for row in range(count)]
        return found

    def _batch(self, batch: Sequence[Request], attempt: int) -> dict[str, np.ndarray]:
        """Arrays of requests of one task, stacked."""
        task, codec = batch[0].task, self.model_card.codec
        assert self.sampling.sampler is not None
        assert self.sampling.steps is not None
        card = self.model_card
        if task in ("inpaint", "remove"):
            return self._inpainted(batch, attempt)
        sigmas = sigma_table(task, card.diffusion, self.sampling.steps, card.few_step)
        noise, known = self._noise(batch, attempt), self._known(batch)
        if task == "image_to_mask":
            assert known is not None
            cond = encode(card.conditions, [r.conditions for r in batch])
            sampler = self.sampling.sampler
            masks, expected = sample_masks(self.denoiser, codec, known, sigmas, noise, cond, sampler=sampler)
            return {"mask": self._values(masks.to(torch.uint8) * 255), "expected_mask": expected.numpy()}
        images, masks = sample_pairs(
            self.denoiser,
            codec,
            encode(card.conditions, [r.conditions for r in batch]),
            sigmas,
            noise,
            sampler=self.sampling.sampler,
            guidance=self._guidance(batch),
            sigma_scale=self.sampling.sigma_scale,
            known=known,
        )
        arrays = {"image": np.stack([from_channels(i) for i in images.numpy()])}
        return arrays if task == "text_to_image" else arrays | {"mask": self._values(masks)}

    def _inpainted(self, batch: Sequence[Request], attempt: int) -> dict[str, np.ndarray]:
        """Arrays of requests that give an image, and may give a region or a mask; all of a batch give the same."""
        card, sampling = self.model_card, self.sampling
        assert sampling.sampler is not None
        assert sampling.steps is not None
        given = {name: torch.from_numpy(np.stack([r.given[name] for r in batch])) for name in batch[0].given}
        if batch[0].task == "remove":  # where a lesion was there is tissue, of which an empty mask says so
            given |= {"region": region_around(given["mask"]), "mask": torch.zeros_like(given["mask"])}
        images, masks = inpaint(
            self.denoiser,
            card.codec,
            encode(card.conditions, [r.conditions for r in batch]),
            card.diffusion,
            self._noise(batch, attempt),
            Given(given["image"], given.get("region"), given.get("mask")),
            steps=sampling.steps,
            sampler=sampling.sampler,
            guidance=self._guidance(batch),
        )
        return {"image": np.stack([from_channels(i) for i in images.numpy()]), "mask": self._values(masks)}

    def _guidance(self, batch: Sequence[Request]) -> Guidance:
        """As the settings say, away from what requests avoid."""
        avoided = encode(self.model_card.conditions, [r.avoided for r in batch])
        return dataclasses.replace(self.sampling.guide(self.guidance_model), avoided=avoided)

    def _values(self, masks: Tensor) -> np.ndarray:
        """(B, S, S) masks of pixel values of masks (B, K, S, S) in {0, 255}."""
        return np.stack([self.card.arrays.from_coverage(mask) for mask in masks.numpy()])

    def _noise(self, batch: Sequence[Request], attempt: int) -> Noise:
        """noise(step) -> (B, C, S, S): standard normal numbers of each request from its own counters, on the CPU."""
        shape = (len(self.model_card.codec.mean), self.card.img_size, self.card.img_size)

        def noise(step: int) -> Tensor:
            streams = [generator(*r.seed, attempt, step, SAMPLE) for r in batch]
            return torch.stack([torch.randn(shape, generator=stream) for stream in streams])

        return noise

    def _known(self, batch: Sequence[Request]) -> Tensor | None:
        """(B, C + K, S, S) channels of what is given, with 0 for the other modality, which the task samples."""
        if not batch[0].given:
            return None
        ((name, _),) = batch[0].given.items()
        stack, codec = torch.from_numpy(np.stack([r.given[name] for r in batch])), self.model_card.codec
        size = stack.shape[2:]
        images = masks = stack
        if name == "image":
            masks = torch.zeros(len(stack), len(codec.mean) - codec.image_channels, *size, dtype=torch.uint8)
        else:
            images = torch.zeros(len(stack), codec.image_channels, *size, dtype=torch.uint8)
        return codec.encode(images.float() / 255, encode_sdf(masks, codec.sdf_truncation).float() / 255)

    @torch.no_grad()
    def likelihood_score(self, samples: SampleTensors, seed: int) -> dict[str, np.ndarray]:
        """By noise level, in standard deviations of the data, minus the denoising loss of image and mask.

        A model that memorises removes noise from what it learnt better than from others (Matsumoto et al. 2023).
        """
        card = self.model_card
        samples = with_mask_channel(samples)
        masks = encode_sdf(samples.masks, card.codec.sdf_truncation)
        data = dataclasses.replace(samples, masks=masks)
        known = encode_seen(card.conditions, samples)
        levels = levels_of(card)
        scores = np.zeros((len(levels), len(data)))
        for rows in progress_bar(torch.arange(len(data)).split(SCORED), desc="membership", unit="batch", leave=False):
            images, masks, _ = data.batch(rows)
            x0 = card.codec.encode(images, masks).to(self.device)
            cond = {name: values[rows].to(self.device) for name, values in known.items()}
            for k, level in enumerate(levels):
                noise = torch.randn((1, *x0.shape[1:]), generator=generator(seed, k, SCORE_NOISE)).to(self.device)
                sigma = torch.full((len(rows), 2), level * SIGMA_DATA, device=self.device)
                if not card.arrays.foreground:
                    hide_masks(sigma, card.diffusion)
                with autocast(self.device, self.precision):
                    terms = denoising_loss(self.denoiser, x0, cond, sigma, noise.expand_as(x0), card.diffusion)
                terms = terms if card.arrays.foreground else terms[:, :1]
                scores[k, rows.numpy()] = -terms.float().sum(dim=1).cpu().numpy()
        return {str(level): scores[k] for k, level in enumerate(levels)}


def levels_of(card: ModelCard) -> tuple[float, ...]:
    """Noise levels of `likelihood_score`, in standard deviations of the data.

    One more where high noise is taken off smaller pictures: at that level the network is asked of such a picture.
    After few-step training those that were learnt, but for the first, which hides everything.
    """
    if card.few_step:
        return tuple(level / SIGMA_DATA for level in card.few_step[1:])
    if card.model.low_res_factor == 1:
        return LEVELS
    level = min(FURTHER * card.model.low_res_sigma, highest_sigma(card.diffusion))
    return (*LEVELS, level / SIGMA_DATA)


def load(
    path: Path, settings: Mapping[str, Any], device: torch.device | str, precision: str, batch_size: int
) -> Generator:
    """The generator of a checkpoint. Raises `UserError` for one, or settings, that cannot be used."""
    sampling = settings_of(SamplingSettings, settings, "joint diffusion")
    denoiser, card, digest = load_checkpoint(path)
    if sampling.text_encoder is not None:
        card = dataclasses.replace(card, conditions=_with_encoder(card.conditions, sampling.text_encoder))
    names = [c.name for c in card.conditions]
    by_class = sampling.guidance != 1 and sampling.guidance_checkpoint is None
    hint = "Give --guidance_checkpoint as well, or leave it out."
    known = "label" in names or not by_class
    require(known, "--guidance", f"a checkpoint of conditions {', '.join(names)}", "one that knows the class", hint)
    for name in parse_weights(sampling.condition_guidance):
        takes = f"a checkpoint of conditions {', '.join(names)}"
        require(name in names, "--condition_guidance", takes, f"one that takes {name}", "Leave it out.")
    shown = GeneratorCard(
        KIND, digest, card.img_size, card.arrays, card.classes, card.lesion_classes,
        [c.describe() for c in card.conditions], card.aspects, card.train_hashes, card.step, card.always_shown,
    )  # fmt: skip
    found = JointDiffusion(
        denoiser.to(device), card, shown, sampling.settled(card.diffusion, card.few_step), precision, batch_size,
        tasks=_tasks(card),
    )  # fmt: skip
    if sampling.guidance_checkpoint is None:
        return found
    model, guidance_digest = _guidance_model(sampling.guidance_checkpoint, path, denoiser, card)
    return dataclasses.replace(found, guidance_model=model.to(device), guidance_digest=guidance_digest)


def _with_encoder(conditions: Sequence[Condition], folder: str) -> list[Condition]:
    """Conditions, with the text encoder in `folder`. Raises `UserError` where none is used."""
    takes = f"a checkpoint of conditions {', '.join(c.name for c in conditions)}"
    used = any(isinstance(c, EncodedText) for c in conditions)
    require(used, "--text_encoder", takes, f"one that takes {EncodedText.name}", "Leave it out.")
    return [dataclasses.replace(c, encoder=folder) if isinstance(c, EncodedText) else c for c in conditions]


def _tasks(card: ModelCard) -> frozenset[Task]:
    if not card.arrays.foreground:
        return IMAGE_TASKS
    return FEW_STEP_TASKS if card.few_step else TASKS


def _guidance_model(given: str, path: Path, denoiser: Denoiser, card: ModelCard) -> tuple[Denoiser, str]:
    """The network that guidance steers away from, and its digest."""
    model, other, digest = load_checkpoint(Path(given))
    for what in ("img_size", "classes", "arrays", "codec", "train_hashes"):
        require(
            getattr(other, what) == getattr(card, what),
            "--guidance_checkpoint",
            f"{given}, whose {what} is not that of {path}",
            "an earlier or smaller model of the same data",
            "Train it on the same folder, at the same size.",
        )
    found = f"{given}, which sees pictures at other sizes where noise is high"
    expected = f"one like that of {path}: guidance would steer away from coarse pictures"
    hint = "Give an earlier checkpoint of the same run."
    require(model.low_res == denoiser.low_res, "--guidance_checkpoint", found, expected, hint)
    return model, digest
