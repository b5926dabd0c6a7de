"""The network of LPIPS: AlexNet trained on photographs, with the weights of its features that torchmetrics has."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torchvision.models import AlexNet_Weights

from medsegdiff.features.perceptual.weights import another_network, weights_of

SETTING = "--lpips_weights"
NETWORK = "AlexNet as torchvision has it"
URL: str = AlexNet_Weights.IMAGENET1K_V1.url
BATCH = 32


def lpips(first: np.ndarray, second: np.ndarray, weights: str, device: torch.device) -> np.ndarray:
    """(N,) LPIPS of (N, S, S) uint8 pictures, grey as RGB: 0 for equal pictures (Zhang et al., CVPR 2018, eq. 1).

    Raises `UserError` as `load_lpips` does.
    """
    network = load_lpips(weights).to(device)
    parts = []
    with torch.no_grad():
        for start in range(0, len(first), BATCH):
            x, y = (
                torch.from_numpy(p[start : start + BATCH, None]).float().expand(-1, 3, -1, -1).to(device) / 255
                for p in (first, second)
            )
            parts.append(network(x, y, normalize=True).flatten().double().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


@lru_cache(maxsize=1)
def load_lpips(value: str) -> nn.Module:
    """The network with the weights of a file or a "download", kept for the next call.

    Raises `UserError` where the weights cannot be had.
    """
    # The public function downloads AlexNet in any case, and takes no file
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    tensors = weights_of(value, SETTING, URL, NETWORK)
    network: nn.Module = _NoTrainLpips(net="alex", pnet_rand=True)
    layers = network.get_submodule("net")
    try:  # "slice2.3.weight" here is "features.3.weight" there
        own = {name: tensors["features." + name.split(".", 1)[1]] for name in layers.state_dict()}
        layers.load_state_dict(own)
    except (KeyError, RuntimeError) as error:
        raise another_network(value, SETTING, NETWORK, error) from error
    return network
