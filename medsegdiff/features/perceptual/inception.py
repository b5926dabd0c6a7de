"""Features of Inception v3 in the version that FID, KID and Inception score are defined by (package torch-fidelity)."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from medsegdiff.engine.progress import progress_bar
from medsegdiff.errors import UserError
from medsegdiff.features.perceptual.weights import another_network, weights_of

POOLED = 2048  # features that FID and KID compare; the logits that Inception score needs stand behind them
SETTING = "--inception_weights"
NETWORK = "Inception v3 as torch-fidelity has it"
BATCH = 32


def inception_features(images: np.ndarray, weights: str, device: torch.device) -> np.ndarray:
    """(N, 2048 + 1008) pooled features and logits (without bias, as the score is defined) of (N, S, S) uint8 pictures.

    Grey is shown as RGB. Raises `UserError` as `load_inception` does.
    """
    network = load_inception(weights).to(device)
    parts = []
    with torch.no_grad():
        for first in progress_bar(range(0, len(images), BATCH), "Inception", leave=False, unit="batch"):
            batch = torch.from_numpy(images[first : first + BATCH, None]).expand(-1, 3, -1, -1)
            parts.append(torch.cat(network(batch.to(device)), dim=1).double().cpu().numpy())
    return np.concatenate(parts)


@lru_cache(maxsize=1)
def load_inception(value: str) -> nn.Module:
    """The network with the weights of a file or a "download", on the CPU, kept for the next call.

    Raises `UserError` where the weights or the package cannot be had.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        expected, hint = "the package torch-fidelity", "Run: pip install medsegdiff[inception]"
        raise UserError(f"{SETTING} {value}", f"no such package ({error})", expected, hint) from error
    # The package unpickles whatever a file holds, so it gets a copy of the tensors and of nothing else
    tensors = weights_of(value, SETTING, URL_INCEPTION_V3, NETWORK)
    copy = io.BytesIO()
    torch.save(tensors, copy)
    copy.seek(0)
    try:
        network: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
        )
    except (RuntimeError, AttributeError) as error:  # tensors of other names or shapes
        raise another_network(value, SETTING, NETWORK, error) from error
    return network
