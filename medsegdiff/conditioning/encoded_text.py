"""A caption, read by a text encoder that was trained elsewhere: CLIP, BioMedBERT, MiniLM, ... in a local folder.

The folder is as `transformers` saves one, with its tokenizer. Nothing is downloaded, and no code of it runs. The
encoder stays as it is; what a network learns is a linear map of its vectors.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from medsegdiff.conditioning.base import GAIN, Condition, Embedder, Sample, is_record
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.engine.files import file_digest
from medsegdiff.engine.packages import load
from medsegdiff.errors import UserError, require

LONGEST = 512  # tokens that are read of a caption, where an encoder sets no limit
NETWORKS = {"clip": "transformers:CLIPTextModel"}  # by type of model, where it is not the whole of it


@dataclass(frozen=True, kw_only=True)
class EncodedText(Condition):
    """Captions in any words that the encoder knows."""

    name: ClassVar[str] = "encoded_text"
    kind: ClassVar[str] = "text"
    encoder: str  # folder
    digest: str  # of the encoder's files: another one says other things
    width: int  # numbers of a vector

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        """With the encoder in `settings["text_encoder"]`. Raises `UserError` where it or captions are missing."""
        folder = (settings or {}).get("text_encoder")
        hint = "Give the folder of a text encoder."
        require(folder is not None, "--conditions encoded_text", "no --text_encoder", "--text_encoder DIR", hint)
        captions = any(record.text for record in train.records)
        expected = "a column text with a caption for each picture"
        require(captions, "--conditions encoded_text", "a data set without captions", expected, "Leave it out.")
        width = _opened(str(folder))[1].config.hidden_size
        return cls(drop_rate=drop_rate, encoder=str(folder), digest=digest_of(str(folder)), width=width)

    def says(self, sample: Sample) -> bool:
        return bool(sample.get("text"))

    def encode(self, samples: Sequence[Sample]) -> Tensor:
        """(B, width) vectors; NaN throughout where no caption is given.

        Raises `UserError` for an encoder that is gone or another one, and for a prompt that it cannot hold.
        """
        found = torch.full((len(samples), self.width), math.nan)
        if not any(map(self.says, samples)):
            return found
        self.check()
        for row, sample in enumerate(samples):
            if self.says(sample):
                found[row] = _vector(self.encoder, str(sample["text"]), not is_record(sample))
        return found

    def check(self) -> None:
        """Raise `UserError` where the folder does not hold the encoder that was learnt with."""
        own = digest_of(self.encoder)
        found = f"an encoder with other files (sha256 {own})"
        hint = "Put the encoder there, or say where it is by --text_encoder."
        require(own == self.digest, self.encoder, found, f"the one that was learnt with ({self.digest})", hint)

    def embedder(self, width: int) -> Embedder:
        return EncodedTextEmbedder(self.width, width)


class EncodedTextEmbedder(Embedder):
    """A linear map of vectors, which starts at zero; zero where no caption is given."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.last = nn.Linear(numbers, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def null(self) -> Tensor:
        return torch.zeros_like(self.last.bias)

    def forward(self, values: Tensor) -> Tensor:
        vectors: Tensor = GAIN * self.last(values.nan_to_num(0.0))
        return torch.where(values.isnan().all(dim=1, keepdim=True), self.null(), vectors)


@functools.lru_cache(maxsize=2)
def _opened(folder: str) -> tuple[Any, Any]:
    """Tokenizer and network of a folder. Raises `UserError` for one that holds none."""
    expected = "a folder of a text encoder, as transformers' save_pretrained writes it, with its tokenizer"
    require((Path(folder) / "config.json").is_file(), folder, "no config.json", expected, "Correct the path.")
    try:
        kind = load("transformers:AutoConfig").from_pretrained(folder, local_files_only=True).model_type
        network = load(NETWORKS.get(kind, "transformers:AutoModel")).from_pretrained(folder, local_files_only=True)
        tokenizer = load("transformers:AutoTokenizer").from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise UserError(folder, found, expected, "Save it anew.") from error
    return tokenizer, network.eval().requires_grad_(False)


@functools.lru_cache(maxsize=8192)
def _vector(folder: str, text: str, whole: bool) -> Tensor:
    """(width,) of a caption: the mean over its tokens, of root mean square 1. `whole`: it may not be cut."""
    tokenizer, network = _opened(folder)
    positions = getattr(network.config, "max_position_embeddings", LONGEST)
    longest = min(tokenizer.model_max_length, positions, LONGEST)
    tokens = tokenizer(text, truncation=not whole, max_length=longest, return_tensors="pt")
    count = tokens["input_ids"].shape[1]
    require(count <= longest, "--prompt", f"{count} tokens", f"{longest} at most, as the encoder reads", "Shorten it.")
    with torch.inference_mode():
        states = network(**tokens).last_hidden_state[0]
    kept = tokens["attention_mask"][0].to(states)[:, None]
    vector: Tensor = (states * kept).sum(dim=0) / kept.sum()
    return (vector / vector.square().mean().sqrt().clamp(min=1e-6)).clone()


@functools.lru_cache(maxsize=8)
def digest_of(folder: str) -> str:
    """Of the names and contents of the files of an encoder. Raises `UserError` where there is none."""
    root = Path(folder)
    files = sorted(path for path in root.glob("*") if path.is_file()) if root.is_dir() else []
    hint = "Put the encoder there, or say where it is by --text_encoder."
    require(bool(files), folder, "no such folder, or an empty one", "the folder of a text encoder", hint)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(file_digest(path).encode())
    return digest.hexdigest()[:16]
