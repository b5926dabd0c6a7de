"""benchmarks/recipe.py and sampling.py: arms that train can take, equal compute, and the tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medsegdiff.data.records import SampleSet
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, TrainConfig
from medsegdiff.synthesis.config import GenerateConfig

ROOT = Path(__file__).resolve().parents[3]
TINY = "model: {model_channels: 8, channel_mult: [1, 2], transformer_depth: 1, num_heads: 2}\n"


def test_every_arm_is_one_that_train_takes(benchmark: Any) -> None:
    """Damage: a flag that train has not, or two arms of the same settings, which would compare nothing."""
    recipe = benchmark("recipe")
    found = {name: recipe.settings("d", Path("o"), flags) for name, flags in recipe.arms().items()}
    for config in found.values():
        assert isinstance(config, TrainConfig)
    assert len({repr(config) for config in found.values()}) == len(found)
    assert len(recipe.QUESTIONS) <= 6


def test_ablation_is_at_equal_parameters(benchmark: Any) -> None:
    """Damage: a part left out that is not given back as width, so that a smaller network is what is compared."""
    recipe = benchmark("recipe")
    counts = {}
    for name in (recipe.ABLATION_BASE, *recipe.ABLATION):
        config = recipe.settings("d", Path("o"), recipe.arms()[name])
        network = build_backbone(config.backbone, Inputs(config.img_size, (0, 1)), config.model)
        counts[name] = sum(p.numel() for p in network.parameters())
    yardstick = counts.pop(recipe.ABLATION_BASE)
    assert max(counts.values()) / min(counts.values()) < 1.02
    assert abs(yardstick / counts["medsegdiff_v2"] - 1) < 0.02


def test_ours_among_the_peers_samples_within_the_calls(benchmark: Any, tmp_path: Path, ellipses: SampleSet) -> None:
    """Damage: more calls than the peers have; a warm-up of fewer calls than the default has refused."""
    arms = benchmark("peer_arms")
    (tmp_path / "tiny.yaml").write_text(TINY + "batch_size: 4\n")
    arm = arms.OurArm(arms.Setting(tmp_path / "tiny.yaml", size=16, device="cpu"), ellipses)
    model = arm.trainer.ema.model
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    for calls in (2, 20):
        asked.clear()
        images, masks = arm.sample(torch.tensor([0, 1]), (0,), calls)
        assert images.shape == masks.shape == (2, 1, 16, 16)
        assert sum(asked) // 2 in range(calls - 2, calls + 1)


def test_speed_is_measured_on_pictures_of_the_size_it_is_reported_for(
    benchmark: Any, tmp_path: Path, ellipses: SampleSet
) -> None:
    """Damage: leave `small_first=False` out: the first steps of ours are on pictures of half the side."""
    arms, speed = benchmark("peer_arms"), benchmark("peer_speed")
    (tmp_path / "tiny.yaml").write_text(TINY + "progressive_resizing: 0.5\n")
    options = argparse.Namespace(config=tmp_path / "tiny.yaml", device="cpu")
    sizes = []
    for setting in (speed.setting_of(options, 128, "fp32", 2), arms.Setting(tmp_path / "tiny.yaml", device="cpu")):
        arm = arms.OurArm(setting, ellipses)
        arm.total_steps = 10
        arm.trainer.denoiser.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
        arm.train_step(0)
    assert sizes == [128, 64]


def test_figures_of_another_checkpoint_are_refused(benchmark: Any, tmp_path: Path) -> None:
    """Damage: figures known by the name of their setting alone."""
    sampling, file, of = (
        benchmark("sampling"),
        tmp_path / "figures.json",
        {"checkpoint": "a", "flags": ["--steps", "8"]},
    )
    assert not sampling.is_done(file, of)
    file.write_text(json.dumps({"of": of}))
    assert sampling.is_done(file, of)
    for change in ({"checkpoint": "b"}, {"flags": []}):
        with pytest.raises(SystemExit, match=r"found figures of .* Give another --run_dir"):
            sampling.is_done(file, of | change)


def test_sampling_settings_are_those_of_generate(benchmark: Any) -> None:
    """Damage: a flag or sampler that generate has not; heun counted with one call a step, guidance with none."""
    sampling = benchmark("sampling")
    found = sampling.settings("guidance_model.safetensors")
    for flags in found.values():
        GenerateConfig(checkpoint_path="c", output_dir="o", **flags)
    diffusion = DiffusionConfig()
    assert sampling.calls(found["default"], diffusion) == 19
    assert sampling.calls(found["mask guidance 1"], diffusion) == 15
    assert sampling.calls(found["class guidance 2.0"], diffusion) == 23
    assert sampling.calls(found["heun 8"] | {"mask_guidance": 1}, diffusion) == 15
