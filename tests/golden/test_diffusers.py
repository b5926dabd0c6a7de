"""Our DDIM and DPM-Solver++(2M) against the schedulers of diffusers, on the linear DDPM table.

Their state is variance-preserving, ours variance-exploding: x_vp = sqrt(abar) x_ve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.noise import ddpm_abar, ddpm_sigmas, sampling_sigmas
from medsegdiff.generators.joint_diffusion.samplers import ddim, dpmpp_2m

if TYPE_CHECKING:
    from gaussians import Gaussian

schedulers = pytest.importorskip("diffusers.schedulers")

CONFIG = DiffusionConfig(process="ddpm")
TABLE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "sample",
    "thresholding": False,
}
PAIR = torch.tensor([0, 1])


def walk(scheduler: Any, gaussian: Gaussian, x: Tensor) -> Tensor:
    """Sample with a scheduler of diffusers from our starting state x, with the same denoiser."""
    abar = ddpm_abar("linear", 1000, 1e-4, 0.02)
    sigmas = ddpm_sigmas(CONFIG)
    state = x * abar[scheduler.timesteps[0]].sqrt()
    for t in scheduler.timesteps:
        level = sigmas[t].expand(2)
        state = scheduler.step(gaussian.denoise(state / abar[t].sqrt(), level), t, state).prev_sample
    return state


def start(level: Tensor) -> Tensor:
    return level * torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_tables_agree() -> None:
    """Damage: beta_end reached one step late."""
    theirs = schedulers.DDIMScheduler(**TABLE).alphas_cumprod.double()
    assert torch.allclose(ddpm_abar("linear", 1000, 1e-4, 0.02), theirs, rtol=2e-5, atol=0)


@pytest.mark.parametrize("steps", [5, 20, 100])
def test_ddim(steps: int, gaussian: Gaussian) -> None:
    """Damage: a = (s' / s)^2 in `ddim`."""
    scheduler = schedulers.DDIMScheduler(**TABLE, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    levels = torch.cat([ddpm_sigmas(CONFIG)[scheduler.timesteps], torch.zeros(1)])
    x = start(levels[0])
    ours = ddim(gaussian.denoise, x, torch.stack([levels, levels], dim=1), PAIR)
    assert torch.allclose(ours, walk(scheduler, gaussian, x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42 with numpy 2
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_dpmpp_2m(steps: int, gaussian: Gaussian) -> None:
    """Damage: c = h_prev / (2 h) in `dpmpp_2m`; other timesteps in `sampling_sigmas`."""
    scheduler = schedulers.DPMSolverMultistepScheduler(
        **TABLE, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    levels = sampling_sigmas(CONFIG, steps).double()
    assert torch.allclose(levels, scheduler.sigmas.double(), rtol=1e-5)
    x = start(levels[0])
    ours = dpmpp_2m(gaussian.denoise, x, torch.stack([levels, levels], dim=1), PAIR)
    assert torch.allclose(ours, walk(scheduler, gaussian, x), rtol=1e-5, atol=1e-5)
