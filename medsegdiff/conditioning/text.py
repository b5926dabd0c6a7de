"""A caption, read by a small transformer that learns with the denoiser; its words are those of the captions learnt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from medsegdiff.conditioning.base import GAIN, Condition, Embedder, Sample, is_record
from medsegdiff.data.dataset import SampleTensors
from medsegdiff.errors import UserError, require

LONGEST = 64  # words of a caption that are read
WIDTH, LAYERS, HEADS = 128, 2, 4  # of the transformer
PADDING, NOTHING = 0, 1  # numbers of no word at all, and of the caption that is not given; words follow
RESERVED = 2


def words_of(text: str) -> list[str]:
    """The words of a caption in small letters, without punctuation."""
    return re.findall(r"[\w.+-]*\w", text.lower())


@dataclass(frozen=True, kw_only=True)
class Text(Condition):
    """Captions of the words of the train split."""

    name: ClassVar[str] = "text"
    kind: ClassVar[str] = "text"
    words: list[str]
    length: int  # words that are read of a caption

    @classmethod
    def fit(
        cls, train: SampleTensors, classes: Sequence[str], drop_rate: float, settings: Mapping[str, Any] | None = None
    ) -> Self:
        captions = [words_of(record.text) for record in train.records]
        words = sorted({word for caption in captions for word in caption})
        expected = "a column text with a caption for each picture"
        require(bool(words), "--conditions text", "a data set without captions", expected, "Leave it out.")
        return cls(drop_rate=drop_rate, words=words, length=min(max(map(len, captions)), LONGEST))

    def encode(self, samples: Sequence[Sample]) -> Tensor:
        """(B, length) numbers of words; -1 throughout where no caption is given.

        Raises `UserError` for words that no caption had, and for a caption longer than those.
        """
        numbers = {word: number for number, word in enumerate(self.words, start=RESERVED)}
        found = torch.full((len(samples), self.length), -1)
        for row, sample in enumerate(samples):
            words = words_of(sample.get(self.name) or "")
            if not words:
                continue
            if not is_record(sample):  # which may be longer than what is read, or of val with words of its own
                self.check(words)
            known = [numbers[word] for word in words if word in numbers][: self.length]
            found[row] = torch.tensor(known + [PADDING] * (self.length - len(known)))
        return found

    def check(self, words: Sequence[str]) -> None:
        """Raise `UserError` for words that were never learnt, and for too many."""
        unknown = [word for word in dict.fromkeys(words) if word not in self.words]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.words, 3)
            hint = f"Did you mean {' or '.join(near)}?" if near else "The card of the checkpoint lists its words."
            raise UserError("--prompt", ", ".join(map(repr, unknown)), "words of the captions that were learnt", hint)
        require(len(words) <= self.length, "--prompt", f"{len(words)} words", f"{self.length} at most, as was learnt")

    def embedder(self, width: int) -> Embedder:
        return TextEmbedder(len(self.words), self.length, width)


class TextEmbedder(Embedder):
    """A transformer over words and their places, averaged. Its last layer starts at zero, and so says nothing."""

    def __init__(self, words: int, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.table = nn.Embedding(RESERVED + words, WIDTH)
        self.places = nn.Parameter(torch.randn(length, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.last = nn.Linear(WIDTH, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def null(self) -> Tensor:
        empty = torch.full((1, self.length), PADDING, device=self.places.device)
        empty[:, 0] = NOTHING
        return self._embedded(empty)[0]

    def forward(self, values: Tensor) -> Tensor:
        nothing = (values < 0).all(dim=1, keepdim=True)
        # The null itself where nothing is given: computed among others it would differ in last bits
        return torch.where(nothing, self.null(), self._embedded(torch.where(nothing, NOTHING, values)))

    def _embedded(self, numbers: Tensor) -> Tensor:
        padding = numbers == PADDING
        # A caption of unknown words alone would have nothing to attend to
        padding = padding & ~(
            padding.all(dim=1, keepdim=True) & (torch.arange(self.length, device=padding.device) == 0)
        )
        read = self.layers(self.table(numbers) + self.places, src_key_padding_mask=padding)
        kept = (~padding).to(read)[:, :, None]
        vectors: Tensor = GAIN * self.last((read * kept).sum(dim=1) / kept.sum(dim=1))
        return vectors
