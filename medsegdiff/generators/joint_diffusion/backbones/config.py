"""Settings of denoising networks: what all of them have, and what those that are U-Nets share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from medsegdiff.errors import require, require_fraction, require_positive


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of every denoising network; a backbone adds its own in its file."""

    low_res_factor: int = 1  # how many times smaller the pictures are on which high noise is taken off; 1: not
    low_res_sigma: float = 1.5  # noise level from which they are

    def __post_init__(self) -> None:
        require_positive(**{"model.low_res_factor": self.low_res_factor})
        if self.low_res_factor == 1:
            plain, expected = NetworkConfig.low_res_sigma, "--model.low_res_factor above 1 beside it"
            require(self.low_res_sigma == plain, "--model.low_res_sigma", self.low_res_sigma, expected, "Leave it out.")

    @property
    def size_multiple(self) -> int:
        """What sides of pictures have to be multiples of, pixels."""
        return 1

    @property
    def own(self) -> dict[str, Any]:
        """The settings that a backbone adds, by name: arguments of its network."""
        shared = {f.name for f in dataclasses.fields(NetworkConfig)}
        return {name: value for name, value in vars(self).items() if name not in shared}


@dataclass(frozen=True)
class ModelConfig(NetworkConfig):
    """A U-Net on patches with transformer blocks at its bottleneck."""

    patch_size: int = 4  # space-to-depth factor of the stem, pixels
    model_channels: int = 96  # channels at the finest level of the U-Net
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 3])  # channels a level, times model_channels
    num_res_blocks: int = 1  # residual blocks a level, on the way down and on the way up
    use_transformer: bool = True  # transformer blocks at the bottleneck
    transformer_depth: int = 4  # how many of them
    num_heads: int = 4  # attention heads of each
    dropout: float = 0.1  # in residual and transformer blocks

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("patch_size", "model_channels", "num_res_blocks", "num_heads")
        require_positive(**{f"model.{name}": getattr(self, name) for name in sizes})
        fits = bool(self.channel_mult) and min(self.channel_mult) > 0
        require(fits, "--model.channel_mult", self.channel_mult, "1 or more each")
        require(self.transformer_depth >= 0, "--model.transformer_depth", self.transformer_depth, "0 or more")
        require_fraction("model.dropout", self.dropout)
        widest = self.model_channels * self.channel_mult[-1]
        fits = widest % self.num_heads == 0
        require(fits, "--model.num_heads", self.num_heads, f"a divisor of {widest} channels")

    @property
    def size_multiple(self) -> int:
        """The patch, halved at every level of the U-Net."""
        return int(self.patch_size * 2 ** (len(self.channel_mult) - 1))
