"""Networks by name, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medsegdiff.errors import UserError
from medsegdiff.segmentation.models import build_model, load_model, save_model


def test_one_channel_in_one_logit_out() -> None:
    """Same side out as in. Fails if three input channels or a final sigmoid are left at smp's defaults."""
    torch.manual_seed(0)
    model = build_model("deeplabv3plus", "mobilenet_v2").eval()
    logits = model(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 1, 64, 64)
    assert bool((logits < 0).any())


def test_unknown_model_lists_what_there_is() -> None:
    """A name not there, and one misspelt. Fails if smp's KeyError comes through."""
    with pytest.raises(UserError, match=r"--model: found 'madgnet'; expected one of .*deeplabv3plus.*unet"):
        build_model("madgnet", "resnet18")
    with pytest.raises(UserError, match=r"Near: .*unetplusplus"):
        build_model("unetpluplus", "resnet18")


def test_unknown_encoder_lists_near_names() -> None:
    """Of smp and of timm. Fails if the check is left to smp, which prints a KeyError of 76 names."""
    with pytest.raises(UserError, match=r"--encoder: found 'resnet81'.*resnet18"):
        build_model("unet", "resnet81")
    with pytest.raises(UserError, match=r"found 'tu-convnext_tiy'.*convnext_tiny"):
        build_model("unet", "tu-convnext_tiy")


def test_unknown_weights_list_what_there_is() -> None:
    """Fails if any text is taken for the name of weights and downloaded."""
    with pytest.raises(UserError, match=r"found 'imagnet'; expected one of .*imagenet"):
        build_model("unet", "resnet18", "imagnet")


def test_failed_download_says_how_to_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the error of the download comes through as it is."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"a download that failed \(no network\).*HF_HOME"):
        build_model("unet", "resnet18", "imagenet")


def test_file_gives_the_same_network_back(tmp_path: Path) -> None:
    """Same logits and settings. Fails if buffers (batch-normalisation statistics) are left out of the file."""
    torch.manual_seed(0)
    model = build_model("unet", "resnet18")
    x = torch.randn(2, 1, 32, 32)
    model(x)  # moves the running statistics away from their start
    settings = {"config": {"model": "unet", "encoder": "resnet18"}, "mean": 0.3, "std": 0.2}
    save_model(tmp_path / "w.safetensors", model.state_dict(), settings)
    loaded, found = load_model(tmp_path / "w.safetensors")
    assert found == settings
    assert torch.equal(loaded(x), model.eval()(x))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        load_model(tmp_path / "broken.safetensors")
