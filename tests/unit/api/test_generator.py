"""Generators in Python: the samples of phase 3 without a folder, and arrays that cannot be used."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_networks import random_checkpoint

import medsegdiff
from medsegdiff.data.records import read_samples
from medsegdiff.synthesis.config import GenerateConfig
from medsegdiff.synthesis.run import generate

SIDE = 16
SETTINGS = {"device": "cpu", "precision": "fp32", "steps": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights."""
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model.safetensors")


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> medsegdiff.LoadedGenerator:
    """It, loaded, four samples at a time."""
    return medsegdiff.load_generator(checkpoint, batch_size=4, **SETTINGS)


def test_samples_are_those_of_phase_3(loaded: medsegdiff.LoadedGenerator, checkpoint: Path, tmp_path: Path) -> None:
    """Damage: numbers of samples count on over the classes, or seeds lack the task."""
    config = GenerateConfig(
        str(checkpoint), str(tmp_path / "pairs"), num_samples_per_class=3, steps=2, chunk_size=4, precision="fp32",
        device="cpu", seed=5,
    )  # fmt: skip
    generate(config)
    folder = read_samples(tmp_path / "pairs")
    written = {r.id: (folder.read_image(r), folder.read_mask(r)) for r in folder.records}
    samples = loaded.sample(6, seed=5)
    assert {s.id for s in samples} == set(written)
    for sample in samples:
        np.testing.assert_array_equal(sample.image, written[sample.id][0])
        np.testing.assert_array_equal(sample.mask, written[sample.id][1])


def test_samples_do_not_depend_on_how_many_are_asked_for(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: seeds are counted within the call, or the stream makes all before it gives the first."""
    many = loaded.sample(5, "malignant", seed=1)
    endless = loaded.stream(label="malignant", seed=1)
    few = list(itertools.islice(endless, 2))
    np.testing.assert_array_equal(many.images[:2], np.stack([s.image for s in few]))
    assert many.labels == ["malignant"] * 5
    assert not np.array_equal(many.images, loaded.sample(5, "malignant", seed=2).images)


def test_classes_in_turn(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: all of one class come first, so that three samples hold one class."""
    samples = loaded.sample(3)
    assert samples.labels == ["benign", "malignant", "benign"]
    assert samples.images.shape == samples.masks.shape == (3, SIDE, SIDE)
    assert samples[1:].labels == ["malignant", "benign"]


def test_samples_are_pictures(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: the sheet of a notebook is empty, or the PIL image another one than the array."""
    samples = loaded.sample(2)
    np.testing.assert_array_equal(np.asarray(samples[0].image_pil), samples[0].image)
    np.testing.assert_array_equal(np.asarray(samples[0].mask_pil), samples[0].mask)
    assert samples.sheet.width > 2 * 128 > samples[:1].sheet.width
    assert (samples._repr_png_() or b"").startswith(b"\x89PNG")
    assert repr(samples) == "Samples(1 benign, 1 malignant)"


def test_no_samples(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: a sheet is drawn of nothing, which fails in a notebook."""
    samples = loaded.sample(0)
    assert len(samples) == 0
    assert samples._repr_png_() is None


@pytest.mark.parametrize("kind", ["bool", "uint8", "PIL"])
def test_an_image_for_a_mask(loaded: medsegdiff.LoadedGenerator, kind: str) -> None:
    """Damage: True is taken for the pixel value 1, which no mask has, or the mask is sampled too."""
    lesion = np.zeros((40, 60), bool)
    lesion[10:30, 20:40] = True
    white = lesion.astype(np.uint8) * 255
    mask = {"bool": lesion, "uint8": white, "PIL": Image.fromarray(white)}[kind]
    samples = loaded.mask_to_image(mask, "benign", n=3)
    assert len(samples) == 3
    expected = np.asarray(Image.fromarray(white).resize((SIDE, SIDE), Image.Resampling.BOX)) > 127
    for sample in samples:
        assert np.mean((sample.mask > 127) == expected) > 0.95
    assert not np.array_equal(samples[0].image, samples[1].image)


def test_a_mask_for_an_image(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: the mask comes at the size of the network, or colour is refused though files of it are taken."""
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    found = loaded.image_to_mask(image, n=3)
    assert found.mask.shape == found.doubt.shape == (40, 60)
    assert found.samples.shape == (3, 40, 60)
    assert found.probability.shape == (1, 40, 60)
    assert set(np.unique(found.mask)) <= {0, 255}
    grey = loaded.image_to_mask(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), n=3)
    np.testing.assert_array_equal(grey.samples, found.samples)
    assert found.mask_pil.size == (60, 40)


def refused(message: str, call: object) -> None:
    """Calling raises a `UserError` with that in it."""
    with pytest.raises(medsegdiff.UserError) as error:
        call()  # type: ignore[operator]
    assert message in str(error.value)


def test_what_cannot_be_used_is_named(loaded: medsegdiff.LoadedGenerator) -> None:
    """Damage: numpy or torch reports the wrong array, or floats are cut to 0 and 1 without a word."""
    grey, lesion = np.zeros((20, 20), np.uint8), np.ones((20, 20), bool)
    refused("label: found 'bening'; expected one of benign, malignant", lambda: loaded.sample(1, "bening"))
    refused("n: found -1", lambda: loaded.sample(-1))
    refused("expected one of joint, mask_first", lambda: loaded.sample(1, task="mask_to_image"))
    refused("image: found float32 numbers from 0 to 0; expected uint8", lambda: loaded.image_to_mask(np.float32(grey)))
    refused("image: found shape (1, 20, 20)", lambda: loaded.image_to_mask(grey[None]))
    refused("image: found a list", lambda: loaded.image_to_mask([[0]]))  # type: ignore[arg-type]
    refused("mask: found pixel values 7; expected only 0", lambda: loaded.mask_to_image(grey + np.uint8(7), "benign"))
    refused("label: found None", lambda: loaded.mask_to_image(lesion))
    refused("mask: found an empty mask", lambda: loaded.mask_to_image(~lesion, "benign"))
    refused("n: found 0", lambda: loaded.mask_to_image(lesion, "benign", n=0))


def test_unknown_weights_list_the_known_ones() -> None:
    """Damage: a wrong name is a missing file, without a word of those that come with medsegdiff."""
    refused("or a name of what comes with medsegdiff: busi-128", lambda: medsegdiff.load_generator("busi-12"))
    refused("found no such file", lambda: medsegdiff.load_generator("somewhere/else.safetensors"))


def test_a_wrong_setting_is_named_as_on_the_command_line(checkpoint: Path) -> None:
    """Damage: settings of sampling are passed on unchecked."""
    refused("--steps: found 1", lambda: medsegdiff.load_generator(checkpoint, device="cpu", steps=1))
    refused("--stepz", lambda: medsegdiff.load_generator(checkpoint, device="cpu", stepz=3))
