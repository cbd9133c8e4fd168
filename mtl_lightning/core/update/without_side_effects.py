"""Forwards that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def without_side_effects(module: nn.Module) -> Iterator[None]:
    """Run forwards that leave buffers (BatchNorm statistics) and the random state as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
