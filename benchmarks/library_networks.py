"""Networks of other libraries, each sized and trained as its own documentation does.

They have two channels, image and mask, in [-1, 1], and are conditioned on the class where the library offers that. What
the documentation leaves open is said in `Recipe.note`. Nothing here is tuned to breast ultrasound, in either direction.
One more, `diffusers_small`, has a network as small as ours, so that size alone does not decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

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
    """How the documentation of a library trains its network; the quick sampler of each is DDIM."""

    title: str
    package: str  # whose version counts
    source: str  # where the documentation says it
    batch: int  # pairs an optimiser step ...
    size: int  # ... at pictures of this side, pixels
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float | None = None  # of AdamW; None: plain Adam
    warmup: int | None = None  # steps of linear warm-up before a cosine decay to 0; None: a constant rate
    clip: float | None = 1.0  # largest norm of the gradient
    ema: float | None = None  # decay of averaged weights, updated every ten steps
    augment: AugmentConfig = MIRRORED
    note: str = ""
    classes: bool = True  # whether the network can be conditioned on a class: without it there are no labelled pairs

    def batch_at(self, size: int) -> int:
        """Pairs a step for as many pixels a step as in the documentation."""
        return max(1, round(self.batch * (self.size / size) ** 2))


class LibraryNetwork(nn.Module):
    """A network with its noise process."""

    network: nn.Module

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        """The documented loss of clean channels (B, 2, S, S) in [-1, 1] and classes (B,), a scalar."""
        raise NotImplementedError

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """What the network says of noisy channels x at times t (B,)."""
        raise NotImplementedError

    def draw(self, labels: Tensor, size: int, calls: int) -> Tensor:
        """(B, 2, S, S) channels of classes `labels`, with `calls` network calls. Chance is torch's global one."""
        raise NotImplementedError


class Scheduled(LibraryNetwork):
    """diffusers and MONAI: a network and two schedulers, DDPM to train and DDIM to sample; the noise is predicted.

    MONAI's DDIM spaces times by 999 / (calls - 1) and steps by 1000 // calls (version 1.6.1); it is taken as it is.
    """

    def __init__(self, network: nn.Module, train: Any, quick: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.train_scheduler, self.quick_scheduler, self.options = network, train, quick, options

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(x0)
        t = torch.randint(0, TIMESTEPS, (len(x0),), device=x0.device)
        return mse_loss(self.call(self.train_scheduler.add_noise(x0, noise, t), t, labels).float(), noise)

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Any = self.network(x, t, class_labels=labels, **self.options)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def draw(self, labels: Tensor, size: int, calls: int) -> Tensor:
        self.quick_scheduler.set_timesteps(calls)
        x = torch.randn(len(labels), CHANNELS, size, size, device=labels.device)
        for t in self.quick_scheduler.timesteps.tolist():
            estimate = self.call(x, torch.full((len(x),), t, device=x.device), labels).float()
            stepped: Any = self.quick_scheduler.step(estimate, t, x)
            x = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
        return x


def diffusers_network(size: int, classes: int, widths: tuple[int, ...], layers: int, attention: int) -> Scheduled:
    """https://huggingface.co/docs/diffusers/tutorials/basic_training, "Create a UNet2DModel"."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    down = ["DownBlock2D"] * len(widths)
    down[attention] = "AttnDownBlock2D"
    network: Any = UNet2DModel(
        sample_size=size, in_channels=CHANNELS, out_channels=CHANNELS, num_class_embeds=classes,
        layers_per_block=layers, block_out_channels=widths, down_block_types=tuple(down),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
    )  # fmt: skip
    train: Any = DDPMScheduler(num_train_timesteps=TIMESTEPS)
    return Scheduled(network, train, DDIMScheduler.from_config(train.config), {"return_dict": False})


def monai_network(size: int, classes: int) -> Scheduled:
    """https://github.com/Project-MONAI/tutorials, generation/2d_ddpm/2d_ddpm_tutorial.ipynb."""
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=CHANNELS, out_channels=CHANNELS, channels=(128, 256, 256),
        attention_levels=(False, True, True), num_res_blocks=1, num_head_channels=256, num_class_embeds=classes,
    )  # fmt: skip
    train, quick = (kind(num_train_timesteps=TIMESTEPS) for kind in (DDPMScheduler, DDIMScheduler))
    return Scheduled(network, train, quick, {})


class Gaussian(LibraryNetwork):
    """https://github.com/lucidrains/denoising-diffusion-pytorch: README, and with classes the example at the end of
    classifier_free_guidance.py, sampled without guidance, which takes two calls for one."""

    def __init__(self, size: int, classes: int | None) -> None:
        super().__init__()
        self.by_class = classes is not None
        if classes is None:
            from denoising_diffusion_pytorch import GaussianDiffusion, Unet

            self.network = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=True, channels=CHANNELS)
        else:
            from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

            self.network = Unet(dim=64, dim_mults=(1, 2, 4, 8), num_classes=classes, channels=CHANNELS)
            # At scale 1 the library returns one tensor where its sampler unpacks two (version 2.3.4)
            self.network.forward_with_cond_scale = MethodType(_unguided, self.network)  # type: ignore[assignment]
        self.diffusion = GaussianDiffusion(self.network, image_size=size, timesteps=TIMESTEPS, ddim_sampling_eta=0.0)

    def loss(self, x0: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.diffusion((x0 + 1) / 2, **({"classes": labels} if self.by_class else {}))  # wants [0, 1]
        return loss

    def call(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, t, labels, cond_drop_prob=0.0) if self.by_class else self.network(x, t)
        return output

    def draw(self, labels: Tensor, size: int, calls: int) -> Tensor:
        self.diffusion.sampling_timesteps = calls
        shape = (len(labels), CHANNELS, size, size)
        drawn: Tensor = (
            self.diffusion.ddim_sample(labels, shape, cond_scale=1.0)
            if self.by_class
            else self.diffusion.ddim_sample(shape)
        )
        return drawn * 2 - 1


def _unguided(network: nn.Module, x: Tensor, t: Tensor, classes: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    output: Tensor = network(x, t, classes, cond_drop_prob=0.0)
    return output, output


_diffusers = Recipe(
    "diffusers UNet2DModel", "diffusers", "docs/source/en/tutorials/basic_training.md of huggingface/diffusers",
    batch=16, size=128, lr=1e-4, weight_decay=0.01, warmup=500, note="class embedding (num_class_embeds) added",
)  # fmt: skip
_monai = Recipe(
    "MONAI DiffusionModelUNet", "monai", "generation/2d_ddpm/2d_ddpm_tutorial.ipynb of Project-MONAI/tutorials",
    batch=128, size=64, lr=2.5e-5, clip=None, augment=AFFINE,
    note="class embedding (num_class_embeds) added; pictures in [-1, 1], in the tutorial in [0, 1]",
)  # fmt: skip
_ddp = Recipe(
    "denoising_diffusion_pytorch.Unet with classes", "denoising-diffusion-pytorch",
    "README.md and classifier_free_guidance.py of lucidrains/denoising-diffusion-pytorch",
    batch=64, size=128, lr=8e-5, betas=(0.9, 0.99), ema=0.995,  # batches of 32, gathered over two
    note="classifier_free_guidance.Unet; noise prediction and cosine schedule, its defaults; no guidance",
)  # fmt: skip
LIBRARIES: dict[str, tuple[Recipe, Callable[[int, int], LibraryNetwork]]] = {
    "diffusers": (_diffusers, lambda size, n: diffusers_network(size, n, (128, 128, 256, 256, 512, 512), 2, 4)),
    "diffusers_small": (
        replace(
            _diffusers, title="diffusers UNet2DModel of our size", lr=1e-3, warmup=100,
            source="sized and trained by us, as ours where its library leaves that open",
            note="noise prediction and linear schedule, the library's defaults; a higher rate, for few steps",
        ),
        lambda size, n: diffusers_network(size, n, (32, 64, 128, 160), 1, 3),
    ),
    "monai": (_monai, monai_network),
    "ddp_plain": (
        replace(
            _ddp, title="denoising_diffusion_pytorch.Unet", classes=False,
            source="README.md of lucidrains/denoising-diffusion-pytorch",
            note="v-prediction and sigmoid schedule, the library's defaults; takes no class",
        ),
        lambda size, n: Gaussian(size, None),
    ),
    "ddp": (_ddp, Gaussian),
}  # fmt: skip


def build_library(name: str, size: int, classes: int) -> LibraryNetwork:
    """A fresh network for pictures of `size` x `size`. Raises ImportError where its library is not installed."""
    return LIBRARIES[name][1](size, classes)
