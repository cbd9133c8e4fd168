"""The plan of the optimizers: which group each parameter is in, and what steps, schedules and clips each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Adam

from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.core.network.graph import BALANCER, DEFAULT
from mtl_lightning.core.network.roles import Named, Roles
from mtl_lightning.core.optim.build import assign_groups, build_optimizers, check_clipping, sparse_parameters
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.schedulers import SchedulerFactory
from mtl_lightning.core.optim.schedules import CompositeScheduler, Length, Schedule, no_length
from mtl_lightning.names import known_name


class OptimizerPlan:
    """What makes the optimizers, and the factor on their rates that a learning-rate finder found.

    Args:
        patterns: ``{group: [patterns]}`` of parameter names; see :func:`~mtl_lightning.core.optim.build.assign_groups`.
        optimizers: each group's optimizer; by default Adam at 1e-3, and at 1e-2 for the balancer.
        schedulers: each group's scheduler.
        gradient_clip: ``{group: largest gradient norm}``; none, 0 or less is no clipping, as in Lightning's trainer.

    Attributes:
        groups: the groups' parameters by full name, once they are assigned.
        gradient_clip: the groups that are clipped, and the largest norm of each.
    """

    def __init__(
        self,
        patterns: Mapping[str, str | Sequence[str]] | None,
        optimizers: Mapping[str, OptimizerCallable] | None,
        schedulers: Mapping[str, Schedule | SchedulerFactory] | None,
        gradient_clip: Mapping[str, float | None] | None,
    ) -> None:
        check_arguments(groups=patterns, optimizers=optimizers, schedulers=schedulers, gradient_clip=gradient_clip)
        self._patterns = patterns
        self._optimizers = optimizers or {DEFAULT: partial(Adam, lr=1e-3), BALANCER: partial(Adam, lr=1e-2)}
        self._schedulers = dict(schedulers or {})
        self._clipped = list(gradient_clip or {})
        self.gradient_clip = {n: float(v) for n, v in (gradient_clip or {}).items() if v is not None and v > 0}
        self.groups: dict[str, Named] = {}
        self._roles = Roles()
        self._factor, self._found = 1.0, False
        self._length: Length = no_length

    def assign(self, roles: Roles) -> None:
        """Put every parameter in its group."""
        self._roles, self.groups = roles, assign_groups(roles, self._patterns)
        for name in self._clipped:
            known_name(name, dict.fromkeys([*self.groups, BALANCER]), "gradient_clip")

    def drop_schedulers(self) -> None:
        """Have no group's rate scheduled from now on, as where rates are swept."""
        self._schedulers = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a trainer, as a module does when it is copied or pickled."""
        return {**self.__dict__, "_length": no_length}

    def make(self, network: nn.Module, length: Length = no_length) -> tuple[CompositeOptimizer, CompositeScheduler]:
        """Make the optimizer and the scheduler of all groups; the scheduler may have nothing to do.

        Args:
            network: whose parameters are in the groups.
            length: tells the number of updates or epochs of the run.
        """
        self._length = length
        optimizer = build_optimizers(self.groups, self._optimizers, self._roles, sparse_parameters(network))
        optimizer.fast_paths = bool(getattr(network, "fast_paths", True))
        if self._factor != 1.0:
            optimizer.set_rates(self._factor)
        self._found = False
        return optimizer, CompositeScheduler(optimizer, self._schedulers, length)

    def check_clipping(self, network: nn.Module, whole: bool) -> None:
        """Refuse to clip sparse gradients.

        Args:
            network: whose parameters are in the groups.
            whole: whether the trainer clips all of them together.

        Raises:
            ConfigurationError: that names the group.
        """
        clipped = [name for name, named in self.groups.items() if named and (whole or name in self.gradient_clip)]
        check_clipping(self.groups, sparse_parameters(network), clipped)

    @property
    def rate(self) -> float:
        """The default group's learning rate; setting it multiplies the rates of all groups, which keep their ratios."""
        return self._default_rate * self._factor

    @rate.setter
    def rate(self, found: float) -> None:
        self._factor, self._found = found / self._default_rate, True

    @property
    def _default_rate(self) -> float:
        rates = build_optimizers(self.groups, self._optimizers, self._roles, set()).configured
        by_default = [rate for name, rate in rates.items() if name not in self._optimizers]
        return (by_default or list(rates.values()))[0]

    def use_found_rate(self, optimizer: CompositeOptimizer, scheduler: CompositeScheduler | None) -> None:
        """Give the groups their ratios back, if a learning-rate finder has since written one rate into all of them."""
        if not self._found:
            return
        self._found = False
        optimizer.set_rates(self._factor)
        if scheduler is not None:
            scheduler.schedulers = CompositeScheduler(optimizer, self._schedulers, self._length).schedulers
