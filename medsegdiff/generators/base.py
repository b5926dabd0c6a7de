"""What a generator is: it is asked for samples, one request each, and says on a card what it is.

A generator is a folder or file with `load(path, settings, device, precision, batch_size)`, and a row in `GENERATORS`.
Phase 3 serves every checkpoint by this interface; nothing outside a generator's own folder knows more of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import safetensors

from medsegdiff.data.arrays import ArraySpec
from medsegdiff.engine.packaged import packaged
from medsegdiff.errors import UserError, require

if TYPE_CHECKING:  # torch takes seconds, and settings of `generate` import this file
    import torch

    from medsegdiff.data.dataset import SampleTensors

Task = Literal["joint", "mask_first", "mask_to_image", "image_to_mask", "inpaint", "text_to_image", "remove"]
TASKS: tuple[Task, ...] = get_args(Task)  # seeds hold places in it: new ones come last
Value = str | float | Sequence[float] | Mapping[str, float]
# "image": (S, S) or (S, S, 3) uint8; "mask": (S, S) uint8 pixel values as the card's arrays say; "expected_mask":
# (K, S, S) shares from 0 to 1
Arrays = Mapping[str, np.ndarray]
S = TypeVar("S")

# Kinds of checkpoints, as their metadata say, and what reads them
GENERATORS = {"medsegdiff.generative": "medsegdiff.generators.joint_diffusion.generator"}
PICKLES = {".pth", ".pt", ".ckpt", ".pkl", ".pickle"}
BEST_FILE = "best_model.safetensors"


@dataclass(frozen=True)
class GeneratorCard:
    """What there is to know of a generator."""

    kind: str  # row of `GENERATORS`
    digest: str  # of weights and card: which checkpoint this is
    img_size: int  # side of its pictures, pixels
    arrays: ArraySpec  # what its images and masks are
    classes: list[str]  # of samples
    lesion_classes: list[str]  # classes whose masks are never empty
    conditions: list[dict[str, Any]]  # that it takes, with their ranges (`Condition.describe`)
    aspects: Mapping[str, list[float]]  # true width / height of the train pictures of each class
    train_hashes: list[dict[str, str]]  # image_hash and perceptual_hash of every train picture
    step: int  # optimiser steps that the weights have seen
    # Of each class, the mask classes that every train picture shows, with the least share of a picture they cover
    always_shown: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def provenance(self) -> dict[str, Any]:
        """What dataset.json says about the checkpoint; by its hashes `combine` refuses leakage."""
        return {"sha256": self.digest, "step": self.step, "train_hashes": self.train_hashes}


@dataclass(frozen=True)
class Request:
    """One sample that is asked for. All its chance comes from `seed`, whatever else is asked for beside it."""

    id: str
    task: Task
    seed: tuple[int, ...]  # counters of its random streams
    conditions: Mapping[str, Value]  # by name; one that is missing is not given
    # "mask" (K, S, S) uint8 coverage in 255ths, "image" (C, S, S) uint8, "region" (1, S, S) uint8, above 127 where
    # an image may change; empty where nothing is given
    given: Mapping[str, np.ndarray]
    avoided: Mapping[str, Value] = field(default_factory=dict)  # conditions that guidance steers away from


class Generator(Protocol):
    """Draws samples."""

    @property
    def card(self) -> GeneratorCard:
        """What it is."""

    @property
    def tasks(self) -> frozenset[Task]:
        """Those that it serves."""

    def settings(self, task: Task) -> dict[str, Any]:
        """What decides how samples of a task turn out, beside card and requests, as JSON."""

    def sample(self, requests: Sequence[Request], attempt: int) -> list[Arrays]:
        """Arrays of requests of one task. They depend on each request and the number of the attempt alone."""


@runtime_checkable
class LikelihoodScore(Protocol):
    """A generator that membership inference can ask."""

    def likelihood_score(self, samples: SampleTensors, seed: int) -> dict[str, np.ndarray]:
        """By what is asked (a noise level, ...) a score (N,), higher for samples that the model finds likelier.

        Chance depends on `seed` and on what is asked: it is the same for all samples.
        """


def find_checkpoint(path: Path) -> Path:
    """The safetensors file that `path` means: itself, the one beside a .pth name, or weights that come with medsegdiff.

    Raises `UserError` where there is none. A .pth or .pt file itself is never opened, since a pickle runs code.
    """
    known = packaged("pretrained")
    if str(path) in known and not path.exists():
        return known[str(path)]
    hint = "Train one (phase 2), or correct the path."
    if path.is_dir():
        inside = path / BEST_FILE
        hint = f"Give {inside}." if inside.is_file() else hint
        raise UserError(path, "a folder", f"a checkpoint file, such as {BEST_FILE}", hint)
    beside = path.with_suffix(".safetensors")
    is_pickle = path.suffix.lower() in PICKLES
    if is_pickle and beside.is_file():
        return beside
    if path.is_file() and path.suffix == ".safetensors":
        return path
    found = "no such file"
    if path.is_file():
        found = "a pickle, which is never opened since it can run code" if is_pickle else "a file of another kind"
    names = "" if path.suffix or path.parent.name else f", or a name of what comes with medsegdiff: {', '.join(known)}"
    raise UserError(path, found, f"a checkpoint, {beside.name}{names if known else ''}", hint)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises `UserError` for one that is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(path, f"a damaged file ({error})", "a safetensors checkpoint", "Train it anew.") from error


def kind_of(path: Path) -> str:
    """The kind of a checkpoint. Raises `UserError` for a file that is damaged or no generator's."""
    with opened(path) as file:
        metadata = file.metadata() or {}
    kind = metadata.get("kind")
    if kind not in GENERATORS:
        found = "a segmentation model" if kind is None and "settings" in metadata else f"kind {kind!r}"
        raise UserError(path, found, f"kind {' or '.join(map(repr, GENERATORS))}", "Use a checkpoint of phase 2.")
    return str(kind)


def load_generator(
    path: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    batch_size: int = 8,
) -> Generator:
    """The generator of a checkpoint, of whatever kind. `settings` are its own, by name; others are its defaults.

    `batch_size`: samples computed together. Raises `UserError` for a file or settings that cannot be used.
    """
    found = find_checkpoint(Path(path))
    module = importlib.import_module(GENERATORS[kind_of(found)])
    generator: Generator = module.load(found, settings or {}, device, precision, batch_size)
    return generator


def settings_of(kind: type[S], given: Mapping[str, Any], title: str) -> S:
    """Settings of a generator from what was given. Raises `UserError` for one that it does not know."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name, value in given.items():
        expected = f"settings of {title}: {', '.join(known) or 'none'}"
        require(name in known, f"--{name}", f"{value}, which {title} does not know", expected, "Leave it out.")
    return kind(**given)


def batches(requests: Sequence[Request], size: int) -> list[tuple[int, list[Request]]]:
    """(number, requests) of batches that all hold `size`, the last request repeated: kernels differ in the last bits
    between sizes of batches."""
    parts = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
    return [(len(part), part + [part[-1]] * (size - len(part))) for part in parts]


def parse_weights(texts: Sequence[str] | None) -> dict[str, float]:
    """Weights by condition of texts such as "attributes=2". Raises `UserError` for others."""
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        fits = bool(name) and name != "label" and 0 <= found[name] < math.inf
        require(
            fits,
            "--condition_guidance",
            repr(text),
            "condition=weight, such as attributes=2; --guidance is the class's",
        )
    return found
