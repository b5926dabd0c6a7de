"""What weights are known by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor], beside: str = "") -> str:
    """12 hexadecimal digits that distinguish weights by content: a file's bytes differ each time it is written.

    `beside`: text that counts too.
    """
    digest = hashlib.sha256(beside.encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
