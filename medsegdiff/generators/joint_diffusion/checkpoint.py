"""The generative checkpoint: one safetensors file with everything that sampling from it needs. Never pickle."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from medsegdiff import __version__
from medsegdiff.conditioning.base import Condition
from medsegdiff.conditioning.registry import read_condition
from medsegdiff.data.arrays import ArraySpec
from medsegdiff.engine.files import write_bytes
from medsegdiff.engine.legacy import renamed
from medsegdiff.engine.weights import tensors_digest
from medsegdiff.errors import UserError
from medsegdiff.generators.base import find_checkpoint, kind_of, opened
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone, settings_of, settle_settings
from medsegdiff.generators.joint_diffusion.backbones.config import NetworkConfig
from medsegdiff.generators.joint_diffusion.codec import SIGMA_DATA, PairCodec
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser, LowRes
from medsegdiff.generators.joint_diffusion.legacy import migrated, renamed_weights, with_conditions

KIND = "medsegdiff.generative"
VERSION = 3  # 2: other names (`legacy`). 1: other groups of channels, so that the same weights mean something else
READ = ("2", "3")


@dataclass(frozen=True)
class ModelCard:
    """What travels with the weights."""

    img_size: int  # pixels
    classes: list[str]
    lesion_classes: list[str]  # classes whose masks are never empty
    conditions: list[Condition]  # that the network takes, with their ranges
    model: NetworkConfig  # settings of the backbone
    diffusion: DiffusionConfig
    codec: PairCodec
    aspects: dict[str, list[float]]  # true width / height of the train pictures of each class
    train_hashes: list[dict[str, str]]  # image_hash and perceptual_hash of every train picture
    step: int  # optimiser steps that the weights have seen
    scores: dict[str, float]  # of the evaluation at that step
    backbone: str = "patch_unet"  # checkpoints that do not say hold this one
    arrays: ArraySpec = field(default_factory=ArraySpec)  # of the samples that it learnt and makes
    # Of each class, the mask classes that every train picture shows, with the least share of a picture they cover
    always_shown: dict[str, dict[str, float]] = field(default_factory=dict)
    few_step: list[float] = field(default_factory=list)  # noise levels that it learnt to sample in; empty: any

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", settle_settings(self.backbone, self.model))


def build_denoiser(card: ModelCard) -> Denoiser:
    """A fresh network of the size that the card says."""
    modality = card.codec.modality
    inputs = Inputs(card.img_size, tuple(modality.tolist()), tuple(card.conditions))
    backbone = build_backbone(card.backbone, inputs, card.model)
    factor, sigma = card.model.low_res_factor, card.model.low_res_sigma
    low_res = LowRes(factor, sigma) if factor > 1 else None
    denoiser = Denoiser(backbone, modality, SIGMA_DATA, low_res)
    return denoiser.to(memory_format=torch.channels_last)


def save_checkpoint(path: Path, weights: dict[str, Tensor], card: ModelCard) -> None:
    """Write weights and card to a safetensors file, atomically."""
    metadata = {
        "kind": KIND,
        "version": str(VERSION),
        "medsegdiff": __version__,
        "card": json.dumps(
            dataclasses.asdict(card)
            | {"arrays": card.arrays.to_json(), "conditions": [c.describe() for c in card.conditions]}
        ),
    }
    write_bytes(path, save({k: v.detach().contiguous().cpu() for k, v in weights.items()}, metadata))


def load_checkpoint(path: Path) -> tuple[Denoiser, ModelCard, str]:
    """The denoiser (averaged weights, in evaluation mode), its card, and a digest of weights and card.

    Raises `UserError` for a file that is missing, damaged, of another kind or version.
    """
    path = find_checkpoint(Path(path))
    kind = kind_of(path)
    with opened(path) as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if kind != KIND or metadata.get("version") not in READ:
        found = f"kind {kind!r}, version {metadata.get('version')!r}"
        hint = "Train it anew with this version." if kind == KIND else "Use a checkpoint of joint diffusion."
        raise UserError(path, found, f"kind {KIND!r}, version '{VERSION}'", hint)
    try:
        card = _card(migrated(with_conditions(renamed(json.loads(metadata["card"])))))
        denoiser = build_denoiser(card)
        denoiser.load_state_dict(renamed_weights(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, UserError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            path, f"weights or settings that do not fit ({reason})", "a whole checkpoint", "Train it anew."
        ) from error
    return denoiser.eval().requires_grad_(False), card, tensors_digest(weights, beside=metadata["card"])


def _card(values: dict[str, Any]) -> ModelCard:
    codec = values["codec"]
    if any(set(name) & {"/", "\\"} for name in values["classes"]):  # they become file names
        raise ValueError("class names with slashes")
    return ModelCard(
        **values
        | {
            "model": settings_of(values.get("backbone", "patch_unet"))(**values["model"]),
            "conditions": [read_condition(described) for described in values["conditions"]],
            "diffusion": DiffusionConfig(**values["diffusion"]),
            "arrays": ArraySpec.from_json(values.get("arrays")),
            "codec": PairCodec(**codec | {name: tuple(codec[name]) for name in ("mean", "std")}),
        }
    )
