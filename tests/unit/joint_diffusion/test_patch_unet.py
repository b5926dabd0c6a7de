"""The backbone: shapes, where it starts from, what it listens to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, scaled_dot_product_attention

from medsegdiff.cli import parse
from medsegdiff.conditioning.augmentation import Augmentation
from medsegdiff.conditioning.base import hide
from medsegdiff.conditioning.label import Label
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.backbones import Inputs, backbones, build_backbone
from medsegdiff.generators.joint_diffusion.backbones.blocks import attend, group_norm, positions_at
from medsegdiff.generators.joint_diffusion.backbones.patch_unet import PatchUNet
from medsegdiff.generators.joint_diffusion.config import ModelConfig, TrainConfig

CONFIGS = Path(__file__).parents[3] / "configs"
SIDE = 16
SMALL: dict[str, Any] = {
    "model_channels": 8, "channel_mult": (1, 2), "transformer_depth": 1, "num_heads": 2, "patch_size": 4,
}  # fmt: skip


def network(perturb: bool = True, **changes: Any) -> PatchUNet:
    """A small network in evaluation mode; `perturb` moves every weight off its start."""
    torch.manual_seed(0)
    model = PatchUNet(**{"img_size": SIDE, "conditions": CONDITIONS, **SMALL, **changes}).eval()
    if perturb:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def inputs(n: int = 4, modality: Sequence[int] = (0, 1)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(n, len(modality), SIDE, SIDE, generator=random)
    return x, torch.randn(n, max(modality) + 1, generator=random) / 4


CONDITIONS = [Label(classes=["a", "b"], drop_rate=0.1)]
LABELS = {"label": torch.tensor([0, 1, 0, 1])}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modality": (0, 0, 0, 1)},
        {"patch_size": 2, "channel_mult": (1, 2, 2)},
        {"num_res_blocks": 2},
        {"use_transformer": False},
        {"modality": (0, 1, 2)},
    ],
)
@torch.no_grad()
def test_shape(changes: dict[str, Any]) -> None:
    """Damage: a decoder stage short, or skips taken in the order of the encoder."""
    x, c_noise = inputs(modality=changes.get("modality", (0, 1)))
    out = network(**changes)(x, c_noise, LABELS)
    assert out.shape == x.shape
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("name", sorted(backbones()))
@torch.no_grad()
def test_smaller_pictures(name: str) -> None:
    """Damage: positions cut off or repeated instead of averaged; a side of the bottleneck that is fixed."""
    torch.manual_seed(0)
    settings = ModelConfig(model_channels=16, channel_mult=[1, 2], transformer_depth=1, num_heads=2)
    model = build_backbone(name, Inputs(4 * SIDE, (0, 1), tuple(CONDITIONS)), settings).eval()
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    x, c_noise = inputs()
    small = model(avg_pool2d(x, 2).repeat(1, 1, 4, 4), c_noise, LABELS)
    assert small.shape == (4, 2, 2 * SIDE, 2 * SIDE)
    assert bool(torch.isfinite(small).all())
    grid = torch.arange(16.0).reshape(1, 16, 1)  # rows of 4
    assert positions_at(grid, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert positions_at(grid, 4) is grid


@torch.no_grad()
def test_attention_written_out_is_attention() -> None:
    """Damage: no division by the root of the width; keys and values exchanged."""
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(attend(q, k, v), scaled_dot_product_attention(q, k, v), atol=1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (192, 12), (16, 1), (8, 1), (56, 1), (72, 4)])
def test_groups_of_channels(channels: int, groups: int) -> None:
    """Damage: a group a channel, which is slow; groups that do not divide the channels."""
    assert group_norm(channels).num_groups == groups


@torch.no_grad()
def test_starts_as_nothing_but_a_bias() -> None:
    """Damage: no zero initialisation of the last convolution, so that training starts from noise."""
    out = network(perturb=False)(*inputs(), LABELS)
    assert torch.equal(out, out[:1, :, :1, :1].expand_as(out))
    assert float(out.abs().max()) < 0.5


@pytest.mark.parametrize("sigmas", [(0.01, 20.0), (20.0, 0.5), (0.5, 0.01)])
@torch.no_grad()
def test_output_stage_sees_detail_in_units_of_the_noise(sigmas: tuple[float, float]) -> None:
    """Damage: the deviation of modality 0 for every channel; sigma without the scaling c_in."""
    modality = (0, 1, 1)
    model, seen = network(modality=modality), []
    model.refiner.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    sigma = torch.tensor([sigmas])
    level = sigma[:, modality].view(1, 3, 1, 1)
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    model(level * noise / (level**2 + 0.25).sqrt(), sigma.log() / 4, {"label": torch.tensor([0])})
    excess = seen[0][0, -3:]
    assert torch.allclose(excess, torch.tanh((noise - avg_pool2d(noise, 3, 1, 1, count_include_pad=False)) / 2)[0])


@torch.no_grad()
def test_batch_equals_one_by_one() -> None:
    """Damage: batch normalisation, or a flatten that mixes rows."""
    model, (x, c_noise) = network(), inputs()
    together = model(x, c_noise, LABELS)
    single = [model(x[i : i + 1], c_noise[i : i + 1], {"label": LABELS["label"][i : i + 1]}) for i in range(4)]
    assert torch.allclose(together, torch.cat(single), atol=1e-5)


@torch.no_grad()
def test_class_and_levels_matter() -> None:
    """Damage: the embedding not handed to the blocks; only the first modality's level read."""
    model, (x, c_noise) = network(), inputs()
    out = model(x, c_noise, LABELS)
    other = model(x, c_noise, {"label": torch.tensor([1, 1, 0, 0])})
    assert [bool(torch.allclose(out[i], other[i], atol=1e-6)) for i in range(4)] == [False, True, True, False]
    for column in range(2):
        changed = c_noise.clone()
        changed[:, column] += 0.3
        assert not torch.allclose(model(x, changed, LABELS), out, atol=1e-4)
        assert not torch.allclose(model.levels(changed), model.levels(c_noise), atol=0.1)
    assert not torch.allclose(model.levels(c_noise.flip(1)), model.levels(c_noise), atol=0.1)


@pytest.mark.parametrize("name", sorted(backbones()))
@torch.no_grad()
def test_reported_moves_matter_and_none_are_zero(name: str) -> None:
    """Damage: conditions not passed on, or a bias, by which an unconditioned picture would differ from an
    unmoved one."""
    torch.manual_seed(0)
    settings = ModelConfig(model_channels=16, channel_mult=[1, 2], transformer_depth=1, num_heads=2)
    conditions = [*CONDITIONS, Augmentation(units=[1.0] * 6)]
    model = build_backbone(name, Inputs(SIDE, (0, 1), tuple(conditions)), settings).eval()
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    x, c_noise = inputs()
    moves = torch.zeros(4, 6)
    plain = model(x, c_noise, LABELS)
    assert torch.equal(model(x, c_noise, LABELS | {"augmentation": moves}), plain)
    moves[1, 3] = 1
    changed = (model(x, c_noise, LABELS | {"augmentation": moves}) - plain).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, True, False, False]


@torch.no_grad()
def test_hidden_classes_use_the_null_embedding() -> None:
    """Damage: what is hidden ignored, or inverted; class 0 taken for the null class."""
    model, (x, c_noise) = network(), inputs()
    unknown = model(x, c_noise, {})
    kept = model(x, c_noise, LABELS)
    mixed = model(x, c_noise, {"label": hide(LABELS["label"], torch.tensor([True, False, False, True]))})
    hidden = model(x, c_noise, {"label": hide(LABELS["label"], torch.zeros(4, dtype=torch.bool))})
    assert torch.equal(hidden, unknown)
    assert torch.allclose(mixed[[0, 3]], kept[[0, 3]], atol=1e-6)
    assert torch.allclose(mixed[[1, 2]], unknown[[1, 2]], atol=1e-6)
    difference = (kept - unknown).abs().amax(dim=(1, 2, 3))
    assert bool((difference > 1e-3).all())


@torch.no_grad()
def test_transformer_sees_the_whole_picture() -> None:
    """Damage: attention within channels instead of positions; use_transformer without effect."""
    x, c_noise = inputs(1)
    changed = x.clone()
    changed[..., :2, :2] += 1
    cond = {"label": torch.tensor([0])}
    for use, reaches in ((True, True), (False, False)):
        model = network(use_transformer=use, img_size=128)
        wide, moved = (torch.nn.functional.pad(t, (0, 112, 0, 112)) for t in (x, changed))
        with torch.no_grad():  # group statistics would carry the change everywhere, too
            for module in model.modules():
                if isinstance(module, torch.nn.GroupNorm):
                    module.forward = torch.nn.Identity().forward
        far = (model(wide, c_noise, cond) - model(moved, c_noise, cond))[..., -8:, -8:]
        assert bool((far != 0).any()) is reaches


def test_every_weight_learns() -> None:
    """Damage: a module that is built but not called."""
    model, (x, c_noise) = network(), inputs()
    model(x, c_noise, {"label": torch.tensor([0, 1, 0, -1])}).square().sum().backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []


@pytest.mark.parametrize(("name", "millions"), [("busi_128", 5.7), ("quickstart", None), ("busi_256", None)])
def test_configs_build(name: str, millions: float | None) -> None:
    """Damage: another width or depth in busi_128.yaml or in the blocks."""
    config = parse("train", TrainConfig, ["--config", str(CONFIGS / f"{name}.yaml"), "--data_dir", "d"])
    m = config.model
    assert isinstance(m, ModelConfig)
    with torch.device("meta"):
        model = PatchUNet(
            config.img_size, patch_size=m.patch_size, model_channels=m.model_channels, channel_mult=m.channel_mult,
            num_res_blocks=m.num_res_blocks, use_transformer=m.use_transformer,
            transformer_depth=m.transformer_depth, num_heads=m.num_heads,
        )  # fmt: skip
    if millions is not None:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--img_size 50", r"--img_size: found 50; expected a multiple of 16 \(patch_size .*\)\. Try 48\."),
        ("--img_size 3", r"--img_size: found 3; expected a multiple of 16 .* Try 16\."),
        ("--model.num_heads 5", "--model.num_heads: found 5; expected a divisor of 288 channels"),
        ("--model.in_channels 3", r"unknown setting --model\.in_channels; expected a .* train --backbone patch_unet\."),
    ],
)
def test_sizes_that_do_not_fit(flags: str, message: str) -> None:
    """Damage: no check: a RuntimeError about tensor sizes minutes later."""
    with pytest.raises(UserError, match=message):
        parse("train", TrainConfig, f"--data_dir d {flags}".split())
