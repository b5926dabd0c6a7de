"""The conditions there are: a file in this folder and a row here add one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from medsegdiff.conditioning.base import Condition
from medsegdiff.errors import require

# Networks embed conditions in this order
CONDITIONS = {
    "label": "medsegdiff.conditioning.label:Label",
    "modality": "medsegdiff.conditioning.modality:Modality",
    "text": "medsegdiff.conditioning.text:Text",
    "encoded_text": "medsegdiff.conditioning.encoded_text:EncodedText",
    "attributes": "medsegdiff.conditioning.attributes:Attributes",
    "augmentation": "medsegdiff.conditioning.augmentation:Augmentation",
}


def condition_class(name: str) -> type[Condition]:
    """The class of a condition. Raises `UserError` for a name that none has."""
    require(name in CONDITIONS, "--conditions", name, f"some of {', '.join(CONDITIONS)}")
    module, kind = CONDITIONS[name].split(":")
    found: type[Condition] = getattr(importlib.import_module(module), kind)
    return found


def read_condition(described: Mapping[str, Any]) -> Condition:
    """The condition of `Condition.describe`."""
    values = {key: value for key, value in described.items() if key not in ("name", "kind")}
    return condition_class(described["name"])(**values)
