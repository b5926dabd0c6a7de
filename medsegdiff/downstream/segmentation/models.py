"""Segmentation networks by name: those of segmentation-models-pytorch, and MADGNet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from medsegdiff.data.arrays import GREY_BINARY, ArraySpec
from medsegdiff.downstream.names import check_timm_name, near_names
from medsegdiff.downstream.pretrained import failed_download, load_encoder
from medsegdiff.downstream.segmentation.madgnet import MADGNet
from medsegdiff.downstream.sizes import output_shapes
from medsegdiff.downstream.weights import load_weights
from medsegdiff.errors import UserError, require
from medsegdiff.features.perceptual.weights import read_weights

MADGNET = "madgnet"
ARCHITECTURES: tuple[str, ...] = tuple(sorted([*smp.MODEL_ARCHITECTURES_MAPPING, MADGNET]))
DEFAULT_MODEL, DEFAULT_ENCODER = "unet", "resnet18"
DEFAULT_ENCODERS = {MADGNET: "resnest50d", "dpt": "tu-vit_tiny_patch16_224"}  # where it is another one
TIMM_PREFIX = "tu-"  # smp's mark of an encoder that comes from timm
PROBED_SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)  # sides that a message may offer, pixels


def outputs_of(spec: ArraySpec) -> int:
    """Logits of a pixel: one of a binary mask (lesion or not), else one each of the background and all classes."""
    return 1 if spec.is_binary else 1 + len(spec.foreground)


def build_model(
    name: str, encoder: str, weights: str | None = None, dropout: float = 0.0, spec: ArraySpec = GREY_BINARY
) -> nn.Module:
    """A network from (B, C, S, S) standardised images to (B, L, S, S) logits (`outputs_of`); S a multiple of 32.

    `weights`: None starts from scratch, "imagenet" (or whatever else smp has for that encoder) is downloaded, the path
    of a file fills the encoder. `dropout`: share of channels dropped before the last layer.
    Raises `UserError` for unknown names, for a pair that does not go together, and for weights that cannot be had.
    """
    if name not in ARCHITECTURES:
        near = near_names(name, ARCHITECTURES)
        hint = f"Near: {near}." if near else "Names are lower-case."
        raise UserError("--model", repr(name), f"one of {', '.join(ARCHITECTURES)}", hint)
    local = weights is not None and is_file_name(weights)
    if name == MADGNET:
        require(spec.is_binary, f"--model {MADGNET}", "label maps", "binary masks", "Choose a network of smp.")
        model: nn.Module = MADGNet(
            encoder.removeprefix(TIMM_PREFIX), None if local else weights, dropout, spec.channels
        )
    else:
        _check_encoder(encoder, None if local else weights)
        model = _smp_model(name, encoder, None if local else weights, spec)
        if dropout:
            head: Any = model.segmentation_head
            model.segmentation_head = nn.Sequential(nn.Dropout2d(dropout), head)
    if local:
        path = Path(str(weights))
        load_encoder(model.encoder, read_weights(path), path)  # type: ignore[arg-type]
    return model


def is_file_name(weights: str) -> bool:
    """Whether `--encoder_weights` means a file: names of published weights have neither ending nor folder."""
    return Path(weights).suffix in (".safetensors", ".pth", ".pt", ".bin") or "/" in weights or Path(weights).is_file()


def sizes_taken(model: nn.Module, sizes: Iterable[int], channels: int = 1) -> list[int]:
    """Those of `sizes` for which the network maps S x S pictures to S x S masks."""
    return [size for size, shape in output_shapes(model, sizes, channels).items() if shape[2:] == (size, size)]


def check_size(model: nn.Module, size: int, where: str, channels: int = 1) -> None:
    """Raise `UserError`, naming sizes that do, where the network of `where` does not take `size` x `size` pixels."""
    if sizes_taken(model, [size], channels):
        return
    sizes = sizes_taken(model, PROBED_SIZES, channels)
    if len(sizes) > 1 and tuple(sizes) == PROBED_SIZES[-len(sizes) :]:
        expected = f"a multiple of 32, {sizes[0]} or more"
    else:
        expected = " or ".join(map(str, sizes)) or "a size that it takes; none from 64 to 512 is"
    raise UserError(f"--img_size, for {where}", size, expected, "Change --img_size, --model or --encoder.")


def _smp_model(name: str, encoder: str, weights: str | None, spec: ArraySpec) -> nn.Module:
    options: dict[str, Any] = {"in_channels": spec.channels, "classes": outputs_of(spec)}
    if name == "dpt":  # its encoders are made for 224 pixels else
        options["dynamic_img_size"] = True
    try:
        model: nn.Module = smp.create_model(name, encoder, weights, **options)
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        where = f"--model {name} --encoder {encoder}"
        found = f"a pair that smp refuses ({str(error).splitlines()[0]})"
        raise UserError(where, found, "a pair that works", "Choose another --encoder.") from error
    except OSError as error:
        raise failed_download(str(weights), encoder, error) from error
    return model


def _check_encoder(encoder: str, weights: str | None) -> None:
    if encoder.startswith(TIMM_PREFIX):
        examples = f"{TIMM_PREFIX}resnet18d, {TIMM_PREFIX}convnext_femto"
        check_timm_name(encoder.removeprefix(TIMM_PREFIX), weights, "--encoder", examples, TIMM_PREFIX)
        return
    names = smp.encoders.get_encoder_names()
    if encoder not in names:
        near = near_names(encoder, names) or "resnet18, resnet34, mobilenet_v2"
        expected = "an encoder of segmentation-models-pytorch"
        raise UserError("--encoder", repr(encoder), expected, f"Near: {near}. Encoders of timm are called tu-<name>.")
    known = list(smp.encoders.encoders[encoder]["pretrained_settings"])
    if weights is not None and weights not in known:
        expected = f"one of {', '.join(known)}, or a file" if known else "a file: none are published for this encoder"
        raise UserError(f"--encoder_weights, for {encoder}", repr(weights), expected, "Or leave it out: from scratch.")


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a weights file, in evaluation mode on the CPU, and its settings; `UserError` for a broken file."""
    return restored_model(*load_weights(path))


def restored_model(weights: dict[str, Tensor], settings: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The same of what `load_weights` read."""
    config = settings["config"]
    spec = ArraySpec.from_json(settings.get("arrays"))
    model = build_model(config["model"], config["encoder"], dropout=config.get("dropout", 0.0), spec=spec)
    model.load_state_dict(weights)
    return model.eval(), settings
