"""Features of Inception v3 in the version that FID, KID and Inception score are defined by (package torch-fidelity)."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from medsegdiff.engine.device import choose_device
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.features.perceptual.weights import another_network, weights_of

POOLED = 2048  # features that FID and KID compare; the logits that Inception score needs stand behind them
SETTING = "--inception_weights"
NETWORK = "Inception v3 as torch-fidelity has it"
BATCH = 32


def inception_features(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, 2048 + 1008) pooled features and logits (without bias, as the score is defined) of the grey pictures as RGB.

    Raises `UserError` where the weights or the package cannot be had.
    """
    device = choose_device(context.config.device)
    network = load_inception(context.config).to(device)
    parts = []
    rows = range(0, len(pairs), BATCH)
    with torch.no_grad():
        for first in tqdm(rows, "Inception", leave=False, unit="batch"):
            images = torch.from_numpy(pairs.images[first : first + BATCH, None]).expand(-1, 3, -1, -1)
            parts.append(torch.cat(network(images.to(device)), dim=1).double().cpu().numpy())
    return np.concatenate(parts)


def check_inception(config: EvaluateConfig) -> None:
    """Raise `UserError` where Inception weights are asked for and cannot be had."""
    if config.inception_weights is not None:
        load_inception(config)


def load_inception(config: EvaluateConfig) -> nn.Module:
    """The network with the weights of `config.inception_weights`, on the CPU, kept for the next call."""
    assert config.inception_weights is not None
    return _load(config.inception_weights)


@lru_cache(maxsize=1)
def _load(value: str) -> nn.Module:
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
