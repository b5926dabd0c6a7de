"""MobileNetV2 trained on photographs (ImageNet): what the discriminators of few-step training look through.

Another network than the one of `evaluate` (`efficientnet.py`), so that what a generator learns to please is not what
measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from medsegdiff.engine.weights import tensors_digest
from medsegdiff.features.perceptual.weights import another_network, weights_of

SETTING = "--feature_weights"
NETWORK = "MobileNetV2 as torchvision has it"
URL: str = MobileNet_V2_Weights.IMAGENET1K_V1.url
TAPS = {3: 24, 6: 32, 13: 96, 17: 320}  # layer -> channels of its output, at 1/4, 1/8, 1/16 and 1/32 of the size
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenFeatures(nn.Module):
    """Feature maps of pictures at four scales. It learns nothing, and hands gradients on to the pictures."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential, digest: str) -> None:
        super().__init__()
        self.digest = digest  # of the weights as they were given
        self.layers = layers[: max(TAPS) + 1].eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 1 or 3, S, S) in [0, 1] to [(B, channels, S / 4, S / 4), ..., (B, channels, S / 32, S / 32)]."""
        x = (pictures.expand(-1, 3, -1, -1) - self.mean) / self.std
        x, found = x.contiguous(memory_format=torch.channels_last), []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in TAPS:
                found.append(x)
        return found


def load_mobilenet(value: str) -> FrozenFeatures:
    """The network with the weights of a file or a "download", on the CPU.

    Raises `UserError` where the weights cannot be had.
    """
    tensors = weights_of(value, SETTING, URL, NETWORK)
    layers = mobilenet_v2().features
    own = list(layers.state_dict())
    given = {name.removeprefix("features."): t for name, t in tensors.items() if name.startswith("features.")}
    # Other projects number the parts of a layer in another way, in the same order; loading compares shapes
    named = given if set(own) <= set(given) else dict(zip(own, given.values(), strict=False))
    try:
        layers.load_state_dict(named)
    except RuntimeError as error:
        raise another_network(value, SETTING, NETWORK, error) from error
    digest = tensors_digest(layers.state_dict())
    _fuse(layers.eval())
    return FrozenFeatures(layers, digest).to(memory_format=torch.channels_last)


def _fuse(module: nn.Module) -> None:
    """Put batch normalisation into the convolution before it, which computes the same in half the time."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fuse(child)
        before = (name, child)
