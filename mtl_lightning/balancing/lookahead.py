"""A step that an update might make, for balancers that try it before they decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class Lookahead(Protocol):
    """What core offers such a balancer before an update: the network's losses and gradients beside its weights.

    A *shift* is one tensor per trained parameter of the network, in one order: shared and single tasks' ones, not the
    balancer's. The network's own weights never change, nor do BatchNorm's statistics, the random state or ``.grad``;
    everything is over the whole window and all processes, and detached. An absent task has the loss 0.

    ``part`` is one of the balancer's ``parts`` equal parts of the window, counted from 0.
    """

    def losses_at(self, shift: Sequence[Tensor], part: int) -> Tensor:
        """Return the mean losses (T,) at the weights plus a shift."""

    def gradient_of(self, weights: Tensor, part: int, shift: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the gradient of ``sum_k weights_k L_k`` at the weights, or at the weights plus a shift.

        Args:
            weights: (T,).
            part: of the window.
            shift: none by default.
        """

    def step(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Return the shift that plain descent would make with a gradient, at the parameters' rates.

        Where a group's optimizer is SGD, with its weight decay and the momentum that has gathered; for any other
        without either.
        """

    def rates(self) -> list[float]:
        """Return the present learning rate of each parameter, which its group's optimizer has."""


@runtime_checkable
class TriesSteps(Protocol):
    """A balancer that looks where steps would lead before each update; only the outermost one can."""

    def before_update(self, lookahead: Lookahead, present: Tensor) -> None:
        """Learn from where steps would lead, before the update's losses; ``present`` is (T,) bool."""
