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
    axes.text(x, y, text, ha="center", va="center", fontsize=10.5, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """A line from `start` to `end`, with a word above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes.text(middle[0], middle[1] + 0.8, text, ha="center", fontsize=10, color=INK)


def pipeline() -> None:
    """Five phases and the folders between them."""
    axes = canvas(100, 25)
    box(axes, 9, 20, 16, 7, "raw data set\n(BUSI, own folder)", FOLDERS)
    box(axes, 37, 20, 14, 7, "sample folder\nreal", FOLDERS)
    box(axes, 62, 20, 12, 7, "checkpoint", FOLDERS)
    box(axes, 90, 20, 18, 7, "sample folder\nsynthetic", FOLDERS)
    box(axes, 62, 5, 14, 7, "sample folder\ncombined", FOLDERS)
    box(axes, 34, 5, 14, 7, "Dice on real\ntest pictures", FOLDERS)
    box(axes, 90, 5, 18, 7, "report: real? varied?\ncopied patients?", FOLDERS)
    arrow(axes, (17, 20), (30, 20), "1 prepare")
    arrow(axes, (44, 20), (56, 20), "2 train")
    arrow(axes, (68, 20), (81, 20), "3 generate")
    arrow(axes, (83, 16.5), (69, 7.5))
    arrow(axes, (41, 16.5), (56, 8.5))
    axes.text(62, 12, "4 combine", ha="center", fontsize=10, color=INK)
    arrow(axes, (55, 5), (41, 5), "5 segment")
    arrow(axes, (90, 16.5), (90, 8.5))
    axes.text(91, 12, "evaluate", fontsize=10, color=INK)
    save("pipeline")


def network() -> None:
    """What goes into the joint denoiser and what comes out."""
    axes = canvas(100, 32)
    box(axes, 9, 27, 17, 6, "noisy image\nlevel $\\sigma_{image}$", FOLDERS)
    box(axes, 9, 18, 17, 6, "noisy mask\nlevel $\\sigma_{mask}$", FOLDERS)
    box(axes, 9, 5, 17, 6, "class, further\nconditions", FOLDERS)
    box(axes, 28, 22.5, 13, 9, "precondition\n(EDM), patches\nof 2 x 2", STEPS)
    for number, (x, y) in enumerate(((43, 26), (48, 21.5), (53, 17))):
        box(axes, x, y, 7, 3.6, f"{32 << number}", NETWORK)
    box(axes, 60.5, 11.5, 17, 5.4, "transformer blocks\non the coarsest map", NETWORK)
    for number, (x, y) in enumerate(((68, 17), (73, 21.5), (78, 26))):
        box(axes, x, y, 7, 3.6, f"{128 >> number}", NETWORK)
    box(axes, 93, 28, 12, 5, "image", FOLDERS)
    box(axes, 93, 21, 12, 5, "mask", FOLDERS)
    box(axes, 29, 5, 15, 6, "embedding:\nscale and shift", STEPS)
    arrow(axes, (17.5, 27), (21.5, 24.5))
    arrow(axes, (17.5, 18), (21.5, 20.5))
    arrow(axes, (34.5, 23.5), (39.5, 26))
    arrow(axes, (46.5, 26), (74.5, 26), "skip connections")
    arrow(axes, (51.5, 21.5), (69.5, 21.5))
    arrow(axes, (56.5, 17), (64.5, 17))
    arrow(axes, (17.5, 5), (21.5, 5))
    arrow(axes, (36.5, 5), (54, 8.6))
    axes.text(47, 4.2, "into every block", fontsize=10, color=INK)
    arrow(axes, (81.5, 26.6), (87, 28))
    arrow(axes, (81.5, 25.2), (87, 21.5))
    axes.text(60.5, 30, "patch U-Net for image and mask; channels", ha="center", fontsize=10, color=INK)
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
