"""What tasks have in common that must know the training split's target before all else."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.tasks.rows import RowTask
from mtl_lightning.types import ConfigurationError


class FittedTask(RowTask):
    """A task by the row that may have to be fitted by :meth:`fit_target`; whether it was is in checkpoints then.

    Attributes:
        unfitted: what is said of one that is used before: what was expected, and what to do.
    """

    target_fitted: Tensor
    unfitted: str

    def await_target(self, needed: bool) -> None:
        """Register whether it is fitted: not yet, if it needs to be."""
        self.register_buffer("target_fitted", torch.tensor(not needed), persistent=needed)
        self._fitted = not needed  # the value of `target_fitted`, readable without a host sync
        self.register_load_state_dict_post_hook(_read)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @property
    def fitted(self) -> bool:
        """Whether it is fitted, or does not need to be."""
        return self._fitted

    def end_fit(self) -> None:
        """Note that it is fitted."""
        self.target_fitted.fill_(True)
        self.read_fitted()

    def read_fitted(self) -> None:
        """Follow the buffers, which were fitted or loaded just now."""
        self._fitted = bool(self.target_fitted)

    def expect_fitted(self) -> None:
        """Raise ConfigurationError where it is not fitted yet."""
        if not self._fitted:
            raise ConfigurationError(self.unfitted)


def _read(task: FittedTask, _incompatible_keys: object) -> None:
    """Read the flag that a state dict has just brought along."""
    task.read_fitted()
