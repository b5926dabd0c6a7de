"""benchmarks/recipe.py and sampling.py: arms that train can take, equal compute, and the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medsegdiff.conditioning.label import Label
from medsegdiff.data.records import SampleSet
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone
from medsegdiff.generators.joint_diffusion.config import DiffusionConfig, TrainConfig
from medsegdiff.synthesis.config import GenerateConfig

ROOT = Path(__file__).resolve().parents[3]
CONDITIONS = [Label(classes=["a", "b"], drop_rate=0.1)]
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
        network = build_backbone(config.backbone, Inputs(config.img_size, (0, 1), tuple(CONDITIONS)), config.model)
        counts[name] = sum(p.numel() for p in network.parameters())
    yardstick = counts.pop(recipe.ABLATION_BASE)
    assert max(counts.values()) / min(counts.values()) < 1.02
    assert abs(yardstick / counts["medsegdiff_v2"] - 1) < 0.02


def test_ours_among_the_libraries_samples_within_the_calls(benchmark: Any) -> None:
    """Damage: more calls than the libraries have, those of guidance not counted; a step too few."""
    compare = benchmark("compare_libraries")
    config = TrainConfig("d", diffusion=DiffusionConfig())
    steps, guidance = compare.steps_of_ours(config), compare.default_guidance(config.diffusion)
    calls = [guidance.calls(compare.sigma_table("joint", config.diffusion, n)) for n in (steps, steps + 1)]
    assert calls[0] <= compare.CALLS < calls[1]


def test_speed_is_measured_on_pictures_of_the_size_it_is_reported_for(
    benchmark: Any, tmp_path: Path, ellipses: SampleSet
) -> None:
    """Damage: leave `--progressive_resizing 0` out: the first steps of ours are on pictures of half the side."""
    compare = benchmark("compare_libraries")
    (tmp_path / "tiny.yaml").write_text(TINY + "progressive_resizing: 0.5\n")
    line = ["--real_data", "r", "--run_dir", "r", "--config", str(tmp_path / "tiny.yaml"), "--device", "cpu"]
    options = compare.parser().parse_args([*line, "--precision", "fp32"])
    sizes = []
    for batch in (2, None):
        arm = compare.build("medsegdiff", options, ellipses, 128, batch)
        arm.total_steps = 10
        arm.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
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
