"""What both trainers of phase 5 share."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.downstream.supervised import grey_statistics


def test_grey_statistics_are_those_of_the_pixels() -> None:
    """Few pixels, of 0 and 255 too. Damage: the deviation is of a population, or values run from 0 to 255."""
    images = torch.tensor([0, 255, 3, 3, 200, 90], dtype=torch.uint8).view(2, 1, 1, 3)
    grey = images.double() / 255
    assert grey_statistics(images) == pytest.approx((float(grey.mean()), float(grey.std())), rel=1e-12)


def test_pictures_of_one_grey_value() -> None:
    """Damage: pictures are divided by a deviation of nothing."""
    assert grey_statistics(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == pytest.approx((0.2, 1e-3))
