"""Segmentation networks: the architectures and encoders of segmentation-models-pytorch, by name, and their files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medsegdiff.errors import UserError
from medsegdiff.files import write_bytes

FIXED_SIZE = {"dpt"}  # its encoders (ViT) take pictures of the size that they were made for, no other
ARCHITECTURES: tuple[str, ...] = tuple(sorted(set(smp.MODEL_ARCHITECTURES_MAPPING) - FIXED_SIZE))
TIMM_PREFIX = "tu-"  # smp's mark of an encoder that comes from timm


def build_model(name: str, encoder: str, encoder_weights: str | None = None) -> nn.Module:
    """A network from (B, 1, S, S) standardised images to (B, 1, S, S) logits; S a multiple of 32.

    `encoder_weights`: None starts from scratch, "imagenet" (or whatever else smp has for that encoder) is downloaded.
    Raises `UserError` for unknown names, for a pair that does not go together, and where the download fails.
    """
    if name not in ARCHITECTURES:
        hint = f"Near: {_near(name, ARCHITECTURES)}." if _near(name, ARCHITECTURES) else "Names are lower-case."
        raise UserError("--model", repr(name), f"one of {', '.join(ARCHITECTURES)}", hint)
    _check_encoder(encoder, encoder_weights)
    try:
        model: nn.Module = smp.create_model(name, encoder, encoder_weights, in_channels=1, classes=1)
    except (ValueError, NotImplementedError) as error:
        where = f"--model {name} --encoder {encoder}"
        raise UserError(
            where, f"a pair that smp refuses ({error})", "a pair that works", "Choose another --encoder."
        ) from error
    except OSError as error:  # what huggingface_hub raises, whatever the cause, derives from it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--encoder_weights {encoder_weights}",
            f"a download that failed ({reason})",
            f"the weights of {encoder}",
            "Connect to the network, or fill the Hugging Face cache (HF_HOME) on a connected machine and copy it here, "
            "or leave the setting out to train from scratch.",
        ) from error
    return model


def _near(name: str, names: Iterable[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, list(names), n=5, cutoff=0.5))


def _check_encoder(encoder: str, weights: str | None) -> None:
    if encoder.startswith(TIMM_PREFIX):
        bare = encoder.removeprefix(TIMM_PREFIX)
        if not timm.is_model(bare):
            hint = f"Near, without tu-: {_near(bare, timm.list_models()) or 'none'}."
            raise UserError("--encoder", repr(encoder), "tu- and the name of a timm model", hint)
        return
    names = smp.encoders.get_encoder_names()
    if encoder not in names:
        near = _near(encoder, names) or "resnet18, resnet34, mobilenet_v2"
        expected = "an encoder of segmentation-models-pytorch"
        raise UserError("--encoder", repr(encoder), expected, f"Near: {near}. Encoders of timm are called tu-<name>.")
    known = list(smp.encoders.encoders[encoder]["pretrained_settings"])
    if weights is not None and weights not in known:
        expected = f"one of {', '.join(known)}" if known else "no weights: there are none for this encoder"
        raise UserError(f"--encoder_weights, for {encoder}", repr(weights), expected, "Or leave it out: from scratch.")


def save_model(path: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write weights as safetensors, atomically, with `settings` as JSON under "settings" of its metadata.

    `settings` holds at least "config" (model, encoder, img_size, ...), "mean" and "std" (of grey values in [0, 1]).
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_bytes(path, save(tensors, metadata={"settings": json.dumps(settings)}))


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a file of `save_model`, in evaluation mode on the CPU, and its settings.

    Raises `UserError` where the file is missing, broken or not of this kind.
    """
    expected = "a best_model.safetensors of segmentation"
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})["settings"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(path, f"{type(error).__name__}: {error}", expected, "Check the path.") from error
    model = build_model(settings["config"]["model"], settings["config"]["encoder"])
    model.load_state_dict(weights)
    return model.eval(), settings
