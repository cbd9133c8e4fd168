"""How far the answers of a file are from the network's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_lightning.core.network.final import PROBABILITY
from mtl_lightning.core.network.network import Network
from mtl_lightning.errors import ExportError
from mtl_lightning.export import rows as some_rows
from mtl_lightning.exported import Model

ALLOWED = 1e-5
"""Of a probability, or of a target's standard deviation."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output over all rows.

    Attributes:
        size: in probabilities, or in standard deviations of the target.
        of: which of the two, in words.
        rounding: what two neighbouring numbers of the output's dtype differ by, in the same unit: less cannot be asked.
    """

    size: float
    of: str
    rounding: float = 0.0

    @property
    def is_small(self) -> bool:
        """Whether it is at most 1e-5, or two steps of the dtype."""
        return self.size <= max(ALLOWED, 2 * self.rounding)

    def __str__(self) -> str:
        return f"{self.size:.1e} {self.of}"


def compare(network: Network, model: Model, rows: Any, schema: Mapping[str, Any] | None) -> dict[str, Difference]:
    """Return the largest difference of each output between ``network.predict`` and a file, over all rows.

    The file is run on all rows at once and, to see that any number will do, on the first alone.

    Args:
        network: the network.
        model: the file.
        rows: tensors as in a batch, on the CPU.
        schema: the table's schema, which knows the targets' standard deviations.

    Raises:
        ExportError: if a difference is too large, with all of them.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    predicted = network.predict(_to(rows, device))
    expected = {name: _part(predicted, name).detach().cpu().numpy() for name in model.outputs}
    found = model.run(some_rows.as_arrays(rows))
    first = model.run(some_rows.as_arrays(some_rows.cut(rows, slice(1))))
    differences = {}
    for name, values in expected.items():
        task, _, rest = name.partition(".")
        probability = not rest and isinstance(predicted[task], Mapping)
        beside = rest in network.tasks[task].decoding().get("fields", {}) and rest != "value"
        scale = np.ones(()) if probability else _scale(network, task, values, schema, beside)
        of = "of its own size" if beside else "of the target's standard deviation"
        of = "in probabilities" if probability else of
        if name not in found or found[name].shape != values.shape:
            shape = found[name].shape if name in found else "nothing"
            raise ExportError(f"Output {name!r}: expected the shape {values.shape}, found {shape}.")
        sizes = [_largest(found[name], values, scale), _largest(first[name], values[:1], scale)]
        precision = np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
        rounding = float(np.nanmax(np.abs(values) / scale, initial=0.0)) * float(precision)
        differences[name] = Difference(max(sizes), of, 0.0 if probability else rounding)
    if large := {name: one for name, one in differences.items() if not one.is_small}:
        listed = "; ".join(f"{name}: {one}" for name, one in large.items())
        raise ExportError(
            f"The exported network was compared with `predict` on {some_rows.count(rows)} rows: expected a difference "
            f"of at most {ALLOWED:.0e}, found {listed}. Nothing was written. Try the other `format`; layers that draw "
            "random numbers in evaluation mode, or TF32 on a GPU, differ as well."
        )
    return differences


def _part(predicted: Mapping[str, Any], output: str) -> Tensor:
    """Return what an output, ``<task>`` or ``<task>.<key>``, is of: values, probabilities, or another key."""
    task, _, key = output.partition(".")
    whole = predicted[task]
    part: Tensor = whole[key or PROBABILITY] if isinstance(whole, Mapping) else whole
    return part


def _largest(found: NDArray[Any], expected: NDArray[Any], scale: NDArray[Any]) -> float:
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    gaps = np.isnan(expected)
    if not np.array_equal(gaps, np.isnan(found)):
        return float("inf")
    same = gaps | (found == expected)  # infinities, too
    with np.errstate(invalid="ignore"):
        apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)) / scale
    return float(np.where(same, 0.0, apart).max(initial=0.0))


def _scale(
    network: Network, task: str, values: NDArray[Any], schema: Mapping[str, Any] | None, own_size: bool
) -> NDArray[Any]:
    """Return a target's standard deviation (), or (D,): of the training rows, else of these predictions.

    With ``own_size`` the root of these predictions' mean square: of what is no prediction of the target itself.
    """
    if own_size:
        size = float(np.sqrt(np.nanmean(np.square(values.astype(np.float64))))) if values.size else 0.0
        return np.asarray(size if size > 0 else 1.0)
    known = ((schema or {}).get("targets") or {}).get(task) or {}
    transformed = getattr(network.tasks[task], "transform", None) is not None
    fitted = None if transformed else getattr(network.tasks[task], "target_std", None)
    if known.get("std", 0) > 0:
        return np.asarray(known["std"])
    if isinstance(fitted, Tensor) and bool((fitted != 1).any()):
        scale = fitted.detach().cpu().double().numpy()
        return scale if values.ndim == 2 and scale.shape == values.shape[1:] else scale.max()
    spread = float(np.nanstd(values.astype(np.float64))) if values.size else 0.0
    return np.asarray(spread if spread > 0 else 1.0)


def _to(rows: Any, device: torch.device) -> Any:
    return {name: part.to(device) for name, part in rows.items()} if isinstance(rows, Mapping) else rows.to(device)
