"""Real and synthetic pictures mixed, first without a word, then with the answer."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Plot

from medsegdiff.evaluation.drawing import outline, png
from medsegdiff.evaluation.section import Figure
from medsegdiff.evaluation.sets import Pairs, Sets

COLUMNS, ROWS = 8, 3  # of a class


def mixed_grids(sets: Sets, seed: int, *, real: bool = True) -> list[tuple[str, Figure, Figure]]:
    """(class, pictures alone, the same with outline and answer), half of them real and held out; not `real`: none."""
    random = np.random.default_rng([seed, 5])
    return [(label, *_grid(sets, label, random, real)) for label in sets.classes]


def _grid(sets: Sets, label: str, random: np.random.Generator, real: bool) -> tuple[Figure, Figure]:
    count = COLUMNS * ROWS // 2 if real else COLUMNS * (ROWS - 1)  # whole rows
    chosen: list[tuple[Pairs, int, bool]] = []
    for pairs, synthetic in ((sets.held_out, False), (sets.synthetic, True)):
        rows = random.permutation(pairs.of(label))[:count]
        chosen += [(pairs, int(i), synthetic) for i in rows if real or synthetic]
    shown = [chosen[i] for i in random.permutation(len(chosen))]
    hidden, solved = _draw(shown, solved=False), _draw(shown, solved=True)
    if not real:
        reported = f"{len(shown)} synthetic {label} pictures"
        return Figure(hidden, f"{reported}, chosen at random."), Figure(solved, f"{reported}, with their masks.")
    reported = f"{len(shown)} {label} pictures, real and synthetic mixed"
    answer = f"{reported}: real ones with a white name, synthetic ones with an orange one."
    return Figure(hidden, f"{reported}. Which are real?"), Figure(solved, answer)


def _draw(shown: list[tuple[Pairs, int, bool]], *, solved: bool) -> bytes:
    lines = -(-len(shown) // COLUMNS)
    plot = Plot(figsize=(1.5 * COLUMNS, 1.65 * lines), layout="constrained", facecolor="black")
    cells = plot.subplots(lines, COLUMNS, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, (pairs, i, synthetic) in zip(cells, shown, strict=False):
        cell.imshow(pairs.pictures[i], cmap="gray", vmin=0, vmax=255, aspect="auto")
        if solved:
            colour = "orange" if synthetic else "white"
            outline(cell, pairs, i, 0.9)
            cell.set_title("synthetic" if synthetic else "real", fontsize=8, color=colour)
    return png(plot, dpi=90)
