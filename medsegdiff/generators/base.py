"""What a generator is."""

from __future__ import annotations

from typing import Literal

Mode = Literal["joint", "mask_first", "mask_to_image", "image_to_mask"]
