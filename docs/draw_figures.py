"""Draw docs/figures/*.svg: `python docs/draw_figures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK, sigma_table

FOLDER = Path(__file__).parent / "figures"
INK, FOLDERS, STEPS, NETWORK = "#1f2933", "#d9ece9", "#ffffff", "#fdeccf"
MODES = {
    "joint": "new pairs",
    "mask_first": "mask, then image",
    "mask_to_image": "images for a mask",
    "image_to_mask": "masks of an image",
}


def canvas(width: float, height: float) -> Axes:
    """Axes in tenths of an inch, without frame."""
    figure = plt.figure(figsize=(width / 10, height / 10), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box with its middle at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.8", fc=colour, ec=INK, lw=1))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """A line from `start` to `end`, with a word above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes.text(middle[0], middle[1] + 0.8, text, ha="center", fontsize=8, color=INK)


def pipeline() -> None:
    """Five phases and the folders between them."""
    axes = canvas(100, 30)
    box(axes, 8, 22, 13, 6, "raw data set\n(BUSI, own folder)", FOLDERS)
    box(axes, 33, 22, 13, 6, "sample folder\nreal", FOLDERS)
    box(axes, 58, 22, 13, 6, "checkpoint", FOLDERS)
    box(axes, 88, 22, 15, 6, "sample folder\nsynthetic", FOLDERS)
    box(axes, 58, 8, 13, 6, "sample folder\ncombined", FOLDERS)
    box(axes, 33, 8, 13, 6, "Dice on real\ntest pictures", FOLDERS)
    box(axes, 88, 8, 15, 6, "report: real? varied?\ncopied patients?", FOLDERS)
    arrow(axes, (14.5, 22), (26.5, 22), "1 prepare")
    arrow(axes, (39.5, 22), (51.5, 22), "2 train")
    arrow(axes, (64.5, 22), (80.5, 22), "3 generate")
    arrow(axes, (82, 19), (64.5, 9.5), "")
    axes.text(75.5, 15.2, "4 combine", ha="right", fontsize=8, color=INK)
    arrow(axes, (38, 19), (53.5, 11), "")
    arrow(axes, (51.5, 8), (39.5, 8), "5 segment")
    arrow(axes, (88, 19), (88, 11), "")
    axes.text(89, 14.6, "evaluate", fontsize=8, color=INK)
    save("pipeline")


def network() -> None:
    """What goes into the joint denoiser and what comes out."""
    axes = canvas(100, 34)
    box(axes, 9, 27, 15, 5, "noisy image\nlevel $\\sigma_{image}$", FOLDERS)
    box(axes, 9, 19, 15, 5, "noisy mask (distances)\nlevel $\\sigma_{mask}$", FOLDERS)
    box(axes, 9, 7, 15, 5, "class, further\nconditions", FOLDERS)
    box(axes, 29, 23, 12, 8, "precondition\n(EDM), patches\nof 2 x 2", STEPS)
    for number, (x, y) in enumerate(((43, 26), (48, 22), (53, 18))):
        box(axes, x, y, 8, 4, f"{32 << number} ...", NETWORK)
    box(axes, 60, 13, 13, 4.5, "transformer blocks\non the coarsest map", NETWORK)
    for number, (x, y) in enumerate(((67, 18), (72, 22), (77, 26))):
        box(axes, x, y, 8, 4, f"{128 >> number} ...", NETWORK)
    box(axes, 91, 27, 15, 5, "image", FOLDERS)
    box(axes, 91, 19, 15, 5, "mask", FOLDERS)
    box(axes, 29, 7, 12, 5, "embedding: scale\nand shift", STEPS)
    arrow(axes, (16.5, 27), (23, 24.5))
    arrow(axes, (16.5, 19), (23, 21.5))
    arrow(axes, (35, 24), (39, 26))
    arrow(axes, (47, 26), (73, 26), "skip connections")
    arrow(axes, (52, 22), (68, 22))
    arrow(axes, (57, 18), (63, 18))
    arrow(axes, (16.5, 7), (23, 7))
    arrow(axes, (35, 7), (56, 10.6))
    axes.text(48, 7.3, "into every block", fontsize=8, color=INK)
    arrow(axes, (81, 26.5), (83.5, 27))
    arrow(axes, (81, 25), (83.5, 21))
    axes.text(60, 30.5, "patch U-Net, one for image and mask", ha="center", fontsize=9, color=INK)
    save("network")


def levels() -> None:
    """Noise levels of image and mask in the four modes."""
    figure, all_axes = plt.subplots(1, 4, figsize=(10, 2.6), sharey=True, facecolor="white")
    for axes, (mode, text) in zip(all_axes, MODES.items(), strict=True):
        table = sigma_table(mode, DiffusionConfig(), 15).clamp(min=1e-3)
        axes.semilogy(table[:, IMAGE], color="#00796b", lw=2, label="image")
        axes.semilogy(table[:, MASK], color="#c2571a", lw=2, ls="--", label="mask")
        axes.set_title(f"{mode}: {text}", fontsize=9)
        axes.set_xlabel("network call", fontsize=8)
        axes.tick_params(labelsize=7)
    all_axes[0].set_ylabel("noise level (0 drawn at 0.001)", fontsize=8)
    all_axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    save("levels")


def save(name: str) -> None:
    """Write the current figure, the same bytes every time."""
    FOLDER.mkdir(exist_ok=True)
    plt.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close()


if __name__ == "__main__":
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "medsegdiff", "font.family": "sans-serif"})
    pipeline()
    network()
    levels()
