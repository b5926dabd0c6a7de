"""Generation modes with an exact denoiser: every mode gives the covariance of the pairs, the given stays to the bit.

As in test_samplers, a sample is an affine map of its standard normal numbers, so unit vectors give exact moments. What
is given is itself sampled from its own Gaussian, so that given and sampled together have to be pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from medsegdiff.generators.joint_diffusion.codec import PairCodec
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import IMAGE, MASK, MODES, highest_sigma, sigma_table
from medsegdiff.generators.joint_diffusion.samplers import FEW_STEP, SAMPLERS
from medsegdiff.generators.joint_diffusion.sampling import sample_channels

if TYPE_CHECKING:
    from gaussians import Gaussian

CODEC = PairCodec((0.5, 0.5), (0.5, 0.5))
LEVELS = DiffusionConfig(sigma_min=0.002)
KNOWN = {"mask_to_image": MASK, "image_to_mask": IMAGE}
TOLERANCE = {"ddim": 0.02, "dpmpp_2m": 0.004, "heun": 0.002, "ddpm": 0.03}


def sample(mode: str, name: str, gaussian: Gaussian, steps: int = 120) -> tuple[Tensor, Tensor | None]:
    """Rows (3 + 2 T, 2) of what `mode` samples from nothing, from each starting number and from each number of a step;
    and the rows of what was given."""
    table = sigma_table(mode, LEVELS, steps)
    size = 3 + 2 * (len(table) - 1)

    def noise(step: int) -> Tensor:
        z = torch.zeros(size, 2, 1, 1, dtype=torch.float64)
        z[1 + 2 * step, 0] = z[2 + 2 * step, 1] = 1
        return z

    known = None
    if mode in KNOWN:
        column = KNOWN[mode]
        known = torch.full((size, 2, 1, 1), torch.nan, dtype=torch.float64)
        known[:, column] = gaussian.mean[column]
        known[1 + column, column] += gaussian.covariance[column, column].sqrt()
    x = sample_channels(gaussian.denoise, CODEC, table, noise, sampler=name, known=known)
    return x[:, :, 0, 0], None if known is None else known[:, :, 0, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != FEW_STEP])  # which needs its own networks
def test_every_mode_gives_the_covariance(name: str, mode: str, gaussian: Gaussian) -> None:
    """Damage: the columns of a table swapped; the image moving while mask_first samples the mask; starting the given
    modality from noise."""
    rows, _ = sample(mode, name, gaussian)
    columns = rows[1:] - rows[0]
    assert torch.allclose(rows[0], gaussian.mean, atol=0.02)
    assert torch.allclose(columns.T @ columns, gaussian.covariance, atol=TOLERANCE[name])


@pytest.mark.parametrize("mode", KNOWN)
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_conditioning_modality_stays_to_the_bit(name: str, mode: str, gaussian: Gaussian) -> None:
    """Damage: (1 - a) D + a x with a = 1 for a given column, which rounds; a last table row that is not 0."""
    rows, known = sample(mode, name, gaussian)
    column = KNOWN[mode]
    assert known is not None
    assert torch.equal(rows[:, column], known[:, column])
    assert bool(torch.isfinite(rows).all())


@pytest.mark.parametrize("process", ["edm", "ddpm"])
def test_tables(process: str) -> None:
    """Damage: mask_first sampling the image first; a table that does not end in 0 or starts below the highest level."""
    config = DiffusionConfig(process=process)
    top = float(highest_sigma(config))
    ends = {"joint": (top, top), "mask_first": (top, top), "mask_to_image": (top, 0), "image_to_mask": (0, top)}
    for mode, start in ends.items():
        table = sigma_table(mode, config, 5)
        assert table.shape == (11 if mode == "mask_first" else 6, 2)
        assert table[0].tolist() == pytest.approx(start, rel=1e-6)
        assert table[-1].tolist() == [0, 0]
        assert bool((table.diff(dim=0) <= 0).all())
    middle = sigma_table("mask_first", config, 5)[5]
    assert middle.tolist() == pytest.approx([top, 0], rel=1e-6)


def test_unknown_mode() -> None:
    """Damage: joint for every name that is not known."""
    with pytest.raises(ValueError, match="mode 'inpaint'; known: joint, mask_first"):
        sigma_table("inpaint", LEVELS, 5)
