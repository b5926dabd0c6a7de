"""Backbones, one a file: forward(x (B, C, *S), c_noise (B, M), cond) -> (B, C, *S). They know no process."""

from medsegdiff.models.medsegdiff_v2 import MedSegDiffV2 as MedSegDiffV2
from medsegdiff.models.patch_unet import PatchUNet as PatchUNet
