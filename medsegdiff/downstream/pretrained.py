"""Weights of a file into an encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from medsegdiff.errors import UserError

logger = logging.getLogger(__name__)

SHOWN = 3  # keys that a message names
SMALLEST_SHARE = 0.5  # of the encoder's tensors that a file has to hold


def failed_download(weights: str, network: str, error: OSError) -> UserError:
    """The one line for weights that cannot be had; what huggingface_hub raises, whatever the cause, is an `OSError`."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(
        f"--encoder_weights {weights}",
        f"a download that failed ({reason})",
        f"the weights of {network}",
        "Connect to the network, or fill the Hugging Face cache (HF_HOME) on a connected machine and copy it here, "
        "or give a file with weights, or leave the setting out to train from scratch.",
    )


def load_encoder(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, heads: Sequence[str] = ()) -> None:
    """Copy the `tensors` of the file `path` into those of `module` that have the same name and shape.

    A prefix that all names of the file share with an encoder inside another network ("module.", "encoder.") is found
    and taken off. A stem for 3 channels is summed to the 1 of `module`: what it would say to a grey picture shown in
    all three. Parts of `module` named in `heads` keep what they have. Raises `UserError`, and leaves `module` as it
    was, where less than half of the other tensors are in the file.
    """
    own = {
        name: value
        for name, value in module.state_dict().items()
        if not any(name == head or name.startswith(head + ".") for head in heads)
    }
    prefixes = {""} | {name[: i + 1] for name in tensors for i, c in enumerate(name) if c == "."}
    found = max((_fitting(own, tensors, prefix) for prefix in sorted(prefixes)), key=len)
    if len(found) < SMALLEST_SHARE * len(own):
        there, wanted = (", ".join(f"{k} {tuple(d[k].shape)}" for k in list(d)[:SHOWN]) for d in (tensors, own))
        raise UserError(
            f"--encoder_weights {path}",
            f"weights of another network: {len(found)} of {len(own)} tensors fit (the file begins with {there})",
            f"tensors such as {wanted}",
            "Choose the model or the encoder that the weights were made for.",
        )
    module.load_state_dict(found, strict=False)
    logger.info("%s: %d of the %d tensors of the encoder", path, len(found), len(own))


def _fitting(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors of the file that fit, under the names that the encoder has for them."""
    found: dict[str, Tensor] = {}
    for name, value in own.items():
        stored = tensors.get(prefix + name)
        if stored is None:
            continue
        if stored.ndim == 4 and stored.shape[1] == 3 and value.shape[1:2] == (1,):
            stored = stored.sum(dim=1, keepdim=True)
        if stored.shape == value.shape:
            found[name] = stored
    return found
