"""Memory that training takes by side of the pictures: computed, not measured.

    python benchmarks/memory.py --config multi_128 --sides 64 128 256 320 --batch_size 16

Counted are weights, gradients, both moments of AdamW, averages of the weights, and all that a forward pass of one
batch keeps for the backward pass, in fp32. A GPU takes more by what kernels need beside that (a tenth to a fifth),
and about 0.5 GiB for CUDA itself; autocast (bf16) takes about half of what a forward pass keeps.
"""

from __future__ import annotations

import argparse

import torch
import yaml
from torch import Tensor

from medsegdiff.conditioning.label import Label
from medsegdiff.engine.packaged import packaged
from medsegdiff.generators.joint_diffusion.backbones import Inputs, build_backbone, settle_settings
from medsegdiff.generators.joint_diffusion.backbones.config import ModelConfig

MODALITY = (0, 0, 0, 1)  # a colour picture and a mask
COPIES = 1 + 1 + 2 + 3  # weights, gradients, moments, averages of three lengths


def kept_for_backward(network: torch.nn.Module, side: int, batch: int) -> int:
    """Bytes that a forward pass keeps, each storage once, without the weights."""
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(batch, len(MODALITY), side, side)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(x, torch.zeros(batch, 2), {"label": torch.zeros(batch, dtype=torch.long)})
    assert out.requires_grad  # so that what was kept is still there, at addresses of its own
    return sum(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="multi_128")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256, 320])
    parser.add_argument("--batch_size", type=int, default=16)
    given = parser.parse_args()
    settings = yaml.safe_load(packaged("configs")[given.config].read_text())
    model = settle_settings("patch_unet", ModelConfig(**settings["model"]))
    print("| side | weights and optimiser, GiB | kept by a forward pass, GiB | together |\n|---|---|---|---|")
    for side in given.sides:
        label = Label(classes=["a", "b"], drop_rate=0.1)
        network = build_backbone("patch_unet", Inputs(side, MODALITY, (label,)), model)
        weights = COPIES * sum(4 * weight.numel() for weight in network.parameters()) / 2**30
        kept = kept_for_backward(network, side, 1) * given.batch_size / 2**30
        print(f"| {side} | {weights:.2f} | {kept:.2f} | {weights + kept:.2f} |")


if __name__ == "__main__":
    main()
