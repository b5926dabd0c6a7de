"""Gradient checkpointing: blocks of a network keep their input alone, and are computed again in backward."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Switch it on for every layer of `network` that says `checkpointable = True`; returns how many there are.

    Gradients stay what they were, dropout included: the state of the random generator is put back for the second time.
    The network is not to be copied from then on, since a copy's blocks would compute with the weights of this one.
    """
    blocks = [layer for layer in network.modules() if getattr(layer, "checkpointable", False)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=True)
    return len(blocks)
