"""The study behind a comparison or a search: one of Optuna's, in a database that several processes share."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtl_lightning.types import ConfigurationError

__all__ = ["alone_in", "needs_extra", "open_study", "url_of"]

_PATIENCE = 120  # seconds that a process waits for SQLite, which lets one write at a time
_PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds between attempts to open it
_LIVES = 3  # of a trial whose process may be taken for dead, in heartbeats


def needs_extra() -> None:
    """Raise a :class:`ConfigurationError` that says what to install where the extra ``tune`` is missing."""
    try:
        import matplotlib  # noqa: F401
        import optuna  # noqa: F401
        import scipy  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"Comparisons and searches need {error.name}, which was not found: pip install 'mtl-lightning[tune]'"
        ) from error


def url_of(storage: str | None, folder: Path) -> str:
    """Return the address of the database: SQLite in the folder, unless another one is given."""
    if storage is None:
        return f"sqlite:///{folder.resolve() / 'study.db'}"
    if "://" not in storage:
        raise ConfigurationError(
            f"`storage`: expected the address of a database, such as 'postgresql://host/name', found {storage!r}."
        )
    return storage


def alone_in(folder: Path) -> FileLock:
    """Return a lock on what is written into a folder, to be entered."""
    return FileLock(folder / ".lock")


def open_study(url: str, name: str, heartbeat: int, **options: Any) -> Any:
    """Open a study, or make it.

    A trial under way shows every few seconds that its process lives. One that has not for three times as long is lost,
    and waits to be run again.

    Args:
        url: of the database.
        name: of the study in it.
        heartbeat: seconds.
        options: of ``optuna.create_study``.

    Raises:
        ConfigurationError: if the database cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # the heartbeat
    for pause in _PAUSES:
        with contextlib.suppress(Exception):  # of two processes that make the tables at once, one fails
            return _opened(url, name, heartbeat, options)
        time.sleep(pause)
    try:
        return _opened(url, name, heartbeat, options)
    except Exception as error:  # of the database's driver, whichever that is
        raise ConfigurationError(
            f"`storage`: expected a database that can be opened, found {url.partition('@')[2] or url}: {error!s:.200}"
        ) from error


def _opened(url: str, name: str, heartbeat: int, options: Mapping[str, Any]) -> Any:
    import optuna

    engine = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = _storage_class(url)(
        url,
        engine_kwargs=engine,
        heartbeat_interval=heartbeat,
        grace_period=_LIVES * heartbeat,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
    )
    return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, **options)


def _storage_class(url: str) -> Any:
    """Return Optuna's storage, which locks a trial's row as its state changes; in SQLite there is no such lock, and two
    processes could take one trial, so that for it a file is locked.
    """
    import optuna

    if not url.startswith("sqlite:///"):
        return optuna.storages.RDBStorage

    class LockedStorage(optuna.storages.RDBStorage):
        """Changes the state of one trial at a time."""

        def set_trial_state_values(self, *arguments: Any, **named: Any) -> bool:
            """Change it, alone."""
            with FileLock(f"{url.removeprefix('sqlite:///').partition('?')[0]}.lock"):
                return super().set_trial_state_values(*arguments, **named)

    return LockedStorage
