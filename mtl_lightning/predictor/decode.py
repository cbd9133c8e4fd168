"""Final outputs as answers: class names, probabilities, values with their intervals; NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "answer", "empty_outputs", "half_widths", "prepared"]

Answer = dict[str, NDArray[Any]]
"""The columns of a task's answer, each (N, *), by what they are."""
_THRESHOLD = 0.5  # of a probability, above which the answer is yes


def answer(
    task: str,
    decoding: Mapping[str, Any],
    outputs: Mapping[str, NDArray[Any]],
    known: Mapping[str, Any] | None = None,
    groups: Sequence[str | None] | None = None,
) -> Answer:
    """Return the answer of a task for N rows.

    ``label`` and ``probability`` for classes, names and probabilities (N, K), or (N,) of the second of two; ``label``
    (N, M), whether each label holds, and ``probability`` (N, M) for several labels; ``value`` (N,) or (N, D) for
    numbers, with ``low`` and ``high`` where their errors are known; several such numbers by the keys of their fields;
    all else as it is.

    Args:
        task: its name.
        decoding: as of :meth:`~mtl_lightning.tasks.Task.decoding`.
        outputs: final outputs of all tasks, by name.
        known: the task's calibration, for intervals.
        groups: of each row the value of the column by which intervals differ.
    """
    if decoding["form"] == "fields" and all(f"{task}.{key}" in outputs for key in decoding["fields"]):
        return {key: outputs[f"{task}.{key}"] for key in decoding["fields"]}
    form = decoding["form"] if task in outputs and decoding["form"] != "fields" else "arrays"
    if form == "arrays":
        inside = {
            name.removeprefix(f"{task}."): value for name, value in outputs.items() if name.startswith(f"{task}.")
        }
        return {"value": outputs[task]} if task in outputs else inside
    found = outputs[task]
    if form == "labels":
        return {"label": found > _THRESHOLD, "probability": found}
    if form == "values":
        return {"value": found, **_interval(found, known, groups)}
    names = prepared(decoding)["names"]
    codes = (found > _THRESHOLD).astype(np.int64) if form == "binary" else found.argmax(-1)
    return {"label": names[codes], "probability": found}


def prepared(decoding: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a task is decoded with the names of its classes as an array, for many calls of :func:`answer`."""
    if decoding["form"] not in ("binary", "classes") or isinstance(decoding["names"], np.ndarray):
        return decoding
    return {**decoding, "names": np.array(decoding["names"], dtype=object)}


def _interval(
    values: NDArray[Any], known: Mapping[str, Any] | None, groups: Sequence[str | None] | None
) -> Mapping[str, NDArray[Any]]:
    if known is None or known.get("method") != "conformal":
        return {}
    width = half_widths(known, groups, len(values))
    width = width[:, 0] if values.ndim == 1 else width
    return {"low": values - width.astype(values.dtype), "high": values + width.astype(values.dtype)}


def half_widths(known: Mapping[str, Any], groups: Sequence[str | None] | None, rows: int) -> NDArray[np.float64]:
    """Return half the width of each row's interval (N, D): that of its group, or of all rows where it has none."""
    by_group: Mapping[str, Any] = known.get("groups") or {}
    if not by_group or groups is None:
        return np.broadcast_to(np.array(known["half_width"], dtype=np.float64), (rows, len(known["half_width"])))
    return np.array([by_group.get(group or "", known["half_width"]) for group in groups], dtype=np.float64).reshape(
        rows, len(known["half_width"])
    )


def empty_outputs(task: str, decoding: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return the final outputs of no rows of a task, by name."""
    if decoding["form"] == "fields":
        shapes = {f"{task}.{key}": (0, len(names)) if names else (0,) for key, names in decoding["fields"].items()}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    names = decoding.get("names", [])
    several = decoding["form"] in ("classes", "labels") or (decoding["form"] == "values" and names)
    return {task: np.zeros((0, len(names)) if several else (0,), dtype=np.float32)}
