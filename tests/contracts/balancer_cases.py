"""Every balancer there is, ours with its defaults and in its other forms, torchjd's through their adapters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchjd.aggregation as aggregation
import torchjd.scalarization as scalarization
from torch import Tensor
from torchjd.aggregation import Aggregator, GramianWeightedAggregator
from torchjd.scalarization import Scalarizer

from mtl_lightning import balancing
from mtl_lightning.balancing import Balancer
from mtl_lightning.balancing.build import build_balancer
from mtl_lightning.balancing.rows import GradientBalancer, MasksFeatures
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator

EXPORTED: list[Any] = [getattr(balancing, name) for name in balancing.__all__]
CLASSES: list[Any] = [
    cls for cls in EXPORTED if inspect.isclass(cls) and issubclass(cls, Balancer) and not inspect.isabstract(cls)
]


@dataclass(frozen=True)
class Case:
    """A way to make a balancer.

    Attributes:
        name: says which.
        factory: what a user gives as ``balancer``, for tasks in some order.
        ours: whether this library wrote the method.
        tasks: the smallest number of tasks that it takes.
        first_differs: whether it treats the first task unlike the others, wherever that stands.
    """

    name: str
    factory: Callable[[list[int]], Any]
    ours: bool = True
    tasks: int = 1
    first_differs: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, tasks: int, seed: int = 0, order: Sequence[int] | None = None) -> Balancer:
        """Make it for a number of tasks, which stand in some order: arguments that name tasks follow it."""
        torch.manual_seed(seed)
        return build_balancer(self.factory(list(range(tasks) if order is None else order)), tasks)


def _needs_more(cls: Any) -> bool:
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    return any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)


def _with_primary(cls: Any, order: list[int], **options: Any) -> Any:
    """A class of ours with some options, whose primary task, if it has one, is the first before reordering."""
    primary = inspect.signature(cls).parameters.get("primary")
    if primary is not None and primary.default == 0:
        options["primary"] = order.index(0)
    return partial(cls, **options)


def _ours() -> list[Case]:
    cases = [Case(cls.__name__, partial(_with_primary, cls)) for cls in CLASSES if not _needs_more(cls)]
    for cls in CLASSES:
        options = inspect.signature(cls).parameters
        if _needs_more(cls) or not cls.rows:
            continue
        default = options["level"].default if "level" in options else None
        levels = [level for level in getattr(cls, "levels", ()) if default not in (None, level)]
        cases += [Case(f"{cls.__name__}-{level}", partial(_with_primary, cls, level=level)) for level in levels]
        if "weight_heads" in options:
            other = not options["weight_heads"].default
            name = f"{cls.__name__}-{'' if other else 'un'}weighted heads"
            cases.append(Case(name, partial(_with_primary, cls, weight_heads=other)))
        if "losses" in options:
            name = f"{cls.__name__}-uncertainty"
            cases.append(Case(name, partial(_with_primary, cls, losses=balancing.UncertaintyWeighting)))
    return cases


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
    "TrimmedMean": {"trim_number": 1},
    "COSMOS": {"lambda_": 0.5},
    "PBI": {"theta": 0.5},
    "STCH": {"mu": 1.0},
}
_SMALLEST = {"Krum": 3, "TrimmedMean": 3}
_PER_TASK = {"Constant", "COSMOS", "PBI"}  # take a tensor of weights


def _torchjd(module: Any, base: Any) -> list[Case]:
    cases = []
    for name in module.__all__:
        cls = getattr(module, name)
        if not issubclass(cls, base) or cls is base or name in ("WeightedAggregator", "GramianWeightedAggregator"):
            continue

        def factory(order: list[int], cls: Any = cls, name: str = name) -> Any:
            given = {"weights": torch.linspace(0.5, 1.5, len(order))[order]} if name in _PER_TASK else {}
            return partial(cls, **_ARGUMENTS.get(name, {}), **given)

        label = f"torchjd.{module.__name__.rpartition('.')[2]}.{name}"
        cases.append(Case(label, factory, ours=False, tasks=_SMALLEST.get(name, 1), first_differs=name == "PCD"))
    return cases


def _smoothed(_: list[int]) -> Any:
    return GramianWeightedAggregator(aggregation.CRMOGMWeighting(aggregation.PCDWeighting()))


CASES = [
    *_ours(),
    *_torchjd(scalarization, Scalarizer),
    *_torchjd(aggregation, Aggregator),
    Case("torchjd.aggregation.CRMOGMWeighting", _smoothed, ours=False, first_differs=True),
]


# --------------------------------------------------------------------------------------------------- one update by hand
def update_of(balancer: Balancer, jacobian: Tensor, losses: Tensor, present: Tensor | None = None) -> Tensor:
    """What core makes of rows (T, D) and losses (T,): the shared parameters' gradient (D,), before any optimizer."""
    here = torch.ones_like(losses, dtype=torch.bool) if present is None else present
    leaf = losses.detach().clone().requires_grad_()
    objective = balancer.objective(leaf, here)
    (weights,) = torch.autograd.grad(objective, leaf, materialize_grads=True)
    if not isinstance(balancer, GradientBalancer):
        return weights @ torch.where(here.unsqueeze(1), jacobian, 0.0)
    rows = weights[here].unsqueeze(1) * jacobian[here]
    if balancer.level == "features" and isinstance(balancer, MasksFeatures):
        return (balancer.masks(rows, here) * rows).sum(0)
    if balancer.parts > 1:
        rows = torch.stack([rows * (1 + 0.1 * part) for part in range(balancer.parts)])
    return balancer.gradient(rows, losses[here], here)


def problem(tasks: int, width: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Rows (T, D), some of which conflict, and positive losses (T,)."""
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(tasks, width, generator=generator, dtype=torch.float64)
    if tasks > 1:
        jacobian[1] = -0.5 * jacobian[0] + 0.6 * jacobian[1]
    return jacobian.to(dtype), (0.2 + 3 * torch.rand(tasks, generator=generator, dtype=torch.float64)).to(dtype)


def train(
    balancer: Balancer, steps: int, *, start: int = 0, present: Tensor | None = None, width: int = 11
) -> list[Tensor]:
    """Updates in a row, as core makes them, an epoch of two each; returns them."""
    parameters = [p for p in balancer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05) if parameters else None
    updates = []
    for step in range(start, start + steps):
        jacobian, losses = problem(balancer.num_tasks, width, seed=step)
        here = torch.ones_like(losses, dtype=torch.bool) if present is None else present
        if optimizer is not None:
            optimizer.zero_grad()
            leaf = losses.clone()
            torch.autograd.backward(balancer.objective(leaf, here))
            absent = [index for index, there in enumerate(here.tolist()) if not there]
            for index in absent:
                for parameter in balancer.owned().get(index, []):
                    parameter.grad = None
        updates.append(update_of(balancer, jacobian, losses, here).detach())
        if optimizer is not None:
            optimizer.step()
        balancer.after_update(lambda losses=losses: 0.9 * losses)  # type: ignore[misc]
        if step % 2 == 1 and balancer.follows_epochs:
            balancer.after_epoch(losses, here)
    return updates


class PermutedDraws(SeededGenerator):
    """Another source's numbers with every axis of one length permuted."""

    def __init__(self, source: SeededGenerator, order: Tensor) -> None:
        super().__init__(source.seed)
        self.updates, self.order = source.updates, order

    def _permuted(self, drawn: Tensor) -> Tensor:
        for axis, size in enumerate(drawn.shape):
            if size == len(self.order):
                drawn = drawn.index_select(axis, self.order)
        return drawn

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        return self._permuted(super().normal(*shape, like=like))

    def uniform(self, *shape: int, like: Tensor) -> Tensor:
        return self._permuted(super().uniform(*shape, like=like))


def with_permuted_draws(balancer: Balancer, order: Tensor) -> Balancer:
    """The balancer, its draws permuted with its tasks."""
    for part in list(balancer.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, SeededGenerator):
                setattr(part, name, PermutedDraws(child, order))
    return balancer


def same(balancer: Balancer) -> Balancer:
    """An independent copy."""
    return copy.deepcopy(balancer)
