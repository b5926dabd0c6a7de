"""Classifiers by name, their weights and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medsegdiff.downstream.classification.models import build_classifier, load_classifier
from medsegdiff.downstream.sizes import output_shapes
from medsegdiff.downstream.weights import save_weights
from medsegdiff.errors import UserError


def test_grey_picture_in_one_logit_a_class_out() -> None:
    """Damage: three channels or a thousand classes are left at timm's defaults, or dropout is not handed on."""
    model = build_classifier("resnet10t", None, 3, 0.4, 64).eval()
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 3)
    assert model.drop_rate == 0.4


def test_unknown_names_list_near_ones() -> None:
    """Of networks, and of weights behind the point. Damage: timm's RuntimeError comes through."""
    with pytest.raises(UserError, match=r"--model: found 'resnet19'; expected a model of timm\. Near: .*resnet18"):
        build_classifier("resnet19", None, 2, 0.0, 64)
    with pytest.raises(UserError, match=r"--model: found 'resnet18\.a7'; expected one of resnet18\.a1_in1k"):
        build_classifier("resnet18.a7", None, 2, 0.0, 64)


def test_a_network_of_one_size_is_made_for_the_size_asked_for() -> None:
    """A vision transformer with a table of positions. Damage: `img_size` is not handed to timm."""
    model = build_classifier("test_vit_relpos", None, 2, 0.0, 96).eval()
    assert model(torch.randn(1, 1, 96, 96)).shape == (1, 2)
    assert output_shapes(model, [64, 96]) == {96: (1, 2)}


def test_a_size_that_does_not_do_is_refused() -> None:
    """Pooled away to nothing before the end. Damage: the first batch is the first to notice."""
    with pytest.raises(UserError, match=r"--img_size: found 64, which inception_v3 does not take; expected 299"):
        build_classifier("inception_v3", None, 2, 0.0, 64)


def test_trying_a_size_leaves_the_network_alone() -> None:
    """Damage: the trial is made with the network itself, in evaluation mode or on another device from then on."""
    model = build_classifier("resnet10t", None, 2, 0.0, 64).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert output_shapes(model, [32]) == {32: (1, 2)}
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_a_file_go_everywhere_but_into_the_head(tmp_path: Path) -> None:
    """Damage: the head, which was made for other classes, is taken from the file."""
    torch.manual_seed(0)
    published = build_classifier("resnet10t", None, 2, 0.0, 64)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    model = build_classifier("resnet10t", str(tmp_path / "w.pth"), 2, 0.0, 64)
    differ = {
        name for name, value in model.state_dict().items() if not torch.equal(value, published.state_dict()[name])
    }
    assert {name.split(".")[0] for name in differ} == {"fc"}


def test_weights_that_timm_does_not_have() -> None:
    """Damage: timm's RuntimeError comes through."""
    with pytest.raises(UserError, match="--encoder_weights imagenet: found no weights for test_vit4"):
        build_classifier("test_vit4", "imagenet", 2, 0.0, 64)


def test_failed_download_says_how_to_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the error of the download comes through as it is."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"a download that failed \(no network\).*HF_HOME"):
        build_classifier("resnet10t", "imagenet", 2, 0.0, 64)


def test_file_gives_the_same_classifier_back(tmp_path: Path) -> None:
    """Damage: the number of classes or the size is not taken from the file, or batch statistics are left out."""
    torch.manual_seed(0)
    model = build_classifier("resnet10t", None, 3, 0.0, 64).train()
    x = torch.randn(4, 1, 64, 64)
    model(x)
    config = {"model": "resnet10t", "dropout": 0.0, "img_size": 64}
    settings = {"config": config, "classes": ["a", "b", "c"], "mean": 0.3, "std": 0.2, "threshold": 0.5}
    save_weights(tmp_path / "w.safetensors", model.state_dict(), settings)
    loaded, found = load_classifier(tmp_path / "w.safetensors")
    assert found == settings
    assert torch.equal(loaded(x), model.eval()(x))
