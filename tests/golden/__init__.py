"""Reference numbers of balancing methods, recorded from LibMTL 4336804 on the CPU in float64; numbers, not code.

One file per method. A case is one problem with one set of hyper-parameters; its steps are updates in a row. Left out of
the recordings: the linear problems' networks, whose Jacobians are here; placeholders that LibMTL returns as weights;
and degenerate input, where the reference is no target. Jacobians, which methods have in common, are in one file.
"""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """Updates in a row of one method on one problem.

    Attributes:
        name: ``"<problem>|<hyper-parameters' label>"``.
        tasks: T.
        hyper: LibMTL's keyword arguments.
        on_features: whether gradients of the features (``J_rep`` of a step, (T, B, F)) were balanced.
        steps: see :func:`_step`.
    """

    name: str
    tasks: int
    hyper: dict[str, Any]
    on_features: bool
    steps: list[dict[str, Any]]

    def __str__(self) -> str:
        return self.name


@functools.cache
def _jacobians() -> list[Any]:
    loaded: list[Any] = json.loads(gzip.decompress((_FOLDER / "jacobians.json.gz").read_bytes()))
    return loaded


@functools.cache
def cases(method: str) -> list[Case]:
    """Return a method's cases; the method has LibMTL's name, such as ``"CAGrad"``."""
    found = json.loads(gzip.decompress((_FOLDER / f"{method}.json.gz").read_bytes()))["cases"]
    return [Case(c["name"], c["T"], c["hyper"], c["rep_grad"], [_step(s) for s in c["steps"]]) for c in found]


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step with its lists as float64 tensors.

    ``losses`` (T,), ``J`` (T, D), ``grad_shared`` (D,), ``head_multiplier`` (T,); of some methods ``state_before``,
    ``state_after``, ``loss_scale_grad`` (T,), ``losses_after_step`` (T,), ``epoch``, ``epoch_loss_history``,
    ``random_draws``, ``features`` (B, F) and ``J_rep`` (T, B, F). MoDo and SDMGrad have three samples: ``losses``
    (3, T) and ``J`` (3, T, D).
    """
    return {key: _tensor(_jacobians()[value] if key == "J" else value) for key, value in step.items()}


def _tensor(value: Any) -> Tensor | Any:
    if isinstance(value, dict):
        return {key: _tensor(entry) for key, entry in value.items()}
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
