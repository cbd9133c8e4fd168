"""How far a loop's memory grows: the peak of the resident set in a fresh process, over what it was before the model."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


def peak_growth(run: Callable[[], object]) -> float | None:
    """Return by how many MiB a picklable function raises the peak of a process of its own; None outside Linux.

    What it imports, and the pages of libraries that it is first to touch, count as well.
    """
    if sys.platform != "linux":
        return None
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(partial(_measure, run))


def _measure(run: Callable[[], object]) -> float:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    _REFERENCES.write_text(_RESET_PEAK)
    before = peak()
    run()
    return peak() - before


def peak() -> float:
    """Return the largest resident set that this process has had, in MiB (Linux)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
