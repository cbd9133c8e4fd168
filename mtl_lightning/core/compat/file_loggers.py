"""Names of metrics for loggers that keep each in a file of its name, such as MLflow's with a folder as its store.

There ``train/loss`` is a file, and cannot be the folder of ``train/loss/<task>`` as well. Such a logger gets a point in
place of every slash but the first: ``train/loss.<task>``; all other loggers get our names.

Relies on ``Logger.log_metrics`` being what Lightning gives all metrics to, and on ``MLFlowLogger._tracking_uri``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

_CANNOT = (FileExistsError, IsADirectoryError, NotADirectoryError)  # what such a store raises


def rename_for_files(loggers: Iterable[Logger]) -> None:
    """Give loggers that need it other names; may be called again."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger) and not isinstance(logger.log_metrics, _Renamed):
            logger.log_metrics = _Renamed(logger.log_metrics, _is_folder(logger))  # type: ignore[method-assign]


class _Renamed:
    """A logger's ``log_metrics`` with names that can all be files, if the logger is known or found to need that.

    Args:
        log: the logger's own.
        needed: whether it is known from the start.
    """

    def __init__(self, log: Any, needed: bool) -> None:
        self._log, self._needed = log, needed
        functools.update_wrapper(self, log)

    def __call__(self, metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Log metrics."""
        if not self._needed:
            try:
                return self._log(metrics, *args, **kwargs)
            except _CANNOT:
                self._needed = True
        return self._log({_as_file(name): value for name, value in metrics.items()}, *args, **kwargs)


def _as_file(name: str) -> str:
    stage, slash, rest = name.partition("/")
    return stage + slash + rest.replace("/", ".")


def _is_folder(logger: Logger) -> bool:
    """Whether a logger tracks into a folder."""
    address = getattr(logger, "_tracking_uri", None)
    if not isinstance(address, str) or address.startswith("databricks"):
        return False
    return address.startswith("file:") or "://" not in address
