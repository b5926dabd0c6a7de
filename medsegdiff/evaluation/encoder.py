"""Features of the segmenter that was trained on real train pairs: what a network of this task sees.

It sees what is shown and where rather than texture, as training on noisy and blurred pictures taught it to. It knows
its train pictures better than others, which raises the baseline that real held-out pictures set.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModel
from medsegdiff.evaluation.sets import Pairs
from medsegdiff.statistics.components import Components

COMPONENTS = 32  # principal components that are kept: hundreds of pictures do not determine the covariance of 512
BATCH = 32


def encoder_missing(context: Context) -> str | None:
    """Why there are no such features; None where there are."""
    reference_model = context.reference_models.segmenter
    if reference_model is None:
        return context.reference_models.missing.get("segmenter", "no segmenter")
    if not reference_model.trusted:
        return reference_model.withheld()
    has_encoder = isinstance(getattr(reference_model.model, "encoder", None), nn.Module)
    return None if has_encoder else "the segmenter has no encoder"


def encoder_features(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, F) principal components of `pooled`, found on real train pictures; at most `COMPONENTS`, most spread first.

    Each in standard deviations of train: the first one, mostly the lesion's size, holds nine tenths of the variance,
    and would leave the others without a say.
    """
    train = context.features("encoder, pooled", pooled, "train")
    own = train if pairs is context.sets.train else pooled(context, pairs)
    found = Components.of(train, COMPONENTS)
    return np.asarray(found.apply(own) / found.deviations)


@torch.no_grad()
def pooled(context: Context, pairs: Pairs) -> np.ndarray:
    """(N, C) mean over the picture of the deepest features of the segmenter's encoder."""
    reference_model = context.reference_models.segmenter
    assert isinstance(reference_model, ReferenceModel)
    assert isinstance(reference_model.model.encoder, nn.Module)
    device = next(reference_model.model.parameters()).device
    mean, deviation = float(reference_model.settings["mean"]), float(reference_model.settings["std"])
    parts = []
    for rows in np.array_split(np.arange(len(pairs)), range(BATCH, len(pairs), BATCH)):
        images = torch.from_numpy(pairs.channels(rows)).to(device).float() / 255
        x = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
        parts.append(reference_model.model.encoder(x)[-1].mean(dim=(2, 3)).double().cpu().numpy())
    return np.concatenate(parts)
