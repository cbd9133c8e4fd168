"""Lists of categories: the codes of their elements side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.kinds.base import Cells, ColumnKind, each
from mtl_lightning.encoding.kinds.elements import elements_of, laid_out, list_of
from mtl_lightning.encoding.kinds.hashed import hashed
from mtl_lightning.encoding.kinds.hashing import bitmap_of

__all__ = ["Listed"]


class Listed(ColumnKind):
    """A column of lists: the code of each element, in its order, 0 for one that training did not meet and for none.

    An element's code is 1 + its place in the vocabulary, or 1 + its bucket. Of a list that is longer than ``length``
    the first elements are kept. An empty list and a missing one have the same codes, but only the latter is a gap.

    Args:
        feature: see :class:`ColumnKind`.
        known: with ``length``; ``separator``, which is null for JSON; and either ``values`` or ``buckets`` and ``met``.
        missing: see there.
    """

    kind = "list"
    block = "lists"
    holds_lists = True

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.length, self.separator = int(known["length"]), known["separator"]
        self.buckets = int(known["buckets"]) if "buckets" in known else None
        values = known["values"] if self.buckets is None else range(self.buckets)
        self.codes = {feature: len(values) + 1}
        self.check()
        if self.buckets is None:
            self._code = {value: place + 1 for place, value in enumerate(values)}
        else:
            self._met = np.where(bitmap_of(known["met"], self.buckets), np.arange(1, self.buckets + 1), 0)

    @property
    def width(self) -> int:
        """How many elements are kept of a list."""
        return self.length

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of lists, or of texts that are lists."""
        found = elements_of(columns[0], self.separator, self.spellings)
        codes = self._codes_of(found.values)[found.indices]
        rows = np.repeat(np.arange(len(found.counts)), found.counts)
        unmet = codes == 0
        new = np.zeros(len(found.counts), dtype=np.bool_)
        new[rows[unmet]] = True

        def examples(some: NDArray[np.int64]) -> list[str]:
            return [found.values[index] for index in found.indices[unmet & np.isin(rows, some)]]

        laid = laid_out(codes, found.counts, self.length)
        return Cells(laid, found.absent, new, found.counts > self.length, examples)

    def _codes_of(self, values: Sequence[str]) -> NDArray[np.int64]:
        if self.buckets is None:
            return np.array([self._code.get(value, 0) for value in values], dtype=np.int64)
        codes: NDArray[np.int64] = self._met[hashed(values, self.buckets)]
        return codes

    def of_values(self, values: Sequence[Any], column: str) -> Any:
        """Return values of Python as lists of texts."""
        found = each(values, lambda value: list_of(value, self.separator, self.spellings))
        return pa.array(found, pa.list_(pa.string()))

    def example(self) -> Any:
        """Return a list of two elements."""
        return [*self.known["values"][:2]] if self.buckets is None else []

    def expects(self) -> str:
        """Say what its cells are."""
        how = "in JSON" if self.separator is None else f"with {self.separator!r} between its elements"
        return f"a list of texts or numbers, or a text that is one {how},"

    def words(self) -> str:
        """Say what a new cell has."""
        return "hold elements that were not met in training"

    def cut_words(self) -> str:
        """Say what becomes of long lists."""
        return f"are lists of more than {self.length} elements, of which the first are kept"

    def told(self) -> str:
        """Say how many elements there are."""
        which = f"{len(self._code)} different" if self.buckets is None else f"hashed into {self.buckets} buckets"
        return f"at most {self.length} elements, {which}"
