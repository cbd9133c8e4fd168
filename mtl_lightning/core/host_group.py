"""Sums over processes of numbers that are on the host: nothing of a device is waited for.

Beside a group of NCCL, which sums on GPUs alone, there is one of gloo. All of them are destroyed together, at the end
of the program (``core/compat/process_group.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

beside: dict[str, Any] = {"of": None, "group": None}
"""The usual process group, and that of the host beside it, if one was needed."""


def can_sum() -> bool:
    """Whether there is a way for numbers of the host; the same on every process."""
    return dist.is_initialized() and dist.is_gloo_available()


def host_sum(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """Sum numbers over all processes, in place; all of them have to take part, with as many."""
    dist.all_reduce(torch.from_numpy(numbers), group=_group())


def _group() -> Any:
    """Return the group that sums tensors on the CPU: None is the usual one, another one is made at the first sum."""
    if "gloo" in backend():
        return None
    if beside["of"] is not dist.group.WORLD:
        beside["of"], beside["group"] = dist.group.WORLD, dist.new_group(backend="gloo")
    return beside["group"]


def backend() -> str:
    """Return what the usual group sums with: ``nccl``, say, or ``cpu:gloo,cuda:nccl``."""
    return str(dist.get_backend())
