"""Which tasks have been labelled so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.core.update.batches import check_targets, targets_of
from mtl_lightning.names import known_name
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, ConfigurationError


class LabelWatch:
    """Notices a task that nobody labels: a misspelt key looks just like missing labels.

    Args:
        tasks: the tasks by name.
        allowed: those that may go without a label for a whole epoch.

    Raises:
        ConfigurationError: if ``allowed`` names no task.
    """

    process_only: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tasks: Mapping[str, Task], allowed: Sequence[str]) -> None:
        check_arguments(allow_unlabelled=allowed)
        self.tasks, self.allowed = tasks, list(allowed)
        for name in self.allowed:
            known_name(name, tasks, "allow_unlabelled")
        self.keys: set[str] = set()
        self.labelled: set[str] = set()
        self._whole_epoch = False

    def update(self, batches: list[Batch], batch_idx: int) -> None:
        """Note a batch's keys; the first one's targets are checked in full."""
        for batch in batches:
            if not self.keys:
                check_targets(batch, self.tasks)
        self.keys.update(key for batch in batches for key in targets_of(batch))
        self._whole_epoch |= batch_idx == 0

    def check_epoch(self, whole: bool) -> None:
        """Raise a :class:`ConfigurationError` if a task had no label, on any process, in a whole epoch.

        Args:
            whole: whether the epoch that ends went through all of the data.
        """
        missing = [task for task in self.tasks if task not in self.labelled and task not in self.allowed]
        whole, self._whole_epoch = whole and self._whole_epoch, False
        if missing and whole:
            raise ConfigurationError(
                f"The tasks {missing} had no label in a whole epoch: expected targets under these names, found the "
                f"keys {sorted(self.keys)}. Fix the names, or list the tasks in `allow_unlabelled`."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {"labelled": sorted(self.labelled)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.labelled.update(state["labelled"])
