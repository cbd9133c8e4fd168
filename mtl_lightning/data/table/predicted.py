"""The rows of a table that a prediction is of, for whoever writes it down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mtl_lightning.names import known_name


class PredictedRows:
    """Rows in the order in which they are predicted.

    Args:
        names: their columns.
        read: yields Arrow tables of some columns.
        report: says what of the rows is unlike training.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[Sequence[str]], Iterator[Any]],
        report: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self.names = list(names)
        self._read, self._report = read, report

    def check(self, columns: Sequence[str], where: str) -> None:
        """Refuse columns that the rows do not have.

        Raises:
            ConfigurationError: that names the nearest one.
        """
        for name in columns:
            known_name(name, self.names, where)

    def tables(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield Arrow tables of some columns, texts spelled out; from text files everything is text, as it stands."""
        for table in self._read(columns):
            kinds = [
                one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in table.schema
            ]
            yield table.cast(pa.schema(kinds)).select(list(columns))

    def report(self) -> dict[str, Any] | None:
        """Return what of the rows that were read is unlike training, as plain data; None where it is not counted."""
        found = self._report()
        return None if found is None else dict(found)
