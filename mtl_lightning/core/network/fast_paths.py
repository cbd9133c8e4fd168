"""One switch for all ways of computing that are there for speed alone, and give what the plain way gives."""

from __future__ import annotations

import os

from torch import nn

VARIABLE = "MTL_LIGHTNING_FAST_PATHS"


def fast_paths_allowed() -> bool:
    """Whether the environment leaves them on: the variable is not set, or not to 0."""
    return os.environ.get(VARIABLE, "1") != "0"


def allow_fast_paths(network: nn.Module, allowed: bool) -> None:
    """Tell the parts of a network that have such ways, which they say by an attribute ``fast_paths``."""
    for part in network.modules():
        if part is not network and hasattr(part, "fast_paths"):
            part.fast_paths = allowed  # type: ignore[assignment]  # no tensor
