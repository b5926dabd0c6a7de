"""Files of trained networks of phase 5: safetensors, with everything that predicting needs in their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medsegdiff.engine.files import write_bytes
from medsegdiff.errors import UserError


def save_weights(path: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write weights as safetensors, atomically, with `settings` as JSON under "settings" of its metadata.

    `settings` holds at least "config" (model, encoder, img_size, ...), "mean" and "std" (of grey values in [0, 1]).
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_bytes(path, save(tensors, metadata={"settings": json.dumps(settings)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and settings of a file of `save_weights`, on the CPU.

    Raises `UserError` where the file is missing, broken or not of this kind.
    """
    expected = "the best_model.safetensors of a run of phase 5"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "settings" not in metadata:
                raise UserError(path, "weights of another kind", expected, "Check the path.")
            settings = json.loads(metadata["settings"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(path, f"{type(error).__name__}: {error}", expected, "Check the path.") from error
    return weights, settings
