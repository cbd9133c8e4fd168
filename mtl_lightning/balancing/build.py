"""From a class, a factory or an instance to a balancer: the one file that knows ours and torchjd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn
from torchjd.aggregation import Aggregator, Weighting
from torchjd.scalarization import Scalarizer

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.balancing.torchjd import TorchJD, TorchJDScalarizer, as_aggregator, call_factory
from mtl_lightning.types import ConfigurationError

# ours stand first, so that a short class name that torchjd has too means ours
BalancerArgument: TypeAlias = (
    Callable[[int], Balancer]
    | Callable[[int], Scalarizer]
    | Callable[[int], Aggregator]
    | Callable[[int], Weighting]  # type: ignore[type-arg]  # of whatever it weighs
    | Scalarizer
    | Aggregator
    | Weighting  # type: ignore[type-arg]
)


def build_balancer(argument: BalancerArgument | Balancer, num_tasks: int) -> Balancer:
    """Make a balancer from its class or factory; torchjd's scalarizers, aggregators and weightings are adapted.

    Raises:
        ConfigurationError: if it makes something else, or cannot be made.
    """
    made: Any = argument if isinstance(argument, nn.Module) else call_factory(argument, num_tasks)
    if isinstance(made, Weighting):
        made = as_aggregator(made)
    if isinstance(made, Scalarizer):
        return TorchJDScalarizer(num_tasks, scalarizer=made)
    if isinstance(made, Aggregator):
        return TorchJD(num_tasks, aggregator=made)
    if not isinstance(made, Balancer):
        raise ConfigurationError(
            f"`balancer`: expected a Balancer class, a function of the number of tasks that makes one, or a torchjd "
            f"scalarizer, aggregator or weighting, found {made!r}."
        )
    if made.rows and not isinstance(made, GradientBalancer):
        raise ConfigurationError(
            f"`balancer`: {type(made).__name__} needs one gradient per task: expected a subclass of "
            "mtl_lightning.balancing.rows.GradientBalancer, whose `combine` makes them one, found another Balancer."
        )
    if made.num_tasks != num_tasks:
        raise ConfigurationError(f"`balancer`: expected one for {num_tasks} tasks, found one for {made.num_tasks}.")
    return made
