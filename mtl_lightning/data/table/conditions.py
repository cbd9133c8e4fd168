"""Rows whose label counts: only where another column, or another task's target, holds a value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.data.table.target_column import TargetColumn, as_text
from mtl_lightning.names import known_name
from mtl_lightning.types import ConfigurationError

_ALIKE = {"true": "1", "1": "true", "false": "0", "0": "false"}


def declared_conditions(given: Any, targets: Mapping[str, TargetColumn]) -> dict[str, dict[str, list[str]]]:
    """Return ``{task: {column or task: texts}}`` of ``{task: {column or task: value or values}}``.

    Where the name is a task's, its labels must count there too: its own conditions come first.

    Args:
        given: as a user writes it.
        targets: the target columns by task.

    Raises:
        ConfigurationError: for another form, a name that is no task, a condition without values, and conditions that
            need each other.
    """
    if not isinstance(given, Mapping) or not all(isinstance(entry, Mapping) for entry in given.values()):
        raise ConfigurationError(
            f"`only_where`: expected {{task: {{column or task: value}}}}, such as {{bought: {{clicked: 1}}}}, found "
            f"{given!r:.100}."
        )
    found: dict[str, dict[str, list[str]]] = {}
    for task, conditions in given.items():
        known_name(task, list(targets), "only_where")
        found[task] = {}
        for name, value in conditions.items():
            values = list(value) if isinstance(value, list | tuple | set) else [value]
            if not values or None in values:
                raise ConfigurationError(
                    f"`only_where`, task {task!r}: expected values of {name!r} where its labels count, found {value!r}."
                )
            found[task][str(name)] = [as_text(one) for one in values]
            target = targets.get(str(name))
            if target is not None and (target.log or target.minus is not None):
                raise ConfigurationError(
                    f"`only_where`, task {task!r}: expected a column, or a task whose target holds what its column "
                    f"does or is yes or no, found {name!r}. Name a column, or a target with `at_least`."
                )
    for task in found:
        _refuse_rings(task, found, [])
    return found


def _refuse_rings(task: str, conditions: Mapping[str, Mapping[str, Any]], above: list[str]) -> None:
    if task in above:
        raise ConfigurationError(
            f"`only_where`: expected labels that do not wait for each other, found {' -> '.join([*above, task])}."
        )
    for name in conditions.get(task, {}):
        _refuse_rings(name, conditions, [*above, task])


def holds(indices: NDArray[np.int64], values: Sequence[str], wanted: Collection[str]) -> NDArray[np.bool_]:
    """Return where cells (N,), given by their index among the values, -1 where one is missing, are among those wanted.

    True is 1, and false 0, in letters of any case.
    """
    every = {*wanted, *(_ALIKE[text] for text in wanted if text in _ALIKE)}
    met = [value in every or value.lower() in every & {"true", "false"} for value in values]
    return np.array([*met, False])[indices]


def part_of(batch: Any, names: Sequence[str], rows: NDArray[np.int64]) -> Any:
    """Return some rows of an Arrow batch, with these columns alone unless one of them is not there."""
    narrow = batch.select([*names]) if {*names} <= {*batch.schema.names} else batch
    return narrow.take(pa.array(rows))


class Conditions:
    """Finds the rows of a batch in which a task's labels count.

    Args:
        only_where: as of :func:`declared_conditions`.
        columns: the columns that say so of each task whose target holds what its column does.
        answers: of each task whose target is yes or no, what gives it of an Arrow batch (N rows): 1, 0, or -1 where it
            is missing.
        texts: gives of an Arrow batch and a column the cells as of :func:`~mtl_lightning.encoding.cells.texts`.
        met: told of each condition the column or task, and the values met (for errors).
    """

    def __init__(
        self,
        only_where: Mapping[str, Mapping[str, Sequence[str]]],
        columns: Mapping[str, str],
        answers: Mapping[str, Callable[[Any], NDArray[np.int64]]],
        texts: Callable[[Any, str], tuple[NDArray[np.int64], list[str]]],
        met: Callable[[str, str, Sequence[str]], None] | None = None,
    ) -> None:
        self.only_where = only_where
        self._columns, self._answers, self._texts, self._met = columns, answers, texts, met

    def rows(self, task: str, batch: Any) -> NDArray[np.int64] | None:
        """Return the rows (M,) of a batch in which a task's labels count; None if they do in all."""
        if not self.only_where.get(task):
            return None
        rows: NDArray[np.int64] = np.arange(batch.num_rows)
        for name, wanted in self.only_where[task].items():
            before = self.rows(name, batch) if name in self.only_where else None
            rows = rows if before is None else np.intersect1d(rows, before)
            part = part_of(batch, [self._columns.get(name, name)], rows)
            if name in self._answers:
                answers = self._answers[name](part)
                indices, values = answers, ["0", "1"]
            else:
                indices, values = self._texts(part, self._columns.get(name, name))
            if self._met is not None:
                self._met(task, name, values)
            rows = rows[holds(indices, values, wanted)]
        return rows
