"""What a kind of column is: a part of a table's schema that makes numbers or codes of one or several columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.values import text_of
from mtl_lightning.errors import DataError

__all__ = ["Block", "Cells", "ColumnKind"]

Block: TypeAlias = Literal["numeric", "categorical", "lists"]
"""The tensor of inputs that a kind adds to."""

DTYPES: dict[str, Any] = {"numeric": np.float32, "categorical": np.int64, "lists": np.int64}
_MOST = {"width": 10_000, "codes": 1 << 28}


class Cells(NamedTuple):
    """Encoded cells of N rows.

    Attributes:
        array: (N, width), of the block's dtype.
        missing: (N,), where there is no value.
        new: (N,), where there is something that training never saw; None if that cannot be.
        cut: (N,), of which only a part is encoded; None if that cannot be.
        examples: gives what is new in some rows (M,), of those that are, as texts.
    """

    array: NDArray[Any]
    missing: NDArray[np.bool_]
    new: NDArray[np.bool_] | None = None
    cut: NDArray[np.bool_] | None = None
    examples: Callable[[NDArray[np.int64]], Sequence[str]] | None = None


class ColumnKind(ABC):
    """Encodes a feature, which is made of one column or several, as a schema knows it; it can be pickled.

    Args:
        feature: its name.
        known: what ``schema["kinds"]`` says of it: ``kind``, the source ``column``, and what that kind needs.
        missing: what stands for a missing value, beside null, nan and the empty text.

    Attributes:
        kind: the name of the kind.
        block: where the numbers or codes go.
        reads: how its columns are best read from a text file.
        strange: what cells that training never saw are called: ``"unseen"`` values, or numbers ``"outside"``.
        holds_lists: whether a value of Python may be a list.
        columns: the source columns, the main one first.
        names: those of the numbers, or of the columns of codes; for lists the feature's alone.
        codes: the number of codes, code 0 included, by name; none for numbers.
        shared: the name of the embedding table that it has in common with others; None for its own.
    """

    kind: ClassVar[str]
    block: Block
    reads: Literal["number", "text"] = "text"
    strange: Literal["unseen", "outside"] = "unseen"
    holds_lists: ClassVar[bool] = False

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        self.feature, self.known, self.spellings = feature, dict(known), frozenset(missing)
        self.columns: tuple[str, ...] = (known["column"],)
        self.names: tuple[str, ...] = (feature,)
        self.codes: dict[str, int] = {}
        self.shared: str | None = known.get("shared")

    @property
    def width(self) -> int:
        """How many numbers or codes there are of a row."""
        return len(self.names)

    def check(self) -> None:
        """Refuse sizes that no schema has, before anything is made of them.

        Raises:
            DataError: for more than 10,000 numbers or codes of a row, or 2^28 codes of a column.
        """
        found = {"width": self.width, "codes": max(self.codes.values(), default=0)}
        for name, most in _MOST.items():
            if not 0 <= found[name] <= most:
                raise DataError(
                    f"Feature {self.feature!r} of the schema: expected a {name} of at most {most}, found {found[name]}."
                )

    @abstractmethod
    def encode(self, *columns: Any) -> Cells:
        """Encode Arrow's columns (N,), in the order of ``columns``; one of type null is all missing.

        Raises:
            CellError: for a cell that cannot be read; it knows its row.
        """

    def of_values(self, values: Sequence[Any], column: str) -> Any:
        """Return values of Python (N,) as an Arrow array that :meth:`encode` takes, so that they are encoded as a file
        that held them would be.

        Args:
            values: anything at all.
            column: which of ``columns`` they are of.

        Raises:
            CellError: for a value that no such column holds; it knows its row.
        """
        return pa.array(each(values, self._text), pa.string())

    def _text(self, value: Any) -> str | None:
        return value if isinstance(value, str) else text_of(value, self.spellings)

    def example(self) -> Any:
        """Return a value of the main column that could be sent, for people; None if none is known."""
        return None

    def expects(self) -> str:
        """Say what its cells are, for an error."""
        return "a text or a number"

    def words(self) -> str:
        """Say what is unlike training in a new cell: what follows a share of the rows."""
        return "were not met in training"

    def cut_words(self) -> str:
        """Say of what only a part is encoded: what follows a share of the rows."""
        return "are only encoded in part"

    def told(self) -> str:
        """Say in a few words what becomes of the column, for people."""
        return self.kind


def each(values: Sequence[Any], convert: Any) -> list[Any]:
    """Convert values one by one; an error knows its row."""
    found: list[Any] = []
    for row, value in enumerate(values):
        try:
            found.append(convert(value))
        except CellError as error:  # noqa: PERF203  # the place of the one that fails
            raise CellError(str(error), row) from error
    return found
