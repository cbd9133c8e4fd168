"""The task that the others serve."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError


class Primary:
    """Which task is the primary one, by its index, or by a name that is known once the tasks' names are.

    Args:
        task: index or name.
        num_tasks: T.
        owner: who asks, for errors.

    Raises:
        ConfigurationError: for an index that is no task.
    """

    def __init__(self, task: str | int, num_tasks: int, owner: str) -> None:
        self._task, self._owner = task, owner
        self._index = task if isinstance(task, int) and not isinstance(task, bool) else None
        if not isinstance(task, str) and (self._index is None or not 0 <= self._index < num_tasks):
            raise ConfigurationError(
                f"{owner}: expected `primary` to be a task's name or its index from 0 to {num_tasks - 1}, found "
                f"{task!r}."
            )

    def bind(self, names: Iterable[str]) -> None:
        """Look the name up.

        Raises:
            ConfigurationError: if no task has it.
        """
        names = list(names)
        if isinstance(self._task, str):
            if self._task not in names:
                raise ConfigurationError(
                    f"{self._owner}: expected `primary` to be one of the tasks {names}, found {self._task!r}."
                )
            self._index = names.index(self._task)

    @property
    def index(self) -> int:
        """The primary task's index among all T.

        Raises:
            ConfigurationError: if its name waits for :meth:`bind`.
        """
        if self._index is None:
            raise ConfigurationError(
                f"{self._owner}: expected `bind` to tell which task {self._task!r} is, found it not called. Call it, "
                "or give the primary task's index."
            )
        return self._index

    def among(self, present: Tensor, number: int) -> Tensor:
        """Return which of the P = ``number`` present tasks is the primary one, as (P,) bool; none if it is absent."""
        chosen = torch.arange(len(present), device=present.device) == self.index
        return chosen if number == len(present) else chosen[present]
