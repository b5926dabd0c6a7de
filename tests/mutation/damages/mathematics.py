"""Damages to the mathematics: noise, samplers, modes."""

from __future__ import annotations

from damages.damage import Damage

SAMPLERS = "tests/golden/test_samplers.py"
MODES = "tests/golden/test_modes.py"

MATHEMATICS = (
    Damage(
        "ddpm_table_shifted",
        "the DDPM table begins one step early: abar_0 = 1 in front, abar_T dropped",
        "diffusion/noise.py",
        "return torch.cumprod(1 - beta, dim=0)",
        "return torch.cumprod(1 - torch.cat([beta[:1] * 0, beta[:-1]]), dim=0)",
        ("tests/golden/test_ddpm_table.py",),
    ),
    Damage(
        "loss_of_clean",
        "a clean modality costs something",
        "diffusion/noise.py",
        "return torch.where(sigma > 0, weight, 0.0)",
        "return weight",
        ("test_a_clean_modality_costs_nothing", "test_only_a_clean_modality_weighs_nothing"),
    ),
    Damage(
        "table_columns_swapped",
        "mask_to_image keeps the image and draws the mask",
        "diffusion/noise.py",
        "return torch.stack([levels, clean], dim=1)",
        "return torch.stack([clean, levels], dim=1)",
        (MODES,),
    ),
    Damage(
        "mask_first_image_first",
        "mask_first draws the image first",
        "diffusion/noise.py",
        "image, mask = torch.cat([hidden, levels])",
        "mask, image = torch.cat([hidden, levels])",
        (MODES,),
    ),
    Damage(
        "ddim_given_moves",
        "ddim replaces a column at 0 by the estimate instead of copying it",
        "diffusion/samplers.py",
        "a = _ratio(s, s_next)\n        x = torch.where(s_next < s, a * x + (1 - a) * denoise(x, row), x)",
        "a = s_next / torch.where(s > 0, s, 1.0)\n        x = a * x + (1 - a) * denoise(x, row)",
        (MODES, "test_a_column_that_stands_still_is_not_touched"),
    ),
    Damage(
        "dpmpp_first_step",
        "dpmpp_2m divides by h_prev = 0",
        "diffusion/samplers.py",
        "c = torch.where(h_previous > 0, h / (2 * torch.where(h_previous > 0, h_previous, 1.0)), 0.0)",
        "c = h / (2 * h_previous)",
        (SAMPLERS,),
    ),
    Damage(
        "heun_uncorrected",
        "heun takes Euler steps",
        "diffusion/samplers.py",
        "corrected = moving & (s_next > 0)",
        "corrected = moving & (s_next > s)",
        (SAMPLERS,),
    ),
    Damage(
        "ddpm_noise",
        "ddpm adds noise s' sqrt(1 - a) instead of s' sqrt(1 - a^2)",
        "diffusion/samplers.py",
        "s_next * (1 - a2).sqrt() * noise(step)",
        "s_next * (1 - a2.sqrt()).sqrt() * noise(step)",
        (SAMPLERS,),
    ),
    Damage(
        "mask_threshold_at_code_0",
        "masks are cut at code 0, the mean of the mask, instead of half-way",
        "diffusion/codec.py",
        "mask > 0.5",
        "mask > self.mean[-1]",
        ("tests/unit/diffusion/test_codec.py",),
    ),
    Damage(
        "codec_without_std",
        "encoding does not divide by the standard deviation",
        "diffusion/codec.py",
        "return (x - mean) / std * SIGMA_DATA",
        "return (x - mean) * SIGMA_DATA",
        ("tests/unit/diffusion/test_codec.py",),
    ),
    Damage(
        "guidance_sign",
        "guidance pushes away from the class",
        "diffusion/guidance.py",
        "worse + weight * (better - worse)",
        "worse - weight * (better - worse)",
        ("tests/unit/diffusion/test_guidance.py",),
    ),
    Damage(
        "guidance_off",
        "the guidance weight is never used",
        "diffusion/guidance.py",
        "if weight == 1 or not interval[0] < float(sigma[column]) <= interval[1]:",
        "if True:",
        ("tests/unit/diffusion/test_guidance.py",),
    ),
    Damage(
        "guidance_not_handed_on",
        "--guidance is read and not handed on",
        "generation/pairs.py",
        "guidance=config.guidance,",
        "guidance=1.0,",
        ("test_settings_matter", "test_the_network_is_told_the_class_and_the_options"),
    ),
    Damage(
        "class_ignored",
        "every class gets the null embedding",
        "models/blocks.py",
        "return F.silu(e + self.label(index))",
        "return F.silu(e + self.label(torch.full_like(index, null)))",
        ("tests/unit/models/test_patch_unet.py",),
    ),
)
