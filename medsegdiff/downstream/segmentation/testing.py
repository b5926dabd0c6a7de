"""Scoring a trained segmentation network on pairs that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from medsegdiff.data.dataset import SampleTensors, from_channels, pixel_size
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.results import ImageScore, draw_overlays, row_type, score_classes
from medsegdiff.downstream.segmentation.training import predict_masks, true_masks


def score_pairs(
    model: nn.Module, settings: dict[str, Any], data: SampleTensors, config: SegmentConfig, picture: Path
) -> list[ImageScore]:
    """Scores of every pair, and a picture of the best, middling and worst ones at `picture`.

    `model` in evaluation mode on its device, and the `settings` of its file ("mean" and "std" of grey values).
    """
    spec, row = data.spec, row_type(data.spec)
    device = next(model.parameters()).device
    found = predict_masks(model, data, settings["mean"], settings["std"], config, device)
    true = true_masks(data)
    pixels = [pixel_size(record, config.img_size) for record in data.records]
    rows = [
        row(
            record.id,
            record.group,
            record.label,
            area=float((true[i] > 0).mean()),
            **score_classes(found[i], true[i], pixels[i], spec),
        )
        for i, record in enumerate(data.records)
    ]
    draw_overlays(picture, [from_channels(image) for image in data.images.numpy()], true, found, rows, pixels)
    return rows
