"""Lightning's words about devices, where they have been said.

Relies on Lightning's loggers all standing below ``lightning.pytorch``, or below ``rank_zero`` of its utilities.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep Lightning from telling which devices there are, and what it advises; not its warnings."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
