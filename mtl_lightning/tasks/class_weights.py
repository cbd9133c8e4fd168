"""Weights of classes in a loss: given, or balanced by how many training rows each class has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mtl_lightning.tasks.fitted import FittedTask
from mtl_lightning.tasks.options import weights
from mtl_lightning.types import ConfigurationError, TargetError, state_dtype

Balanced: TypeAlias = Literal["balanced"]


class ClassWeightedTask(FittedTask):
    """A task whose loss may have a weight per class or label.

    ``"balanced"`` weights are fitted by :meth:`fit_target`, and are in checkpoints; given ones are not, since the
    arguments hold them.

    Attributes:
        balances: whether the weights are ``"balanced"``, for which numbers of labels per class are all that counts.
    """

    balances: bool

    @abstractmethod
    def balanced(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Return weights (K,) from the labels (N, D) of the training rows and which are labelled (N, D)."""

    def weigh(self, name: str, values: Sequence[float] | Balanced | None, size: int) -> None:
        """Register the weights (size,), or None, as the buffer ``name``.

        Raises:
            ConfigurationError: for another word, or another number of weights.
        """
        if isinstance(values, str) and values != "balanced":
            raise ConfigurationError(f"`{name}`: expected numbers or 'balanced', found {values!r:.60}.")
        self.balances = fits = isinstance(values, str)
        given = torch.ones(size, dtype=state_dtype()) if isinstance(values, str) else weights(name, values, size)
        self.register_buffer(name, given, persistent=fits)
        self.await_target(fits)
        self._weights = name
        self.unfitted = (
            f"{type(self).__name__}({name}='balanced'): expected the weights to be fitted, found none. Call "
            "`fit_target` with the training split's target, or load a checkpoint that holds them (a "
            f"MultiTaskDataModule fits them itself); or give `{name}` as numbers."
        )

    @torch.no_grad()
    def fit_target(self, target: Tensor) -> None:
        """Fit balanced weights to the labels of the whole training split; sample weights are not looked at.

        Raises:
            TargetError: if the target is not valid, or has no label.
        """
        if self.fitted:
            return
        self.check(target)
        columns, mask = self.columns_of(target.detach().cpu())
        if not mask.any():
            raise TargetError(
                f"{type(self).__name__}({self._weights}='balanced'): expected labels in the training split, found "
                f"none. Give `{self._weights}` as numbers."
            )
        self.get_buffer(self._weights).copy_(self.balanced(columns, mask))
        self.end_fit()
