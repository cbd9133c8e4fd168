"""One switch for all ways of computing that are there for speed alone, and give what the plain way gives."""

from __future__ import annotations

import os

VARIABLE = "MTL_LIGHTNING_FAST_PATHS"


def fast_paths_allowed() -> bool:
    """Whether the environment leaves them on: the variable is not set, or not to 0."""
    return os.environ.get(VARIABLE, "1") != "0"
