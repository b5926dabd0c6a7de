"""Checkpoints by name: those that come with medsegdiff, files, and repositories of Hugging Face."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from medsegdiff import __version__
from medsegdiff.engine.files import make_folder, write_bytes
from medsegdiff.engine.packages import missing_package
from medsegdiff.errors import UserError, require
from medsegdiff.generators.base import BEST_FILE, GeneratorCard, find_checkpoint, load_generator

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CARD_FILE = "README.md"  # what a repository shows


def find_weights(name: str | Path) -> Path:
    """The checkpoint that a name, a file, a folder of a training or a repository "owner/name" means.

    A repository is downloaded once and kept in the cache of huggingface_hub. Raises `UserError` where there is none.
    """
    path = Path(name).expanduser()
    if (path / BEST_FILE).is_file():
        return path / BEST_FILE
    is_repository = isinstance(name, str) and REPOSITORY.fullmatch(name) and not path.suffix and not path.exists()
    return _download(str(name)) if is_repository else find_checkpoint(path)


def save_pretrained(checkpoint: str | Path, folder: str | Path, *, card: str | None = None) -> Path:
    """Write a checkpoint and its model card to a folder, as a repository of Hugging Face holds them.

    `checkpoint` as `load_generator` takes it; `card` is the text of README.md (default: what the checkpoint says of
    itself). `load_generator(folder)` reads it. Raises `UserError` for a checkpoint that cannot be used.
    """
    source, target = find_weights(checkpoint), make_folder(Path(folder))
    text = card if card is not None else model_card(load_generator(source).card)
    if source.resolve() != (target / BEST_FILE).resolve():
        temporary = target / f"{BEST_FILE}.tmp"
        shutil.copyfile(source, temporary)
        temporary.replace(target / BEST_FILE)
    write_bytes(target / CARD_FILE, text.encode())
    return target


def push_to_hub(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    card: str | None = None,
    api: Any = None,
) -> str:
    """Upload a checkpoint with its model card to a repository of Hugging Face, made where needed; returns its id.

    Private unless set otherwise: look at the privacy audit before you publish what learnt patients. `api`: an
    `HfApi`; default: one with `token`. Raises `UserError` where it fails.
    """
    fits = REPOSITORY.fullmatch(repo_id) is not None
    require(fits, "repo_id", repr(repo_id), "owner/name", "Give the name of a repository.")
    hub = _hub()
    api = hub.HfApi(token=token) if api is None else api
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(checkpoint, folder, card=card)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"medsegdiff {__version__}")
        except (OSError, ValueError) as error:  # its errors are of these kinds
            hint = "Check name, token (huggingface-cli login) and network."
            raise UserError(repo_id, _first_line(error), "a repository to write to", hint) from error
    return repo_id


def model_card(card: GeneratorCard) -> str:
    """The text of a model card: what a checkpoint says of itself, and how to use it."""
    labels = ", ".join(card.classes)
    return f"""---
library_name: medsegdiff
tags: [medsegdiff, medical, synthetic-data, segmentation]
---
# Generator of labelled medical images

Samples {card.arrays} of {card.img_size} x {card.img_size} pixels. Classes: {labels}.

```python
import medsegdiff

pairs = medsegdiff.load_generator("owner/name").sample(8, label="{card.classes[0]}", seed=0)
pairs.images, pairs.masks
```

Kind {card.kind}, {card.step} optimiser steps, weights {card.digest}. It learnt {len(card.train_hashes)} pictures.
Their hashes, not the pictures, are in the file, so that medsegdiff can refuse to test on them.

**Not for diagnosis**, and no evidence of how a lesion looks: what it samples may show what does not exist. Before you
share it or its samples, run `medsegdiff evaluate`: its privacy audit looks for copied patients. Data that it learnt may
have terms of their own.
"""


def _download(repo_id: str) -> Path:
    hub = _hub()
    try:
        return Path(hub.hf_hub_download(repo_id, BEST_FILE, library_name="medsegdiff", library_version=__version__))
    except (OSError, ValueError) as error:
        hint = f"Check the name and the network; or download {BEST_FILE} elsewhere, and give its path."
        found = f"no such file, and Hugging Face gave none ({_first_line(error)})"
        raise UserError(repo_id, found, "a checkpoint, or a repository that holds one", hint) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from error
    return huggingface_hub
