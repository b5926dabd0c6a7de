"""Make a checkpoint small enough to hand on: the same network in bf16, half the bytes, in one file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from medsegdiff.engine.files import make_folder
from medsegdiff.engine.settings import expand_home
from medsegdiff.errors import require
from medsegdiff.generators.base import find_checkpoint
from medsegdiff.generators.joint_diffusion.checkpoint import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportConfig:
    """Subcommand export: a checkpoint with its weights in bf16, to hand on."""

    checkpoint_path: str  # generative checkpoint, as train writes it
    output_path: str  # .safetensors file to write

    def __post_init__(self) -> None:
        expand_home(self)
        expected = "a name that ends in .safetensors"
        require(Path(self.output_path).suffix == ".safetensors", "--output_path", self.output_path, expected)


def export(config: ExportConfig) -> Path:
    """Write the checkpoint with weights rounded to bf16; returns the path.

    Rounding moves a weight by at most one part in 256; sampling computes with as many digits as before. The file keeps
    the card: settings, statistics, class names, and hashes of the train pictures, by which later phases notice leaks.
    Raises `UserError` for a file that is no generative checkpoint, and where it would be written over itself.
    """
    source, target = find_checkpoint(Path(config.checkpoint_path)), Path(config.output_path)
    apart = not target.exists() or not target.samefile(source)
    require(apart, "--output_path", target, "another file than the checkpoint itself")
    require(not target.is_dir(), "--output_path", f"{target}, a folder", "a file to write")
    denoiser, card, _ = load_checkpoint(source)
    make_folder(target.parent)
    rounded = {name: value.to(torch.bfloat16) for name, value in denoiser.named_parameters()}
    weights = denoiser.state_dict() | rounded  # buffers (frequencies of the noise level) bear no rounding
    save_checkpoint(target, weights, card)
    logger.info("%s: %.1f MB", target, target.stat().st_size / 1e6)
    return target
