"""What the figures of the page share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.data.pictures import draw_classes, draw_outline
from medsegdiff.evaluation.sets import Pairs


def png(plot: Plot, dpi: int = 100) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def show(axes: Any, image: np.ndarray, pixel: np.ndarray) -> None:
    """Show a (S, S) or (S, S, 3) uint8 picture in true geometry; `pixel` is (width, height) of one of its pixels."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=pixel[1] / pixel[0])
    axes.set_axis_off()


def outline(axes: Any, pairs: Pairs, row: int, width: float = 1.2) -> None:
    """Draw the outline of the mask of a pair: of a lesion green, of a label map in the colour of each class."""
    if pairs.spec.is_binary:
        draw_outline(axes, pairs.masks[row], "lime", width)
    else:
        draw_classes(axes, pairs.index[row], width=width)
