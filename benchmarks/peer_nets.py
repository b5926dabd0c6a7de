"""Networks of other libraries behind one interface, each sized and trained as its own documentation does.

A peer has two channels, image and mask, in [-1, 1], and is conditioned on the class where the library offers that. What
the documentation leaves open is stated in `Recipe.note`. Nothing here is tuned to breast ultrasound, in either
direction. One more, `diffusers_small`, has a network as small as ours, so that size alone does not decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from medsegdiff.data.transforms import AugmentConfig

TIMESTEPS = 1000  # T, in all three documentations
CHANNELS = 2  # image and mask

# Mirroring alone, and MedNIST's small affine changes
MIRRORED = AugmentConfig(zoom_in=0.0, gamma=0.0, gain=0.0)
AFFINE = AugmentConfig(mirror=0.0, zoom_in=0.05, zoom_out=0.05, rotate=5.0, gamma=0.0, gain=0.0)


@dataclass(frozen=True)
class Recipe:
    """How the documentation of a library trains its network."""

    title: str
    package: str  # whose version counts
    source: str  # where the documentation says it
    batch: int  # pairs an optimiser step ...
    size: int  # ... at pictures of this side, pixels
    lr: float
    betas: tuple[float, float]
    weight_decay: float | None  # of AdamW; None: plain Adam
    warmup: int | None  # steps of linear warm-up before a cosine decay to 0; None: a constant rate
    clip: float | None  # largest norm of the gradient
    ema: float | None  # decay of averaged weights, updated every ten steps
    augment: AugmentConfig
    sampler: str  # the quick one that the library offers
    note: str = ""
    classes: bool = True  # whether the network can be conditioned on a class: without it there are no labelled pairs

    def batch_at(self, size: int) -> int:
        """Pairs a step for as many pixels a step as in the documentation."""
        return max(1, round(self.batch * (self.size / size) ** 2))


class Peer(nn.Module):
    """A network with its noise process: `loss` to train it, `call` once, `sample` with a few calls."""

    network: nn.Module

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        """The documented loss of clean channels (B, 2, S, S) in [-1, 1] and classes (B,), a scalar."""
        raise NotImplementedError

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """What the network says of noisy channels x at times t (B,)."""
        raise NotImplementedError

    def sample(self, labels: Tensor, size: int, calls: int) -> Tensor:
        """(B, 2, S, S) channels of classes `labels`, with `calls` network calls. Chance is torch's global one."""
        raise NotImplementedError


class NoisePeer(Peer):
    """diffusers and MONAI: a network and two schedulers, DDPM to train and DDIM to sample; the noise is predicted."""

    def __init__(self, network: nn.Module, train: Any, sample: Any) -> None:
        super().__init__()
        self.network, self.train_scheduler, self.sample_scheduler = network, train, sample

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(x0)
        t = torch.randint(0, TIMESTEPS, (len(x0),), device=x0.device)
        noisy = self.train_scheduler.add_noise(x0, noise, t)
        return mse_loss(self.call(noisy, t, labels).float(), noise)

    def sample(self, labels: Tensor, size: int, calls: int) -> Tensor:
        scheduler = self.sample_scheduler
        scheduler.set_timesteps(calls)
        x = torch.randn(len(labels), CHANNELS, size, size, device=labels.device)
        for t in scheduler.timesteps.tolist():
            estimate = self.call(x, torch.full((len(x),), t, device=x.device), labels).float()
            x = self._previous(scheduler.step(estimate, t, x))
        return x

    def _previous(self, result: Any) -> Tensor:
        raise NotImplementedError


class DiffusersPeer(NoisePeer):
    """https://huggingface.co/docs/diffusers/tutorials/basic_training, "Create a UNet2DModel"."""

    shape: ClassVar[dict[str, Any]] = {
        "layers_per_block": 2,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
    }

    def __init__(self, size: int, num_classes: int) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

        network: Any = UNet2DModel(
            sample_size=size,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_class_embeds=num_classes,
            **self.shape,
        )
        train: Any = DDPMScheduler(num_train_timesteps=TIMESTEPS)
        super().__init__(network, train, DDIMScheduler.from_config(train.config))

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, t, class_labels=labels, return_dict=False)[0]
        return output

    def _previous(self, result: Any) -> Tensor:
        previous: Tensor = result.prev_sample
        return previous


class SmallDiffusersPeer(DiffusersPeer):
    """The same class of network, with about as many parameters as ours: is it the size alone that decides?"""

    shape: ClassVar[dict[str, Any]] = {
        "layers_per_block": 1,
        "block_out_channels": (32, 64, 128, 160),
        "down_block_types": (*["DownBlock2D"] * 3, "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", *["UpBlock2D"] * 3),
    }


class MonaiPeer(NoisePeer):
    """https://github.com/Project-MONAI/tutorials, generation/2d_ddpm/2d_ddpm_tutorial.ipynb.

    Its DDIM spaces times by 999 / (calls - 1) and steps by 1000 // calls (version 1.6.1); it is taken as it is.
    """

    def __init__(self, size: int, num_classes: int) -> None:
        from monai.networks.nets import DiffusionModelUNet
        from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            channels=(128, 256, 256),
            attention_levels=(False, True, True),
            num_res_blocks=1,
            num_head_channels=256,
            num_class_embeds=num_classes,
        )
        schedulers = [kind(num_train_timesteps=TIMESTEPS) for kind in (DDPMScheduler, DDIMScheduler)]
        super().__init__(network, *schedulers)

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, timesteps=t, class_labels=labels)
        return output

    def _previous(self, result: Any) -> Tensor:
        previous: Tensor = result[0]
        return previous


class PlainPhilPeer(Peer):
    """https://github.com/lucidrains/denoising-diffusion-pytorch, README: `Unet` and `GaussianDiffusion`."""

    def __init__(self, size: int, num_classes: int) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        super().__init__()
        self.network = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=True, channels=CHANNELS)
        self.diffusion = GaussianDiffusion(self.network, image_size=size, timesteps=TIMESTEPS)

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.diffusion((x0 + 1) / 2)  # it wants [0, 1] and goes to [-1, 1] by itself
        return loss

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, t)
        return output

    def sample(self, labels: Tensor, size: int, calls: int) -> Tensor:
        self.diffusion.sampling_timesteps = calls
        sampled: Tensor = self.diffusion.ddim_sample((len(labels), CHANNELS, size, size))
        return sampled * 2 - 1


class PhilPeer(Peer):
    """The same library with classes: the example at the end of denoising_diffusion_pytorch/classifier_free_guidance.py.

    Sampled without guidance by class, as ours is by default: it takes two calls for one.
    """

    def __init__(self, size: int, num_classes: int) -> None:
        from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

        super().__init__()
        self.network = Unet(dim=64, dim_mults=(1, 2, 4, 8), num_classes=num_classes, channels=CHANNELS)
        # At scale 1 the library returns one tensor where its sampler unpacks two (version 2.3.4)
        self.network.forward_with_cond_scale = MethodType(_unguided, self.network)  # type: ignore[assignment]
        self.diffusion = GaussianDiffusion(self.network, image_size=size, timesteps=TIMESTEPS, ddim_sampling_eta=0.0)

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.diffusion((x0 + 1) / 2, classes=labels)
        return loss

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, t, labels, cond_drop_prob=0.0)
        return output

    def sample(self, labels: Tensor, size: int, calls: int) -> Tensor:
        self.diffusion.sampling_timesteps = calls
        sampled: Tensor = self.diffusion.ddim_sample(labels, (len(labels), CHANNELS, size, size), cond_scale=1.0)
        return sampled * 2 - 1


def _unguided(network: nn.Module, x: Tensor, t: Tensor, classes: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    output: Tensor = network(x, t, classes, cond_drop_prob=0.0)
    return output, output


PHIL = "denoising_diffusion_pytorch"
_phil = {
    "package": "denoising-diffusion-pytorch",
    "batch": 64,  # 32, gathered over two
    "size": 128,
    "lr": 8e-5,
    "betas": (0.9, 0.99),
    "weight_decay": None,
    "warmup": None,
    "clip": 1.0,
    "ema": 0.995,
    "augment": MIRRORED,
}
_diffusers = Recipe(
    "diffusers UNet2DModel",
    "diffusers",
    "docs/source/en/tutorials/basic_training.md of huggingface/diffusers",
    batch=16,
    size=128,
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    warmup=500,
    clip=1.0,
    ema=None,
    augment=MIRRORED,
    sampler="DDIM",
    note="class embedding (num_class_embeds) added",
)
PEERS: dict[str, tuple[Recipe, Callable[[int, int], Peer]]] = {
    "diffusers": (_diffusers, DiffusersPeer),
    "diffusers_small": (
        replace(
            _diffusers,
            title="diffusers UNet2DModel of our size",
            source="sized and trained by us, as ours where its library leaves that open",
            lr=1e-3,
            warmup=100,
            note="noise prediction and linear schedule, the library's defaults; a higher rate, for few steps",
        ),
        SmallDiffusersPeer,
    ),
    "monai": (
        Recipe(
            "MONAI DiffusionModelUNet",
            "monai",
            "generation/2d_ddpm/2d_ddpm_tutorial.ipynb of Project-MONAI/tutorials",
            batch=128,
            size=64,
            lr=2.5e-5,
            betas=(0.9, 0.999),
            weight_decay=None,
            warmup=None,
            clip=None,
            ema=None,
            augment=AFFINE,
            sampler="DDIM",
            note="class embedding (num_class_embeds) added; pictures in [-1, 1], in the tutorial in [0, 1]",
        ),
        MonaiPeer,
    ),
    "ddp_plain": (
        Recipe(
            f"{PHIL}.Unet",
            source="README.md of lucidrains/denoising-diffusion-pytorch",
            sampler="DDIM",
            note="v-prediction and sigmoid schedule, the library's defaults; takes no class",
            classes=False,
            **_phil,  # type: ignore[arg-type]
        ),
        PlainPhilPeer,
    ),
    "ddp": (
        Recipe(
            f"{PHIL}.Unet with classes",
            source="README.md and classifier_free_guidance.py of lucidrains/denoising-diffusion-pytorch",
            sampler="DDIM",
            note="classifier_free_guidance.Unet; noise prediction and cosine schedule, its defaults; no guidance",
            **_phil,  # type: ignore[arg-type]
        ),
        PhilPeer,
    ),
}


def build_peer(name: str, size: int, num_classes: int) -> Peer:
    """A fresh peer for pictures of `size` x `size`. Raises ImportError where its library is not installed."""
    return PEERS[name][1](size, num_classes)
