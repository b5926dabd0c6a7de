"""Damages to backbones and averages."""

from __future__ import annotations

from damages.damage import Damage

V2_TEST = "tests/unit/models/test_medsegdiff_v2.py"

NETWORKS = (
    Damage(
        "anchor_darkens",
        "the anchor is the smoothed feature, also where that is darker",
        "models/medsegdiff_v2.py",
        "return torch.maximum(F.conv2d(padded, self.kernel().to(other.dtype), groups=other.shape[1]), other)",
        "return F.conv2d(padded, self.kernel().to(other.dtype), groups=other.shape[1])",
        (V2_TEST,),
    ),
    Damage(
        "no_sin_in_fourier_space",
        "SS-Former's affinity passes through no sin",
        "models/medsegdiff_v2.py",
        "m = torch.complex(m.real.sin(), m.imag.sin())",
        "m = m + 0",
        (V2_TEST,),
    ),
    Damage(
        "roles_not_swapped",
        "the mask stream asks itself",
        "models/medsegdiff_v2.py",
        "self.halves[1](mask, image, embedding)",
        "self.halves[1](mask, mask, embedding)",
        (V2_TEST,),
    ),
    Damage(
        "filter_deaf_to_noise",
        "the band-pass filter is the same at every noise level",
        "models/medsegdiff_v2.py",
        "(self.gain_at(side) * (1 + scale) + shift)",
        "(self.gain_at(side) + 0 * (scale + shift))",
        (V2_TEST,),
    ),
    Damage(
        "gains_of_other_frequencies",
        "on a coarser grid the filter takes the first rows of its gains, negative frequencies too",
        "models/medsegdiff_v2.py",
        "return self.gain[rows, : side // 2 + 1]",
        "return self.gain[:side, : side // 2 + 1]",
        (V2_TEST,),
    ),
    Damage(
        "moves_not_reported",
        "the network does not hear how a picture was augmented",
        "models/blocks.py",
        "e = e + self.moves(cond.moves)",
        "e = e + 0 * self.moves(cond.moves)",
        ("test_reported_moves_matter_and_none_are_zero",),
    ),
    Damage(
        "worst_average",
        "the average with the highest val loss is saved",
        "training/ema.py",
        "self.chosen = min(range(len(scores)), key=scores.__getitem__)",
        "self.chosen = max(range(len(scores)), key=scores.__getitem__)",
        ("tests/unit/training/test_schedules.py",),
    ),
    Damage(
        "guide_leads",
        "autoguidance leads towards the worse network",
        "diffusion/guidance.py",
        "better, worse = denoiser(x, levels, Condition(label)), guidance",
        "worse, better = denoiser(x, levels, Condition(label)), guidance",
        ("tests/unit/diffusion/test_guidance.py",),
    ),
    Damage(
        "specks_read_as_lesions",
        "masks coded as distances are read pixel by pixel",
        "diffusion/codec.py",
        "if self.sdf_truncation and not known:\n            mask = ",
        "if self.sdf_truncation and not known:\n            _ = ",
        ("tests/unit/diffusion/test_codec.py",),
    ),
    Damage(
        "augmented_at_its_size",
        "pictures are moved at the size that the network sees, which blurs them",
        "training/train.py",
        "self.finer = FINER if config.augment else 1",
        "self.finer = 1",
        ("tests/unit/training/test_sharpness.py",),
    ),
    Damage(
        "distances_inside_out",
        "masks coded as distances are lesions outside",
        "diffusion/codec.py",
        "distance = np.where(mask, inside - 0.5, 0.5 - outside)",
        "distance = np.where(mask, 0.5 - inside, outside - 0.5)",
        ("tests/unit/diffusion/test_codec.py",),
    ),
)
