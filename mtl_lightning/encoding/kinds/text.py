"""Free text: its words, and groups of their letters, by their hashes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import texts
from mtl_lightning.encoding.kinds.base import Cells, ColumnKind
from mtl_lightning.encoding.kinds.hashing import bitmap_of, buckets_of

__all__ = ["Text", "Tokens", "tokens_of", "words_of"]

_WORD = re.compile(r"\w+")
_LETTERS = 40  # of a word, whose groups are taken
_CELL = 20_000  # letters of a cell that are looked at
_WORDS = 1_000  # of a cell, likewise


class Tokens(NamedTuple):
    """The tokens of N texts, by their buckets: first the words of all of them, then the groups of letters.

    Attributes:
        absent: (N,), where there is no text.
        words: how many words each has (N,), and their buckets one after the other.
        groups: the same of groups of letters.
    """

    absent: NDArray[np.bool_]
    words: tuple[NDArray[np.int64], NDArray[np.int64]]
    groups: tuple[NDArray[np.int64], NDArray[np.int64]]


class Text(ColumnKind):
    """A column of free text: a code for each word, then one for each group of letters; 0 for one that training did not
    meet and for none.

    Words are runs of letters and digits of any script, in small letters, Unicode's variants made one (NFKC). Groups of
    letters, of ``<word>`` with its ends, find what words have in common, inflections and misspellings (Bojanowski et
    al. 2017, "Enriching Word Vectors with Subword Information", https://arxiv.org/abs/1607.04606). Of a longer text the
    first codes are kept. A text counts as new where training met none of its words.

    Args:
        feature: see :class:`ColumnKind`.
        known: with ``length``; ``buckets``, and ``met``, those of training; ``ngrams``, the least and the greatest
            number of letters of a group, or null for none.
        missing: see there.
    """

    kind = "text"
    block = "lists"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.length, self.buckets = int(known["length"]), int(known["buckets"])
        self.ngrams = None if known["ngrams"] is None else (int(known["ngrams"][0]), int(known["ngrams"][1]))
        self.codes = {feature: self.buckets + 1}
        self.check()
        self._code = np.where(bitmap_of(known["met"], self.buckets), np.arange(1, self.buckets + 1), 0)

    @property
    def width(self) -> int:
        """How many codes are kept of a text."""
        return self.length

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of texts."""
        found = tokens_of(columns[0], self.buckets, self.ngrams, self.spellings)
        rows = len(found.absent)
        laid = np.zeros((rows, self.length), dtype=np.int64)
        start = np.zeros(rows, dtype=np.int64)
        for counts, buckets in (found.words, found.groups):
            place = np.arange(len(buckets)) - np.repeat(np.cumsum(counts) - counts - start, counts)
            kept = place < self.length
            laid[np.repeat(np.arange(rows), counts)[kept], place[kept]] = self._code[buckets[kept]]
            start = start + counts
        number, words = found.words
        met = np.bincount(np.repeat(np.arange(rows), number), self._code[words] > 0, minlength=rows) > 0
        return Cells(laid, found.absent, (number > 0) & ~met)

    def example(self) -> Any:
        """Return a text."""
        return "some words"

    def expects(self) -> str:
        """Say what its cells are."""
        return "a text"

    def words(self) -> str:
        """Say what a new cell is."""
        return "hold no word that was met in training"

    def told(self) -> str:
        """Say what becomes of its words."""
        groups = "" if self.ngrams is None else f" and groups of {self.ngrams[0]} to {self.ngrams[1]} letters"
        return f"words{groups} hashed into {self.buckets} buckets, at most {self.length} of a text"


def words_of(text: str) -> list[str]:
    """Return the words of a text.

    >>> words_of("Der ﬁne Überblick: 3,50 €")
    ['der', 'fine', 'überblick', '3', '50']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text[:_CELL]).casefold())[:_WORDS]


def _groups(word: str, ngrams: tuple[int, int]) -> list[str]:
    marked = f"<{word[:_LETTERS]}>"
    return [
        f"\0{marked[at : at + size]}"
        for size in range(ngrams[0], ngrams[1] + 1)
        for at in range(len(marked) - size + 1)
    ]


def tokens_of(column: Any, buckets: int, ngrams: tuple[int, int] | None, missing: Collection[str] = ()) -> Tokens:
    """Return the buckets of the words, and of their groups of letters, of a column (N,).

    Raises:
        CellError: for a column of lists and the like.
    """
    cells, found = texts(column, missing, spelled=False)
    split = [words_of(text) for text in found]
    different: dict[str, int] = {}
    places = [different.setdefault(word, len(different)) for words in split for word in words]
    indices = np.array(places, dtype=np.int64)
    number = _repeated(np.array([len(words) for words in split], dtype=np.int64), cells)
    indices = indices[number[1]]
    words = buckets_of(different, buckets)[indices]
    groups: Sequence[Sequence[str]] = [_groups(word, ngrams) for word in different] if ngrams else []
    each = np.array([len(one) for one in groups] if ngrams else [0] * len(different), dtype=np.int64)
    of_words = _repeated(each, indices)
    flat = buckets_of([group for one in groups for group in one], buckets)[of_words[1]]
    rows = np.repeat(np.arange(len(cells)), number[0])
    of_cells = np.bincount(rows, of_words[0], minlength=len(cells)).astype(np.int64)
    return Tokens(cells < 0, (number[0], words), (of_cells, flat))


def _repeated(counts: NDArray[np.int64], cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return of cells (N,), each the index of a group, -1 for none, how many members it has; and the places of all of
    these, one cell after the other, where the groups (with so many members each) stand one after the other.
    """
    starts = np.append(np.cumsum(counts) - counts, 0)
    number = np.append(counts, 0)[cells]
    before = np.cumsum(number) - number
    return number, np.repeat(starts[cells] - before, number) + np.arange(number.sum())
