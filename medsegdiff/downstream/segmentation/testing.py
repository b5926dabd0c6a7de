"""Scoring a trained segmentation network on pairs that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from medsegdiff.data.dataset import SampleTensors, pixel_size
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.segmentation.results import ImageScore, draw_overlays
from medsegdiff.downstream.segmentation.scores import score_image
from medsegdiff.downstream.segmentation.training import predict_masks, true_masks


def score_pairs(
    model: nn.Module, settings: dict[str, Any], data: SampleTensors, config: SegmentConfig, picture: Path
) -> list[ImageScore]:
    """Scores of every pair, and a picture of the best, middling and worst ones at `picture`.

    `model` in evaluation mode on its device, and the `settings` of its file ("mean" and "std" of grey values).
    """
    device = next(model.parameters()).device
    found = predict_masks(model, data, settings["mean"], settings["std"], config, device)
    true = true_masks(data)
    pixels = [pixel_size(record, config.img_size) for record in data.records]
    rows = [
        ImageScore(
            record.id,
            record.group,
            record.label,
            area=float(true[i].mean()),
            **score_image(found[i], true[i], pixels[i]),
        )
        for i, record in enumerate(data.records)
    ]
    draw_overlays(picture, data.images[:, 0].numpy(), true, found, rows, pixels)
    return rows
