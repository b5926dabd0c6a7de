"""Classifiers: the networks of timm, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from medsegdiff.downstream.names import IMAGENET, check_timm_name
from medsegdiff.downstream.pretrained import failed_download, load_encoder
from medsegdiff.downstream.sizes import output_shapes
from medsegdiff.downstream.weights import load_weights
from medsegdiff.errors import UserError
from medsegdiff.features.perceptual.weights import read_weights

DEFAULT_MODEL = "resnet18"


def build_classifier(
    name: str, weights: str | None, classes: int, dropout: float, img_size: int, channels: int = 1
) -> nn.Module:
    """A network of timm from (B, C, S, S) standardised images to (B, K) logits, S = `img_size`, K = `classes`,
    C = `channels`.

    `weights`: None starts from scratch; "imagenet" downloads; else the path of a file (`read_weights`). For grey
    pictures its stem for colours is summed to one channel; its head is left out. `dropout`: the share of features
    dropped before the last layer. Raises `UserError` for an unknown name, a size that the network does not take,
    weights that do not fit it, and where a download fails.
    """
    downloads = weights == IMAGENET
    check_timm_name(name, weights if downloads else None, "--model", f"{DEFAULT_MODEL}, efficientnet_b0, convnext_tiny")
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size  # such networks are made for a size, others take any
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=downloads,
            in_chans=channels,
            num_classes=classes,
            drop_rate=dropout,
            img_size=img_size if fixed else None,
        )
    except (AssertionError, ValueError) as error:  # how they refuse a size, such as one that patches do not divide
        raise _wrong_size(name, img_size) from error
    except OSError as error:
        raise failed_download(IMAGENET, name, error) from error
    if not output_shapes(model, [img_size], channels):
        raise _wrong_size(name, img_size)
    if weights is not None and not downloads:
        path = Path(weights)
        heads = (config.classifier if config is not None else None) or ()
        load_encoder(model, read_weights(path), path, heads=[heads] if isinstance(heads, str) else heads)
    return model


def load_classifier(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a file of `save_weights`, in evaluation mode on the CPU, and its settings.

    Raises `UserError` where the file is missing, broken or not of this kind.
    """
    return restored_classifier(*load_weights(path))


def restored_classifier(weights: dict[str, Tensor], settings: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The same of what `load_weights` read."""
    config = settings["config"]
    shape = len(settings["classes"]), config["dropout"], config["img_size"], settings.get("channels", 1)
    model = build_classifier(config["model"], None, *shape)
    model.load_state_dict(weights)
    return model.eval(), settings


def _wrong_size(name: str, img_size: int) -> UserError:
    config = timm.get_pretrained_cfg(name)
    made_for = f"{config.input_size[-1]}, which {name} was made for" if config is not None else f"one that {name} takes"
    return UserError("--img_size", f"{img_size}, which {name} does not take", made_for, "Or choose another --model.")
