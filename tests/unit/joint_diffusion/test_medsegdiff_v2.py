"""MedSegDiff-V2 in joint form: each module against its formula, and what the whole listens to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medsegdiff.cli import parse
from medsegdiff.conditioning.label import Label
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion import backbones as package
from medsegdiff.generators.joint_diffusion.backbones import Inputs, backbones, build_backbone
from medsegdiff.generators.joint_diffusion.backbones.medsegdiff_v2 import (
    Anchor,
    BandPass,
    MedSegDiffV2,
    Settings,
    SpectralAttention,
    SSFormerBlock,
)
from medsegdiff.generators.joint_diffusion.backbones.patch_unet import Settings as PatchUNetSettings
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig

SIDE, TOKENS = 32, 4  # pixels of a picture; tokens along a side of the bottleneck
SMALL: dict[str, Any] = {"model_channels": 16, "channel_mult": (1, 2), "transformer_depth": 2, "num_heads": 2}
CONDITIONS = [Label(classes=["a", "b"], drop_rate=0.1)]
LABELS = {"label": torch.tensor([0, 1, 0, 1])}


def perturbed(module: Any, amount: float = 0.1) -> Any:
    """The module in evaluation mode with every weight moved off its start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(amount * torch.randn_like(weight))
    return module.eval()


def network(**changes: Any) -> MedSegDiffV2:
    torch.manual_seed(0)
    return perturbed(MedSegDiffV2(**{"img_size": SIDE, "conditions": CONDITIONS, **SMALL, **changes}))


def inputs(channels: int = 2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4, channels, SIDE, SIDE, generator=random)
    return x, torch.randn(4, 2, generator=random) / 4


def tokens(seed: int, channels: int = 8) -> Tensor:
    return torch.randn(2, TOKENS**2, channels, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_anchor_is_never_darker_than_its_input() -> None:
    """Damage: the smoothed feature alone, the smaller of both, or a border darkened by padding with zeros."""
    module, other = perturbed(Anchor(8, 4)), torch.randn(2, 8, 12, 12)
    anchor = module.anchor(other)
    assert bool((anchor >= other).all())
    assert bool((anchor > other).any())
    flat = torch.full((1, 8, 12, 12), 3.0)
    assert torch.allclose(module.anchor(flat), flat)


@torch.no_grad()
def test_anchor_gates_by_its_formula() -> None:
    """Damage: the gate without the input added, or the kernel of another width."""
    module = perturbed(Anchor(3, 5))
    h, other = torch.randn(2, 5, 9, 9), torch.randn(2, 3, 9, 9)
    at = torch.arange(-2.0, 3.0)
    for c, log_width in enumerate(module.log_width):
        gauss = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * log_width.exp() ** 2))
        assert torch.allclose(module.kernel()[c, 0], gauss / gauss.sum(), atol=1e-6)
    centre = (other[:, :, 2:7, 2:7] * module.kernel()[:, 0]).sum(dim=(2, 3))
    anchored = torch.maximum(centre, other[:, :, 4, 4])
    gate = torch.sigmoid(anchored @ module.gate.weight[:, :, 0, 0].T + module.gate.bias)
    assert torch.allclose(module(h, other)[:, :, 4, 4], (1 + gate) * h[:, :, 4, 4], atol=1e-5)


@torch.no_grad()
def test_band_pass_of_unit_gain_is_the_identity() -> None:
    """Damage: another norm or size of the inverse transform."""
    x = tokens(1)
    assert torch.allclose(BandPass(8, TOKENS, 6)(x, torch.randn(2, 6)), x, atol=1e-5)


@torch.no_grad()
def test_band_pass_passes_its_band_alone() -> None:
    """Damage: frequencies of the two directions mixed up, gain by position instead of frequency."""
    module = BandPass(1, 8, 6)
    module.gain.zero_()
    module.gain[2, 1] = 0.5  # two waves downwards, one across
    down, across = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    angle = 2 * torch.pi / 8
    kept = torch.cos(angle * (2 * down + across)).reshape(1, 64, 1)
    lost = torch.cos(angle * (down + 2 * across)).reshape(1, 64, 1)
    out = module(kept + lost, torch.zeros(1, 6))
    assert torch.allclose(out, 0.5 * kept, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("wave", [(1, 0), (0, 1), (-1, 1), (1, 1)])
def test_band_pass_knows_its_frequencies_on_a_coarser_grid(wave: tuple[int, int]) -> None:
    """Damage: gains interpolated between frequencies, or those of negative ones taken from the middle."""
    module = perturbed(BandPass(1, 8, 6))
    gained = []
    for side in (8, 4):
        down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        picture = torch.cos(2 * torch.pi / side * (wave[0] * down + wave[1] * across)).reshape(1, side**2, 1)
        gained.append(float((module(picture, torch.zeros(1, 6)) * picture).sum() / picture.square().sum()))
    assert gained[1] == pytest.approx(gained[0], abs=1e-5)


@torch.no_grad()
def test_band_pass_listens_to_the_noise_level() -> None:
    """Damage: scale and shift not applied, or applied in space."""
    module = perturbed(BandPass(8, TOKENS, 6))
    x, e = tokens(1), torch.randn(2, 6)
    scale, shift = module.modulation(e)[:, None, None].chunk(2, dim=-1)
    spectrum = torch.fft.fft2(x.view(2, TOKENS, TOKENS, 8), dim=(1, 2))
    half = spectrum[:, :, : TOKENS // 2 + 1] * (module.gain * (1 + scale) + shift)
    expected = torch.fft.irfft2(half, s=(TOKENS, TOKENS), dim=(1, 2)).flatten(1, 2)
    assert torch.allclose(module(x, e), expected, atol=1e-5)


@torch.no_grad()
def test_affinity_by_its_formula() -> None:
    """Damage: no sin, sin in space, a transform of the wrong axis or without its inverse."""
    module = perturbed(SpectralAttention(8, 2), 0.5)
    q, k = (torch.randn(2, 2, TOKENS**2, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    line = torch.fft.fft(torch.eye(TOKENS), norm="ortho")
    fourier = torch.kron(line, line)  # of a flattened picture of tokens; symmetric and unitary
    m = (fourier @ q.cfloat()) @ (fourier @ k.cfloat()).mH / 4**0.5
    spectral = fourier.mH @ torch.complex(m.real.sin(), m.imag.sin()) @ fourier
    assert float(spectral.imag.abs().max()) < 1e-5  # it is real, as said
    assert torch.allclose(module.affinity(q, k), spectral.real / TOKENS, atol=1e-5)
    small = 1e-3  # where sin is the identity: queries times keys in space
    plain = small**2 * q @ k.mT / 4**0.5 / TOKENS
    assert torch.allclose(module.affinity(small * q, small * k), plain, atol=1e-9)


@torch.no_grad()
def test_swapping_roles_swaps_the_result() -> None:
    """Damage: one direction asked twice, or the second one given the first one's result."""
    block = perturbed(SSFormerBlock(8, TOKENS, 2, 6, 0.0, True))
    image, mask, e = tokens(1), tokens(2), torch.randn(2, 6)
    first = block(image, mask, e)
    block.halves = torch.nn.ModuleList(reversed(block.halves))
    second = block(mask, image, e)
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_channels": 3},
        {"patch_size": 2, "channel_mult": (1, 2, 2)},
        {"num_res_blocks": 2},
        {"use_transformer": False},
        {"use_spectrum": False},
        {"use_anchor": False},
        {"use_band_pass": False},
        {"mask_share": 1.0},
    ],
)
def test_shape_and_every_weight_learns(changes: dict[str, Any]) -> None:
    """Damage: a module that is built but not called; skips of one stream given to the other."""
    x, c_noise = inputs(changes.get("in_channels", 1) + 1)
    model = network(**changes)
    out = model(x, c_noise, {"label": torch.tensor([0, 1, 0, -1])})
    assert out.shape == x.shape
    out.square().sum().backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []


@torch.no_grad()
def test_leaving_a_part_out_leaves_it_out() -> None:
    """Damage: a switch without effect."""
    whole = {name.split(".")[0] for name, _ in network().named_parameters()}
    assert {"image_anchors", "mask_anchors", "exchange"} <= whole
    for switch, gone in (("use_anchor", "anchors"), ("use_transformer", "exchange"), ("use_band_pass", "filter")):
        assert not [n for n, _ in network(**{switch: False}).named_parameters() if gone in n]
    spectral = [type(m) for m in network(use_spectrum=False).modules()]
    assert SpectralAttention not in spectral


@pytest.mark.parametrize("part", ["use_anchor", "use_transformer"])
@torch.no_grad()
def test_each_way_alone_say_the_mask_stream_of_the_image(part: str) -> None:
    """Damage: anchor or exchange wired to the own stream, so that mask and image do not belong together."""
    x, c_noise = inputs()
    changed = x.clone()
    changed[:, 0] += 1
    for use, reaches in ((True, True), (False, False)):
        alone = {"use_anchor": False, "use_transformer": False} | {part: use}
        model = network(**alone)
        model.refiner.conv1.weight[:, :4] = 0  # what the output stage itself sees of the image ...
        model.refiner.conv1.weight[:, [6, 8]] = 0
        difference = (model(x, c_noise, LABELS) - model(changed, c_noise, LABELS)).abs().max()
        assert (float(difference) > 1e-6) is reaches


@torch.no_grad()
def test_batch_equals_one_by_one() -> None:
    """Damage: a transform over the batch axis."""
    model, (x, c_noise) = network(), inputs()
    single = [model(x[i : i + 1], c_noise[i : i + 1], {"label": LABELS["label"][i : i + 1]}) for i in range(4)]
    assert torch.allclose(model(x, c_noise, LABELS), torch.cat(single), atol=1e-4)


@pytest.mark.parametrize("name", sorted(backbones()))
@torch.no_grad()
def test_backbones_are_found_by_name(name: str) -> None:
    """Damage: a backbone that ignores the settings, or is not found."""
    small = ModelConfig(model_channels=16, channel_mult=[1, 2], transformer_depth=1, num_heads=2)
    x, c_noise = inputs()
    assert build_backbone(name, Inputs(SIDE, (0, 1), tuple(CONDITIONS)), small)(x, c_noise, LABELS).shape == x.shape
    wide = ModelConfig(model_channels=32, channel_mult=[1, 2], transformer_depth=1, num_heads=2)
    counts = [
        sum(p.numel() for p in build_backbone(name, Inputs(SIDE, (0, 1), tuple(CONDITIONS)), m).parameters())
        for m in (small, wide)
    ]
    assert counts[1] > 2 * counts[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--backbone unet", "--backbone: found unet; expected one of medsegdiff_v2, patch_unet"),
        ("--model.use_anchor false", r"unknown setting --model\.use_anchor; expected a .* train --backbone patch_unet"),
        (
            "--backbone medsegdiff_v2 --model.use_spectrum false --model.use_band_pass false",
            "--model.use_band_pass: found False; expected True, as medsegdiff_v2 has no use for it",
        ),
        (
            "--backbone medsegdiff_v2 --model.use_transformer false --model.use_spectrum false",
            "--model.use_spectrum: found False",
        ),
        ("--backbone medsegdiff_v2 --model.mask_share -1", "--model.mask_share: found -1"),
        ("--augment_prob 0.2 --augment false", "--augment_prob: found 0.2; expected 0 with --augment false"),
        ("--augment_prob 1.0", "--augment_prob: found 1.0; expected 0 or more, and below 1"),
        ("--model.augment_conditioning true", r"unknown setting --model\.augment_conditioning"),
        ("--model.low_res_factor 3", "--model.low_res_factor: found 3; expected one that divides 256"),
        ("--model.low_res_factor 16", "--model.low_res_factor: found 16"),  # one pixel at the bottleneck
        ("--model.low_res_factor 0", "--model.low_res_factor: found 0"),
        ("--model.low_res_sigma 2.0", "--model.low_res_sigma: found 2.0; expected --model.low_res_factor"),
        ("--model.low_res_factor 2 --model.low_res_sigma 80", "--model.low_res_sigma: found 80.0"),
        ("--progressive_resizing 1.0", "--progressive_resizing: found 1.0; expected 0 or more, and below 1"),
        ("--diffusion.sdf_truncation -1", "--diffusion.sdf_truncation: found -1"),
        ("--diffusion.sigma_data 0.5", r"unknown setting --diffusion\.sigma_data"),
        ("--conditions augmentation", "--conditions: found augmentation; expected --augment_prob, which adds it"),
        ("--conditions colour", "--conditions: found colour; expected some of label, modality, text, encoded_text, "),
    ],
)
def test_backbones_that_do_not_fit(flags: str, message: str) -> None:
    """Damage: no check: a setting that does nothing."""
    with pytest.raises(UserError, match=message):
        parse("train", TrainConfig, f"--data_dir d {flags}".split())


def test_a_backbone_owns_its_settings() -> None:
    """Damage: settings of one backbone taken for those of another; defaults of its own lost beside shared ones."""
    small = ModelConfig(model_channels=16, num_heads=2)
    config = TrainConfig("d", backbone="medsegdiff_v2", model=small)
    assert config.model == Settings(model_channels=16, num_heads=2)
    assert TrainConfig("d", backbone="medsegdiff_v2").model == Settings()
    assert TrainConfig("d").model == PatchUNetSettings()
    with pytest.raises(UserError, match=r"--model: found mask_share, use_anchor, .*, of another backbone"):
        TrainConfig("d", model=Settings())


NEW_BACKBONE = """
from dataclasses import dataclass
from torch import nn
from medsegdiff.generators.joint_diffusion.backbones.config import NetworkConfig

@dataclass(frozen=True)
class Settings(NetworkConfig):
    width: int = 8  # channels

    @property
    def size_multiple(self):
        return 2

def build(inputs, settings):
    return nn.Conv2d(len(inputs.modality), settings.width, 1)
"""


def test_a_new_backbone_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a list of backbones or of their settings somewhere else, to which a new one has to be added."""
    (tmp_path / "wide.py").write_text(NEW_BACKBONE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    try:
        config = parse("train", TrainConfig, "--data_dir d --backbone wide --model.width 4 --img_size 6".split())
        network: Any = build_backbone("wide", Inputs(6, (0, 1)), config.model)
        assert network.weight.shape == (4, 2, 1, 1)
        with pytest.raises(UserError, match="--img_size: found 5; expected a multiple of 2"):
            TrainConfig("d", backbone="wide", img_size=5)
        with pytest.raises(UserError, match=r"unknown setting --model\.num_heads; .* train --backbone wide"):
            parse("train", TrainConfig, "--data_dir d --backbone wide --model.num_heads 4".split())
    finally:
        sys.modules.pop(f"{package.__name__}.wide", None)
