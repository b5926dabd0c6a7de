"""Networks by name, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from medsegdiff.downstream.segmentation.models import (
    ARCHITECTURES,
    DEFAULT_ENCODERS,
    build_model,
    check_size,
    load_model,
    sizes_taken,
)
from medsegdiff.downstream.weights import save_weights
from medsegdiff.errors import UserError


def test_one_channel_in_one_logit_out() -> None:
    """Same side out as in. Damage: three input channels or a final sigmoid are left at smp's defaults."""
    torch.manual_seed(0)
    model = build_model("deeplabv3plus", "mobilenet_v2").eval()
    logits = model(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 1, 64, 64)
    assert bool((logits < 0).any())


def test_unknown_model_lists_what_there_is() -> None:
    """A name not there, and one misspelt. Damage: smp's KeyError comes through."""
    with pytest.raises(UserError, match=r"--model: found 'nnformer'; expected one of .*deeplabv3plus.*madgnet.*unet"):
        build_model("nnformer", "resnet18")
    with pytest.raises(UserError, match=r"Near: .*unetplusplus"):
        build_model("unetpluplus", "resnet18")


def test_unknown_encoder_lists_near_names() -> None:
    """Of smp and of timm. Damage: the check is left to smp, which prints a KeyError of 76 names."""
    with pytest.raises(UserError, match=r"--encoder: found 'resnet81'.*resnet18"):
        build_model("unet", "resnet81")
    with pytest.raises(UserError, match=r"found 'tu-convnext_tiy'.*convnext_tiny"):
        build_model("unet", "tu-convnext_tiy")


def test_unknown_weights_list_what_there_is() -> None:
    """Of smp and of timm. Damage: any text is taken for the name of weights and downloaded."""
    with pytest.raises(UserError, match=r"found 'imagnet'; expected one of .*imagenet"):
        build_model("unet", "resnet18", "imagnet")
    with pytest.raises(UserError, match=r"--encoder_weights: found 'imagnet'; expected imagenet or a file"):
        build_model("unet", "tu-resnet18", "imagnet")


def test_weights_that_timm_does_not_have() -> None:
    """By tag and by network. Damage: timm's RuntimeError comes through, or a tag that there is is refused."""
    expected = r"--encoder: found 'tu-resnet18\.a1_in1kk'; expected one of tu-resnet18\.a1_in1k, "
    with pytest.raises(UserError, match=expected):
        build_model("unet", "tu-resnet18.a1_in1kk")
    with pytest.raises(UserError, match="--encoder_weights imagenet: found no weights for resnetblur18"):
        build_model("unet", "tu-resnetblur18", "imagenet")
    with torch.device("meta"):
        assert sizes_taken(build_model("unet", "tu-resnet18.a1_in1k"), [64]) == [64]


def test_failed_download_says_how_to_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: the error of the download comes through as it is."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"a download that failed \(no network\).*HF_HOME"):
        build_model("unet", "resnet18", "imagenet")


def test_file_gives_the_same_network_back(tmp_path: Path) -> None:
    """Same logits and settings. Damage: buffers (batch-normalisation statistics) are left out of the file."""
    torch.manual_seed(0)
    model = build_model("unet", "resnet18")
    x = torch.randn(2, 1, 32, 32)
    model(x)  # moves the running statistics away from their start
    settings = {"config": {"model": "unet", "encoder": "resnet18"}, "mean": 0.3, "std": 0.2}
    save_weights(tmp_path / "w.safetensors", model.state_dict(), settings)
    loaded, found = load_model(tmp_path / "w.safetensors")
    assert found == settings
    assert torch.equal(loaded(x), model.eval()(x))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        load_model(tmp_path / "broken.safetensors")


@pytest.mark.slow
def test_every_architecture_gives_a_mask() -> None:
    """Damage: a name of the list cannot be built with its default encoder, or wants pictures of another size."""
    assert {"unet", "unetplusplus", "deeplabv3plus", "segformer", "dpt", "madgnet"} <= set(ARCHITECTURES)
    for name in set(ARCHITECTURES) - {"madgnet", "upernet"}:  # the one has tests of its own, the other is large
        with torch.device("meta"):  # nothing is computed
            model = build_model(name, DEFAULT_ENCODERS.get(name, "mobilenet_v2"))
        assert sizes_taken(model, [160]) == [160], name


@pytest.mark.slow
def test_sizes_that_an_architecture_takes_are_named() -> None:
    """PAN pools deep down, Swin is made for one size. Damage: torch's error comes through, or no size is offered."""
    pan = build_model("pan", "mobilenet_v2")
    with pytest.raises(UserError, match=r"--img_size, for pan: found 96; expected a multiple of 32, 128 or more"):
        check_size(pan, 96, "pan")
    check_size(pan, 128, "pan")
    swin = build_model("unet", "tu-swin_tiny_patch4_window7_224")
    with pytest.raises(UserError, match="found 128; expected 224"):
        check_size(swin, 128, "unet with swin")


def test_dropout_acts_in_training_only() -> None:
    """Damage: `dropout` is taken and not used, or stays on when the network predicts."""
    torch.manual_seed(0)
    model, x = build_model("unet", "mobilenet_v2", dropout=0.5), torch.randn(4, 1, 32, 32)
    head = model.segmentation_head
    features = torch.randn(2, 16, 32, 32)
    assert not torch.equal(head.train()(features), head(features))
    assert torch.equal(model.eval()(x), model(x))


def test_weights_of_a_file_fill_the_encoder(tmp_path: Path) -> None:
    """An encoder for colour pictures, saved by another program. Damage: the decoder alone is trained on from it."""
    torch.manual_seed(1)
    source = smp.encoders.get_encoder("resnet18", in_channels=3, weights=None)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "encoder.pth")
    model = build_model("unet", "resnet18", str(tmp_path / "encoder.pth"))
    own = model.encoder.state_dict()
    assert torch.equal(own["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])
    assert torch.allclose(own["conv1.weight"], source.state_dict()["conv1.weight"].sum(1, keepdim=True))
    with pytest.raises(UserError, match=r"weights of another network"):
        build_model("unet", "mobilenet_v2", str(tmp_path / "encoder.pth"))
    with pytest.raises(UserError, match="no such file"):
        build_model("unet", "resnet18", str(tmp_path / "nothing.safetensors"))
