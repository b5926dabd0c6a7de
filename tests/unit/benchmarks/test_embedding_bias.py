"""benchmarks/embedding_bias.py: what embeddings learn from, and what they score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medsegdiff.evaluation.sets import Pairs

pytestmark = pytest.mark.slow


def pairs(name: str, count: int) -> Pairs:
    """Grey pictures of noise; nothing of them but number and groups matters here."""
    images = np.random.default_rng(len(name)).integers(0, 256, (count, 64, 64), dtype=np.uint8)
    no_records: Any = (None,) * count
    return Pairs(
        images, np.zeros_like(images, bool), np.array(["benign"] * count),
        np.array([f"{name} {k}" for k in range(count)]), np.ones((count, 2)), no_records,
    )  # fmt: skip


def test_no_picture_is_scored_by_an_embedding_that_learnt_it(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the half of the first set that was learnt from is evaluated, or an embedding learns held-out pictures."""
    page = benchmark("embedding_bias")
    known: dict[int, set[str]] = {}

    def learnt(taught: Pairs, real: dict[str, Pairs], seed: int, halves: bool, steps: int) -> Any:
        model = real_learnt(taught, real, seed, halves, steps)
        known[id(model)] = set(taught.groups) if steps else set()
        models.append(model)  # kept, so that ids stay their own
        return model

    class Noting(page.EmbeddingTrainer):  # type: ignore[name-defined]
        """Notes from how many pictures each network learns."""

        def train_step(self, step: int) -> dict[str, float]:
            sizes.append([len(learnt) for learnt in self.learnt])
            return dict(super().train_step(step))

    def evaluated(model: Any, synthetic: Pairs, real: dict[str, Pairs]) -> Any:
        assert not known[id(model)] & (set(synthetic.groups) | set(real["held-out"].groups))
        return real_evaluated(model, synthetic, real)

    models: list[Any] = []
    sizes: list[list[int]] = []
    monkeypatch.setattr(page, "EmbeddingTrainer", Noting)
    real_learnt, real_evaluated = page.learnt, page.evaluated
    monkeypatch.setattr(page, "learnt", learnt)
    monkeypatch.setattr(page, "evaluated", evaluated)
    monkeypatch.setattr(page, "phantom_pictures", lambda count: pairs("phantom", count))
    monkeypatch.setattr(page, "RESAMPLES", 5)
    monkeypatch.setattr(page, "STEPS", 1)
    real = {"train": pairs("train", 12), "held-out": pairs("held-out", 10)}
    sets = {"short": pairs("short", 9), "long": pairs("long", 6)}
    found = list(page.rows(real, sets, [0], []))
    assert [row["pictures"] for row in found] == [6, 12, 5, 5, 0]
    assert sizes == [[6] * 8, [12] * 8, [5] * 8, [5] * 8]
    assert list(page.rows(real, sets, [0], found)) == found
    assert len(sizes) == 4  # nothing made anew
    lines = page.table(found)
    assert lines[0].endswith("| noised and denoised | cropped | short | long |")
    means = [f"{found[4]['shares'][name]['value']:.3f} [" for name in sets]
    assert [len(row["alone"]["short"]) for row in found] == [4] * 5
    assert [cell.strip()[:7] for cell in lines[-1].split("|")[-3:-1]] == [text[:7] for text in means]
    assert [float(cell) for cell in lines[-1].split("|")[4:10]] == pytest.approx(
        [*found[4]["planted"].values()], abs=6e-3
    )
    alone = found[4]["alone"]["long"]
    assert lines[-1].split("|")[-2].strip().endswith(f"({min(alone):.2f} to {max(alone):.2f})")
