"""RGB images and label maps: what stands between the pixel values on disk and the channels of a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.data.phantom import TISSUE_VALUES, PhantomConfig, render_case, render_label_map, write_phantom
from medsegdiff.data.transforms import SEGMENTATION, augment
from medsegdiff.downstream.classification.models import build_classifier
from medsegdiff.downstream.segmentation.models import build_model
from medsegdiff.downstream.segmentation.results import row_type, score_classes
from medsegdiff.downstream.segmentation.training import label_map_loss, mean_dice, true_masks
from medsegdiff.engine.rng import generator
from medsegdiff.errors import UserError
from medsegdiff.generators.joint_diffusion.codec import PairCodec, encode_sdf
from medsegdiff.synthesis.masks import class_entropy
from medsegdiff.synthesis.quality_filters import label_map_fault

HEART = ArraySpec(3, {"background": 0, "rv": 1, "myocardium": 2, "lv": 7})


def heart(side: int = 24) -> np.ndarray:
    """(side, side) label map of `HEART`: three bars beside each other on background."""
    values = np.zeros((side, side), np.uint8)
    for k, value in enumerate((1, 2, 7)):
        values[4:-4, 3 + 6 * k : 9 + 6 * k] = value
    return values


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 7])))
def test_pixel_values_survive_the_network_side(mask: np.ndarray) -> None:
    """Damage: classes numbered by pixel value; the last class lost; values interpolated."""
    square = mask[:, :6]
    assert np.array_equal(HEART.from_coverage(HEART.coverage(square, 6)), square)
    assert np.array_equal(HEART.values_of(HEART.index_map(mask)), mask)


def test_what_covers_most_of_a_pixel_wins() -> None:
    """Damage: a threshold of one half for each class, which leaves background between three classes that meet."""
    meeting = np.array([90, 85, 80], np.uint8).reshape(3, 1, 1)
    assert HEART.index_of(meeting).item() == 1
    assert HEART.index_of(meeting // 2).item() == 0
    shares = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(ArraySpec().index_of(shares) > 0, shares[0] >= 128)  # of binary masks as ever


@pytest.mark.parametrize("radius", [0.0, 6.0])
def test_codec_of_rgb_and_classes(radius: float) -> None:
    """Damage: distances of all classes together; a pixel of two classes; class channels among those of the image."""
    masks = torch.from_numpy(HEART.coverage(heart(), 24))[None]
    images = torch.randint(0, 256, (1, 3, 24, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    coded = encode_sdf(masks, radius)
    codec = PairCodec.fit(images, coded, radius)
    assert codec.modality.tolist() == [0, 0, 0, 1, 1, 1]
    x = codec.encode(images / 255, coded / 255)
    image, found = codec.decode(x, known=True)
    assert torch.equal((image * 255).round().to(torch.uint8), images)
    assert np.array_equal(HEART.from_coverage(found[0].numpy() * np.uint8(255)), heart())
    both = x.clone()
    both[:, 3:] = x[:, 3:].amax(dim=(2, 3), keepdim=True)  # each class says that all is its own
    assert codec.decode(both)[1].sum(dim=1).max() == 1
    assert not codec.decode(x - 10)[1].any()


def test_augmentation_never_turns_colours_into_masks() -> None:
    """Damage: `moved[:, :1]` for the image; a gain of its own for each colour; masks brightened with the image."""
    masks = torch.from_numpy(HEART.coverage(heart(), 24)).float()[None].repeat(8, 1, 1, 1) / 255
    grey = torch.rand(8, 1, 24, 24, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2
    images, moved = augment(grey.repeat(1, 3, 1, 1), masks, SEGMENTATION, generator(0, 1))
    assert images.shape == (8, 3, 24, 24)
    assert moved.shape == masks.shape
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert moved.sum(dim=1).max() < 1.001
    alone = augment(grey, masks, SEGMENTATION, generator(0, 1))
    assert torch.allclose(alone[1], moved, atol=1e-6)


def test_scores_of_each_class() -> None:
    """Damage: Dice of the union; a class left out of the mean; columns of a class under another one's name."""
    true = HEART.index_map(heart())
    found = np.where(true == 2, 0, true)  # the myocardium is missed
    scores = score_classes(found, true, (1.0, 1.0), HEART)
    assert (scores["dice_rv"], scores["dice_myocardium"], scores["dice_lv"]) == (1, 0, 1)
    assert scores["dice"] == pytest.approx(2 / 3)
    row = row_type(HEART)("a", "g", "case", area=0.5, **scores)
    assert [f.name for f in dataclasses.fields(row)][-3:] == ["dice_rv", "dice_myocardium", "dice_lv"]
    binary = ArraySpec()
    assert "dice_lesion" not in score_classes(true == 1, true == 1, (1.0, 1.0), binary)


def test_loss_falls_to_the_true_label_map() -> None:
    """Damage: classes without the background; the loss of one class alone."""
    masks = torch.from_numpy(HEART.coverage(heart(), 24))[None]
    data = SampleTensors(torch.zeros(1, 3, 24, 24, dtype=torch.uint8), masks, torch.zeros(1), (), HEART)
    true = torch.from_numpy(true_masks(data)).long()
    logits = torch.zeros(1, 4, 24, 24, requires_grad=True)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(label_map_loss(logits, masks / 255), logits)
        logits = (logits - 300 * gradient).detach().requires_grad_()
    assert torch.equal(logits.argmax(dim=1), true)
    assert mean_dice(logits.argmax(dim=1).byte().numpy(), true.numpy(), HEART).tolist() == [1]


def test_networks_take_colours_and_give_classes() -> None:
    """Damage: one channel in, or one logit out, whatever the data set is; MADGNet for label maps."""
    colours = torch.randn(2, 3, 64, 64)
    assert build_model("unet", "mobilenet_v2", spec=HEART).eval()(colours).shape == (2, 4, 64, 64)
    binary = build_model("madgnet", "resnet18", spec=ArraySpec(3)).eval()
    assert binary(colours).shape == (2, 1, 64, 64)
    with pytest.raises(UserError, match="label maps"):
        build_model("madgnet", "resnet18", spec=HEART)
    assert build_classifier("resnet10t", None, 2, 0.0, 64, channels=3).eval()(colours).shape == (2, 2)


def test_label_maps_that_lack_a_class_are_refused() -> None:
    """Damage: every class needed, also those that some train pictures do not show; a speck of a class is enough."""
    shares = {"rv": 0.2, "lv": 0.01, "myocardium": 0.0}
    assert label_map_fault(shares, {"rv": 0.1, "lv": 0.015}) is None
    assert label_map_fault(shares, {"rv": 0.1, "lv": 0.1}) == "no lv"


def test_entropy_of_classes() -> None:
    """Damage: bits instead of shares of the most; the background left out."""
    even = np.full((3, 2, 2), 0.25)
    assert class_entropy(even) == pytest.approx(np.ones((2, 2)))
    sure = np.zeros((3, 2, 2))
    assert class_entropy(sure) == pytest.approx(np.zeros((2, 2)), abs=1e-9)


def test_phantoms_with_classes_of_tissue(tmp_path: Path) -> None:
    """Damage: other pictures than without label maps; layers in another order; the lesion below the tissue."""
    image, label_map = render_label_map("benign", 0, 1)
    plain, masks = render_case("benign", 0, 1)
    assert np.array_equal(image, plain)
    assert np.array_equal(label_map == TISSUE_VALUES["lesion"], masks[0] > 0)
    depths = [np.nonzero(label_map == TISSUE_VALUES[name])[0].mean() for name in ("fat", "gland", "muscle")]
    assert depths == sorted(depths)
    settings = PhantomConfig(str(tmp_path / "p"), num_benign=2, num_malignant=1, duplicates=1, tissue_classes=True)
    root = write_phantom(settings)
    names = sorted(str(p.relative_to(root / "images")) for p in root.glob("images/*/*.png"))
    assert names == sorted(str(p.relative_to(root / "masks")) for p in root.glob("masks/*/*.png"))
    assert len(names) == 4
