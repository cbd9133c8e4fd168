"""Outputs as a calibration says: one pure function, and what a calibration may look like.

The calibration of a network is plain data, a dict for each task that has one, which any JSON file can hold:

- ``{"method": "temperature", "temperature": t}``: logits of classes are divided by t;
- ``{"method": "platt", "slope": [a, ...], "intercept": [b, ...]}``: the logit z of each yes-or-no label becomes
  a z + b;
- ``{"method": "isotonic", "x": [[...], ...], "y": [[...], ...]}``: for each label knots x of the logit, which rise, and
  the probabilities y there; straight lines between them, and the ends' values beyond;
- ``{"method": "conformal", "coverage": c, "half_width": [q, ...], "by": column, "groups": {value: [q, ...]}}``: the
  truth lies in v - q to v + q, where v is what is predicted, for a share c of the rows; in original units. Outputs stay
  as they are. ``by`` and ``groups`` are None unless rows with some values of a column have an interval of their own.

What fits them is :mod:`mtl_lightning.calibration`. Tasks that read another's estimate read it as it was in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.tasks.base import Task

__all__ = ["calibrated", "misfit"]

_LEAST = 1e-7  # probability whose logit float32 still tells from that of 0, and of 1
_MOST = 1e30


def calibrated(output: Tensor, known: Mapping[str, Any] | None) -> Tensor:
    """Return calibrated outputs (B, K, *): logits of calibrated probabilities.

    Nothing depends on the values of the outputs but the outputs: it can be traced.

    Args:
        output: (B, K, *), in float32 or better.
        known: a task's calibration, see above; None leaves the outputs as they are.
    """
    method = None if known is None else known["method"]
    if known is None or method == "conformal":
        return output
    if method == "temperature":
        return output / float(known["temperature"])
    if method == "platt":
        return output * _like(output, known["slope"]) + _like(output, known["intercept"])
    columns = zip(output.unbind(1), known["x"], known["y"], strict=True)
    return torch.stack([_interpolated(logit, x, y).logit(eps=_LEAST) for logit, x, y in columns], dim=1)


def _interpolated(values: Tensor, x: list[float], y: list[float]) -> Tensor:
    """Return the height (B,) at some places (B,) of straight lines through knots (N,), flat beyond the ends."""
    if len(x) == 1:
        return torch.zeros_like(values) + y[0]
    places, heights = _like(values, x), _like(values, y)
    inside = values.clamp(x[0], x[-1])
    right = (inside.unsqueeze(1) >= places).sum(1).clamp(1, len(x) - 1)
    left = right - 1
    width = places[right] - places[left]
    share = (inside - places[left]) / torch.where(width > 0, width, 1.0)  # knots may be nearer than the dtype tells
    return heights[left] + share.clamp(0, 1) * (heights[right] - heights[left])


def _like(values: Tensor, numbers: list[float]) -> Tensor:
    return values.new_tensor([float(number) for number in numbers])


# ------------------------------------------------------------------------------------------------------------ its form
def misfit(calibration: Mapping[str, Any], tasks: Mapping[str, Task]) -> str | None:
    """Say in a few words what of a calibration cannot be one of these tasks; None if nothing."""
    for name, known in calibration.items():
        if name not in tasks:
            return f"that of {name!r}, which is no task"
        task = tasks[name]
        if not isinstance(known, Mapping) or known.get("method") not in task.calibrated_by:
            return f"{known!r:.60} for task {name!r}, a {type(task).__name__}"
        size = task.estimate_size if known["method"] == "conformal" else task.output_size  # scales have no interval
        if not _fits(known, size):
            return f"{known!r:.60} for task {name!r}, which has {size} outputs"
    return None


def _fits(known: Mapping[str, Any], size: int) -> bool:
    """Whether the numbers of a task's calibration are all there, and can be such for so many outputs."""
    if known["method"] == "temperature":
        return _numbers([known.get("temperature")], 1) and known["temperature"] > 1 / _MOST
    if known["method"] == "platt":
        return _numbers(known.get("slope"), size) and _numbers(known.get("intercept"), size)
    return _knots(known, size) if known["method"] == "isotonic" else _intervals(known, size)


def _knots(known: Mapping[str, Any], size: int) -> bool:
    axes = known.get("x"), known.get("y")
    if not all(isinstance(axis, list) and len(axis) == size for axis in axes):
        return False
    return all(
        isinstance(x, list)
        and len(x) > 0
        and _numbers(x, len(x))
        and _numbers(y, len(x))
        and all(before < after for before, after in pairwise(x))
        and all(0 < height < 1 for height in y)
        for x, y in zip(known["x"], known["y"], strict=True)
    )


def _intervals(known: Mapping[str, Any], size: int) -> bool:
    groups = {} if known.get("groups") is None else known["groups"]
    if not isinstance(groups, Mapping) or not all(isinstance(value, str) for value in groups):
        return False
    return (
        _numbers([known.get("coverage")], 1)
        and 0 < known["coverage"] < 1
        and isinstance(known.get("by"), str | None)
        and all(_numbers(width, size) and min(width) >= 0 for width in [known.get("half_width"), *groups.values()])
    )


def _numbers(found: Any, size: int) -> bool:
    """Whether something is a list of so many numbers that float32 can hold."""
    fits = isinstance(found, list) and len(found) == size
    return fits and all(type(number) in (int, float) and -_MOST < number < _MOST for number in found)
