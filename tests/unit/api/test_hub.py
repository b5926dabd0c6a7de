"""Checkpoints by name, and as repositories of Hugging Face: a local folder plays the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tiny_networks import random_checkpoint

import medsegdiff
from medsegdiff.api.hub import find_weights
from medsegdiff.engine.packaged import packaged
from medsegdiff.generators.base import BEST_FILE


class FolderHub:
    """`HfApi` on a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny network with random weights."""
    return random_checkpoint(tmp_path / "run" / BEST_FILE)


def test_there_and_back(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: another file name is uploaded than downloaded, or repositories are public unless told otherwise."""
    hub = FolderHub(tmp_path / "hub")
    assert medsegdiff.push_to_hub(checkpoint, "lab/tiny", api=hub) == "lab/tiny"
    assert hub.private is True

    def download(repo_id: str, filename: str, **_: Any) -> str:
        return str(tmp_path / "hub" / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = medsegdiff.load_generator("lab/tiny", device="cpu", precision="fp32", steps=2)
    before = medsegdiff.load_generator(checkpoint, device="cpu", precision="fp32", steps=2)
    assert loaded.generator.card == before.generator.card
    text = (tmp_path / "hub" / "lab" / "tiny" / "README.md").read_text()
    assert "library_name: medsegdiff" in text
    assert "Classes: benign, malignant" in text
    assert loaded.generator.card.digest in text


def test_a_folder_stands_for_its_best_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Damage: a folder is refused though the one file in it is what is meant."""
    folder = medsegdiff.save_pretrained(checkpoint, tmp_path / "card", card="# Ours\n")
    assert (folder / "README.md").read_text() == "# Ours\n"
    assert find_weights(folder) == folder / BEST_FILE
    assert (folder / BEST_FILE).read_bytes() == checkpoint.read_bytes()
    medsegdiff.save_pretrained(folder, folder)  # onto itself


def test_packaged_weights_have_names() -> None:
    """Damage: the weights are moved, so that the README's first line of Python fails."""
    assert find_weights("busi-128") == packaged("pretrained")["busi-128"]


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: without a network its own error is raised, or a path that does not exist is said to be one."""

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(medsegdiff.UserError, match=r"Hugging Face gave none \(no route to host\).*Check the name"):
        medsegdiff.load_generator("lab/tiny")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "/tiny"])
def test_names_of_repositories(checkpoint: Path, name: str) -> None:
    """Damage: a name that is none is sent to the hub."""
    with pytest.raises(medsegdiff.UserError, match="expected owner/name"):
        medsegdiff.push_to_hub(checkpoint, name, api=object())
