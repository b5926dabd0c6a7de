"""What the figures of the page share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot


def png(plot: Plot, dpi: int = 100) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def show(axes: Any, image: np.ndarray, pixel: np.ndarray) -> None:
    """Show a (S, S) uint8 picture in true geometry; `pixel` is (width, height) of one of its pixels."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=pixel[1] / pixel[0])
    axes.set_axis_off()
