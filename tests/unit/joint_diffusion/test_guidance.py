"""Guidance by class, by a worse network, and by the mask: the formulas, where it acts, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from tiny_networks import random_checkpoint
from torch import Tensor

from medsegdiff.conditioning.base import Conditions
from medsegdiff.errors import UserError
from medsegdiff.generators.base import load_generator
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig
from medsegdiff.generators.joint_diffusion.denoiser import Denoiser
from medsegdiff.generators.joint_diffusion.guidance import Guidance, guided_denoise
from medsegdiff.generators.joint_diffusion.sampling_settings import SamplingSettings

NULL = -1.0
LABELS = torch.tensor([2, 0, 1])
COND = {"label": LABELS}


class Spy:
    """A denoiser that answers with 10 label + x, or NULL + x where the label is hidden."""

    modality = torch.tensor([0, 1])

    def __init__(self) -> None:
        self.sigmas: list[Tensor] = []
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        self.sigmas.append(sigma)
        self.seen.append(x)
        value = torch.where(cond["label"] >= 0, 10.0 * cond["label"], NULL)
        return value.view(-1, 1, 1, 1) + x

    @property
    def rows(self) -> list[int]:
        return [len(s) for s in self.sigmas]


def guided(spy: Spy, weight: float, sigma: list[float], x: Tensor) -> Tensor:
    denoise = guided_denoise(cast(Denoiser, spy), COND, 3, Guidance({"label": weight}, interval=(0.3, 5.0)))
    return denoise(x, torch.tensor(sigma))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def class_estimate(x: Tensor) -> Tensor:
    return x + 10.0 * LABELS.view(-1, 1, 1, 1)


def test_weight_one_is_one_plain_call(x: Tensor) -> None:
    """Damage: always calling the network for both, which doubles the cost of the default."""
    spy = Spy()
    assert torch.equal(guided(spy, 1.0, [1.0, 1.0], x), class_estimate(x))
    assert spy.rows == [3]


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_autoguidance_steers_away_from_the_guidance_model(weight: float, x: Tensor) -> None:
    """Damage: the guidance model asked without the class, or everywhere; network and guide swapped."""
    spy, guidance_model = Spy(), Spy()
    shift = 7.0

    def worse(x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        return guidance_model(x, sigma, cond) - shift

    denoise = guided_denoise(
        cast(Denoiser, spy), COND, 3, Guidance({}, cast(Denoiser, worse), weight, interval=(0.3, 5.0))
    )
    expected = class_estimate(x) - shift + weight * shift
    assert torch.allclose(denoise(x, torch.tensor([1.0, 1.0])), expected)
    assert (spy.rows, guidance_model.rows) == ([3], [3])
    assert torch.equal(denoise(x, torch.tensor([6.0, 1.0])), class_estimate(x))
    assert (spy.rows, guidance_model.rows) == ([3, 3], [3])


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 7.5])
def test_formula(weight: float, x: Tensor) -> None:
    """Damage: D_class + weight (D_class - D_null); class and null halves swapped."""
    spy = Spy()
    expected = (x + NULL) + weight * (class_estimate(x) - (x + NULL))
    assert torch.allclose(guided(spy, weight, [1.0, 1.0], x), expected, atol=1e-5)
    assert spy.rows == [6]


@pytest.mark.parametrize(("level", "acts"), [(0.29, False), (0.31, True), (5.0, True), (5.01, False), (0.0, False)])
def test_interval(level: float, acts: bool, x: Tensor) -> None:
    """Damage: ignoring one end of the interval."""
    spy = Spy()
    out = guided(spy, 3.0, [level, 1.0], x)
    assert spy.rows == [6 if acts else 3]
    assert torch.equal(out, class_estimate(x)) is not acts


@pytest.mark.parametrize(("levels", "acts"), [([50.0, 1.0], False), ([1.0, 50.0], True)])
def test_interval_looks_at_the_image(levels: list[float], acts: bool, x: Tensor) -> None:
    """Damage: the mask's level, or the larger of the two."""
    spy = Spy()
    guided(spy, 3.0, levels, x)
    assert spy.rows == [6 if acts else 3]


def test_levels_are_those_of_the_row(x: Tensor) -> None:
    """Damage: one level for both modalities, or float64 levels for a float32 network."""
    spy = Spy()
    denoise = guided_denoise(cast(Denoiser, spy), COND, 3, Guidance({"label": 3.0}, interval=(0.3, 5.0)))
    denoise(x, torch.tensor([1.0, 0.25], dtype=torch.float64))
    assert spy.sigmas[0].tolist() == [[1.0, 0.25]] * 6
    assert spy.sigmas[0].dtype == x.dtype


class MaskSpy(Spy):
    """Answers as Spy does, and for the image, where the mask's level is below 40, with the mask added."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        answer = super().__call__(x, sigma, cond)
        sees = (sigma[:, 1] < 40).view(-1, 1, 1)
        answer[:, 0] += torch.where(sees, x[:, 1], 0.0)
        return answer


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_images_are_led_towards_their_masks(weight: float, x: Tensor) -> None:
    """Damage: the mask guided as well, the mask not hidden (its level or its channel), the wrong sign."""
    spy, noise = MaskSpy(), torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    guidance = Guidance(mask_weight=weight, interval=(0.3, 5.0))
    out = guided_denoise(cast(Denoiser, spy), COND, 3, guidance, (noise, 80.0))(x, torch.tensor([1.0, 0.5]))
    expected = class_estimate(x)
    expected[:, 0] += weight * x[:, 1]
    assert torch.allclose(out, expected, atol=1e-5)
    assert spy.rows == [3, 3]
    assert spy.sigmas[1].tolist() == [[1.0, 80.0]] * 3
    assert torch.equal(spy.seen[1][:, 0], x[:, 0])
    assert torch.equal(spy.seen[1][:, 1], 80 * noise[:, 1])


def test_the_mask_leads_within_the_interval_only(x: Tensor) -> None:
    """Damage: a second call at every level."""
    spy = MaskSpy()
    denoise = guided_denoise(cast(Denoiser, spy), COND, 3, Guidance(mask_weight=2.0, interval=(0.3, 5.0)), (x, 80.0))
    for level in (0.29, 5.1, 80.0):
        denoise(x, torch.tensor([level, level]))
    assert spy.rows == [3, 3, 3]


def test_mask_and_class_guide_together(x: Tensor) -> None:
    """Damage: one weight taken for both, or the mask's lead added to the wrong estimate."""
    spy = MaskSpy()
    guidance = Guidance({"label": 3.0}, mask_weight=2.0, interval=(0.3, 5.0))
    out = guided_denoise(cast(Denoiser, spy), COND, 3, guidance, (x, 80.0))(x, torch.tensor([1.0, 0.5]))
    expected = (x + NULL) + 3.0 * (class_estimate(x) - (x + NULL))
    expected[:, 0] += 2 * x[:, 1]
    assert torch.allclose(out, expected, atol=1e-4)
    assert spy.rows == [6, 3]


def test_little_noise_is_reported_as_less(x: Tensor) -> None:
    """Damage: the mask's level changed, every level changed, or the levels of the caller's table written over."""
    spy = Spy()
    denoise = guided_denoise(cast(Denoiser, spy), COND, 3, sigma_scale=0.5)
    table = torch.tensor([[0.25, 0.25], [0.5, 0.25], [0.125, 4.0], [0.0, 0.25]])
    for row in table:
        denoise(x, row)
    assert [reported[0].tolist() for reported in spy.sigmas] == [[0.125, 0.25], [0.5, 0.25], [0.0625, 4.0], [0.0, 0.25]]
    assert table[0].tolist() == [0.25, 0.25]


def test_what_is_reported_does_not_move_the_interval(x: Tensor) -> None:
    """Damage: the interval asked of the level that is reported."""
    spy = Spy()
    denoise = guided_denoise(
        cast(Denoiser, spy), COND, 3, Guidance({"label": 3.0}, interval=(0.2, 5.0)), sigma_scale=0.5
    )
    denoise(x, torch.tensor([0.25, 0.25]))
    assert spy.rows == [6]


def test_conditions_guide_beside_each_other(x: Tensor) -> None:
    """Damage: one weight for all, one condition hidden for the other, or a call for each of them."""
    calls: list[int] = []

    def denoiser(x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        calls.append(len(x))
        value = torch.where(cond["label"] >= 0, 10.0 * cond["label"], NULL)
        return x + (value + cond["size"].nan_to_num(5.0)).view(-1, 1, 1, 1)

    both = {"label": LABELS, "size": torch.tensor([1.0, 2.0, 3.0])}
    guidance = Guidance({"label": 3.0, "size": 2.0}, interval=(0.3, 5.0))
    out = guided_denoise(cast(Denoiser, denoiser), both, 3, guidance)(x, torch.tensor([1.0, 1.0]))
    better = 10.0 * LABELS + both["size"]
    expected = better + 2.0 * (10.0 * LABELS - NULL) + 1.0 * (both["size"] - 5.0)
    assert torch.allclose(out, x + expected.view(-1, 1, 1, 1), atol=1e-4)
    assert calls == [9]
    assert guidance.calls(torch.tensor([[1.0, 1.0], [0.0, 0.0]])) == 3
    out = guided_denoise(cast(Denoiser, denoiser), both, 3, guidance)(x, torch.tensor([9.0, 9.0]))  # above the interval
    assert torch.allclose(out, x + (better + both["size"] - 5.0).view(-1, 1, 1, 1), atol=1e-4)
    assert calls == [9, 6]
    below = guided_denoise(cast(Denoiser, denoiser), both, 3, guidance)(x, torch.tensor([0.2, 0.2]))
    assert torch.allclose(below, x + better.view(-1, 1, 1, 1), atol=1e-4)
    assert guidance.calls(torch.tensor([[9.0, 9.0], [1.0, 1.0], [0.2, 0.2], [0.0, 0.0]])) == 2 + 3 + 1


def test_guidance_steers_away_from_what_is_avoided(x: Tensor) -> None:
    """Damage: a negative prompt that is read and dropped, one that takes the place of the wish, or where none is."""

    def denoiser(x: Tensor, sigma: Tensor, cond: Conditions) -> Tensor:
        value = torch.where(cond["label"] >= 0, 10.0 * cond["label"], NULL)
        size = cond["size"].nan_to_num(5.0) if "size" in cond else 5.0
        return x + (value + size).view(-1, 1, 1, 1)

    avoided = {"size": torch.tensor([4.0, float("nan"), 4.0])}
    guidance = Guidance({"size": 2.0}, interval=(0.3, 5.0), avoided=avoided)
    both = {"label": LABELS, "size": torch.tensor([1.0, 2.0, 3.0])}
    out = guided_denoise(cast(Denoiser, denoiser), both, 3, guidance)(x, torch.tensor([1.0, 1.0]))
    expected = 10.0 * LABELS + both["size"] + (both["size"] - torch.tensor([4.0, 5.0, 4.0]))
    assert torch.allclose(out, x + expected.view(-1, 1, 1, 1), atol=1e-4)
    out = guided_denoise(cast(Denoiser, denoiser), COND, 3, guidance)(x, torch.tensor([1.0, 1.0]))  # nothing is asked
    expected = 10.0 * LABELS + 5.0 + (5.0 - torch.tensor([4.0, 5.0, 4.0]))
    assert torch.allclose(out, x + expected.view(-1, 1, 1, 1), atol=1e-4)


def test_weights_of_further_conditions(tmp_path: Path) -> None:
    """Damage: a weight that is read and dropped; one of a condition that the checkpoint does not take."""
    assert SamplingSettings(condition_guidance=["size=2", "text=0.5"]).settled(DiffusionConfig()).guide().guided == {
        "size": 2.0, "text": 0.5,
    }  # fmt: skip
    for text in ("size", "size=big", "label=2", "=2", "size=-1"):
        with pytest.raises(UserError, match=f"--condition_guidance: found '{text}'"):
            SamplingSettings(condition_guidance=[text])
    path = random_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="--condition_guidance: found a checkpoint of conditions label"):
        load_generator(path, {"condition_guidance": ["attributes=2"]})
    assert "condition_guidance" not in load_generator(path).settings("joint")
