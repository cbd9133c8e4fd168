"""Plain text in columns, of tasks that have different metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def tables(rows: Mapping[str, Mapping[str, str]], first: str = "task") -> str:
    """Return rows as text: tasks with the same columns share a table, whose columns are as wide as their texts.

    Args:
        rows: the cells of each row, by column.
        first: the title of the column with the rows' names.
    """
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, cells in rows.items():
        kinds.setdefault(tuple(cells), []).append(name)
    found = ([[first, *columns], *([name, *rows[name].values()] for name in names)] for columns, names in kinds.items())
    return "\n".join(_aligned(lines) for lines in found)


def by_task(metrics: Mapping[str, Any], stage: str, tasks: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return metrics with tags ``<stage>/<metric>/<task>`` as ``{task: {metric: value}}``, tasks in their order.

    Tags ``<stage>/<metric>/<task>/<class>``, of metrics that are vectors, are left out; so are tasks without a value.
    """
    found: dict[str, dict[str, float]] = {task: {} for task in tasks}
    for tag, value in metrics.items():
        first, *metric, task = tag.split("/")
        if first == stage and metric and task in found:
            found[task]["/".join(metric)] = float(value)
    return {task: values for task, values in found.items() if values}


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cut = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    header, *rest = cut
    return "\n".join([header, "  ".join("-" * width for width in widths), *rest])
