"""What a balancer needs and a run may not give it: losses that its formula holds for, and epochs enough to begin."""

from __future__ import annotations

import warnings

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.types import MtlLightningWarning

_TOGETHER = 64  # updates whose losses are looked at at once


class LeastLosses:
    """Notices losses below what the balancer's formula holds for, and warns of each task once.

    Such a method trains on, and wrongly: a logarithm or an inverse of a negative loss is cut off, say, and its task
    gets no gradient, or all of it. The smallest losses stay on the device until a row of the record is read, which
    waits for the device anyway. Balancers that take any loss cost nothing. With several processes, whose parts of a
    loss need not be positive, the losses that the record sums over them are looked at, in the updates that it takes.

    Args:
        network: whose balancer and tasks it is about.
        runtime: where it runs.
    """

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self._network, self._runtime = network, runtime
        self._smallest: Tensor | None = None
        self._last: list[tuple[Tensor, Tensor]] = []  # losses and which are present, of updates since then
        self._told: set[str] = set()

    def update(self, losses: Tensor, present: Tensor) -> None:
        """Take in this process's part of an update's losses (T,), of the tasks in ``present`` (T,) bool."""
        if self._network.balancer.least_loss is not None and self._runtime.world_size == 1:
            self._take(losses, present)

    def read(self, losses: Tensor, present: Tensor) -> None:
        """Warn of what was met till now, now that the device is waited for.

        Args:
            losses: (T,) of the last update, summed over processes.
            present: (T,) bool.
        """
        least, names = self._network.balancer.least_loss, list(self._network.tasks)
        if least is None or len(self._told) == len(names):
            return
        self._take(losses, present)
        found: list[float] = self._fold().tolist()
        bounds = [least] * len(names) if isinstance(least, int | float) else least
        for name, value, bound in zip(names, found, bounds, strict=True):
            if value < bound and name not in self._told:
                self._told.add(name)
                self._warn(name, value, bound)

    def _take(self, losses: Tensor, present: Tensor) -> None:
        self._last.append((losses.detach(), present))
        if len(self._last) >= _TOGETHER:
            self._fold()

    def _fold(self) -> Tensor:
        """Return the smallest losses (T,) so far; a nan is none."""
        losses, present = (torch.stack(parts) for parts in zip(*self._last, strict=True))
        smallest = torch.where(present, losses, torch.inf).nan_to_num(torch.inf, torch.inf, -torch.inf).amin(0)
        self._smallest = smallest if self._smallest is None else torch.minimum(self._smallest, smallest)
        self._last = []
        return self._smallest

    def _warn(self, task: str, value: float, bound: float) -> None:
        method = name_of(self._network.balancer)
        rank_zero_warn(
            f"{method}: expected losses of {bound:g} or more, found {value:.3g} for the task {task!r} by update "
            f"{self._runtime.trainer.global_step}. Its formula does not hold for such a loss, and trains that task "
            "wrongly: take a balancer that any loss suits (the plain sum, FixedWeighting, a gradient method without "
            "`losses`), or give the task a loss that is never lower.",
            category=MtlLightningWarning,
        )


def warn_of_short_run(network: Network, runtime: Runtime) -> None:
    """Say that a run is over before the balancer's own formula begins."""
    trainer, needed = runtime.trainer, network.balancer.epochs_to_start
    epochs = trainer.max_epochs
    if needed and epochs is not None and 0 < epochs <= needed and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside Trainer.__init__
        rank_zero_warn(
            f"{name_of(network.balancer)}: expected a run of more than {needed} epochs, after which its own formula "
            f"begins, found `trainer.max_epochs: {epochs}`: the whole run would be its warm-up. Train longer, or "
            "shorten the warm-up where the method has an option for it (`warmup_epochs`, `initial_losses`).",
            category=MtlLightningWarning,
        )


def warn_if_nothing_is_shared(network: Network) -> None:
    """Say that a balancer of gradients has nothing to combine."""
    if network.balancer.rows and not network.roles.trained[0]:
        warnings.warn(
            f"{type(network.balancer).__name__} combines gradients of shared parameters, and this network has none: "
            "every task's own parameters get the gradients of its own loss.",
            MtlLightningWarning,
            stacklevel=2,
        )


def name_of(balancer: Balancer) -> str:
    """Return a balancer's name, with that of the loss balancer, or the method, inside of it: ``MGDA (LogLosses)``."""
    name = type(balancer).__name__
    parts = [getattr(balancer, key) for key in ("losses", "balancer", "scalarizer") if hasattr(balancer, key)]
    inside = [type(part).__name__ for part in parts if type(part) is not Balancer]
    return f"{name} ({inside[0]})" if inside else name
