"""Pixels to standardised channels and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from torch import Tensor

from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf


def pictures(channels: int = 1) -> tuple[Tensor, Tensor]:
    """(12, channels, 16, 16) uint8 images and masks whose lesions cover 5 %."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(20, 140, (12, channels, 16, 16), generator=random).to(torch.uint8)
    masks = (torch.rand(12, 1, 16, 16, generator=random) < 0.05).to(torch.uint8) * 255
    return images, masks


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_have_mean_0_and_std_half(channels: int) -> None:
    """Damage: std 1 after `encode`; one mean for all image channels; the mask left as it is."""
    images, masks = pictures(channels)
    images[:, 0] //= 2
    codec = PairCodec.fit(images, masks)
    x = codec.encode(images / 255, masks / 255)
    assert x.shape == (12, channels + 1, 16, 16)
    assert x.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * (channels + 1), abs=1e-5)
    assert x.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.5] * (channels + 1), rel=1e-4)
    assert codec.modality.tolist() == [0] * channels + [1]


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(channels: int) -> None:
    """Damage: `decode` that divides by std, or cuts the channels at another place."""
    images, masks = pictures(channels)
    codec = PairCodec.fit(images, masks)
    image, mask = codec.decode(codec.encode(images / 255, masks / 255))
    assert torch.equal((image * 255).round().to(torch.uint8), images)
    assert torch.equal(mask, masks > 0)


def test_uint8_and_float_give_the_same_statistics() -> None:
    """Damage: no division by 255 for uint8 stacks."""
    images, masks = pictures()
    exact, scaled = PairCodec.fit(images, masks), PairCodec.fit(images.double() / 255, masks.double() / 255)
    assert exact.mean == pytest.approx(scaled.mean)
    assert exact.std == pytest.approx(scaled.std)


def test_mask_threshold_is_half_way_between_its_codes() -> None:
    """Damage: mask = x > 0, the mean of a mask that covers 5 %: near background, so that noise becomes lesion."""
    codec = PairCodec.fit(*pictures())
    grey = torch.full((1, 1, 1, 4), 0.5)
    x = codec.encode(grey, torch.tensor([0.0, 0.49, 0.51, 1.0]).view(1, 1, 1, 4))
    assert x[0, 1, 0, 1] > 0  # above code 0, yet background
    assert codec.decode(x)[1].flatten().tolist() == [False, False, True, True]
    background, lesion = codec.encode(grey, torch.tensor([0.0, 1, 0, 1]).view(1, 1, 1, 4))[0, 1, 0, :2]
    around = (background + lesion) / 2 + torch.tensor([-0.01, 0.01])
    assert codec.decode(torch.stack([torch.zeros(2), around]).view(1, 2, 1, 2))[1].flatten().tolist() == [False, True]


def test_decoded_images_are_in_range() -> None:
    """Damage: no clamp, so that 256 wraps round to black in uint8."""
    codec = PairCodec((0.3, 0.05), (0.2, 0.2))
    image, _ = codec.decode(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2))
    assert image.flatten().tolist() == [0, 1]


def test_a_constant_channel() -> None:
    """Damage: dividing by a standard deviation of 0, e.g. for a data set of empty masks."""
    images, masks = pictures()
    codec = PairCodec.fit(images, torch.zeros_like(masks))
    assert bool(torch.isfinite(codec.encode(images / 255, masks / 255)).all())


def test_any_rank() -> None:
    """Damage: view(1, C, 1, 1) in `_statistics`."""
    codec = PairCodec((0.3, 0.05), (0.2, 0.2))
    volume = torch.rand(2, 1, 3, 4, 5)
    image, mask = codec.decode(codec.encode(volume, volume.round()))
    assert torch.allclose(image, volume, atol=1e-6)
    assert torch.equal(mask, volume.round() > 0)


def test_distances_to_the_edge() -> None:
    """Damage: distances from the other side instead of the edge, another sign, no cut."""
    mask = torch.zeros(1, 1, 3, 12, dtype=torch.uint8)
    mask[..., 6:] = 255
    coded = encode_sdf(mask, 4)
    expected = [127.5 + 127.5 * d / 4 for d in (-4, -4, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4, 4)]
    assert coded.shape == mask.shape
    assert (coded.float() - torch.tensor(expected)).abs().max() <= 1
    assert torch.equal(coded > 127, mask > 127)
    assert encode_sdf(mask, 0) is mask


def test_distances_without_an_edge() -> None:
    """Damage: distances of an empty mask, which are those to the border of the picture."""
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert encode_sdf(empty, 3).unique().tolist() == [0]
    assert encode_sdf(empty + 255, 3).unique().tolist() == [255]


def test_distances_come_back_as_masks() -> None:
    """Damage: a code whose edge is not at the threshold of `decode`; an average that counts what lies outside."""
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    masks[0, :, 3:19, 4:22] = 255
    masks[1, :, 20:, 10:] = 255
    corners = {(0, 0, 3, 4), (0, 0, 3, 21), (0, 0, 18, 4), (0, 0, 18, 21), (1, 0, 20, 10)}  # the average rounds them
    coded = encode_sdf(masks, 5)
    codec = PairCodec.fit(coded, coded, 5)
    found = codec.decode(codec.encode(coded / 255, coded / 255))[1]
    assert {tuple(place) for place in (found != (masks > 0)).nonzero().tolist()} <= corners


def test_conditioning_masks_come_back_as_they_are() -> None:
    """Damage: the average taken of conditioning masks, which loses thin ones."""
    line = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    line[..., 8, 3:12] = 255
    coded = encode_sdf(line, 4)
    codec = PairCodec((0.5, 0.5), (0.5, 0.5), 1, 4)
    x = codec.encode(coded / 255, coded / 255)
    assert torch.equal(codec.decode(x, known=True)[1], line > 0)
    assert not codec.decode(x)[1].any()


def test_noise_on_distances_makes_no_specks() -> None:
    """Damage: every pixel read by itself; pixels beside the edge then fall to the wrong side."""
    disk = torch.from_numpy(np.hypot(*np.mgrid[-32:32, -32:32]) < 14).to(torch.uint8)[None, None] * 255
    coded = encode_sdf(disk, 8).float() / 255
    codec = PairCodec((0.5, 0.5), (0.5, 0.5), 1, 8)
    noise = 0.5 / 16 * torch.randn(coded.shape, generator=torch.Generator().manual_seed(0))  # half a pixel
    image, mask = codec.decode(codec.encode(coded, coded + noise))
    assert torch.allclose(image, coded, atol=1e-6)
    raw = (coded + noise)[0, 0] > 0.5
    assert label(raw)[1] + label(~raw)[1] > 2
    assert label(mask[0, 0])[1] == label(~mask[0, 0])[1] == 1


@pytest.mark.parametrize("radius", [0, 4, 16])
def test_area_of_a_coded_mask(radius: float) -> None:
    """Damage: the mean of the code for the area, which grows with the radius."""
    down, across = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disk = ((down - 30) ** 2 + (across - 33) ** 2 <= 100).to(torch.uint8)[None, None] * 255
    codec = PairCodec((0.5, 0.5), (0.5, 0.5), 1, radius)
    covered = codec.covered(encode_sdf(disk, radius).float() / 255)
    assert covered.mean().item() == pytest.approx(disk.float().mean().item() / 255, rel=0.05)
    assert torch.equal(covered > 0.5, disk > 0)
