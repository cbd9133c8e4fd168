"""The balancer contract: how T losses become one update. The base class is the plain sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import Likelihood

_HALF = (torch.float16, torch.bfloat16)
_FACTS = {"before_update": "tries_steps", "after_epoch": "follows_epochs"}  # what follows from overriding a method


class Balancer(Ranged, nn.Module):
    """Sum of the losses of the tasks that are present, and the contract of every other balancer.

    A balancer is used in a bare PyTorch loop as ``balancer(losses).backward()``; the module calls its parts. One that
    combines one gradient per task is a :class:`~mtl_lightning.balancing.rows.GradientBalancer`.

    Args:
        num_tasks: T, the number of tasks, fixed for life.

    Attributes:
        affine: a promise that :meth:`objective` is affine in the losses at fixed state, so that micro-batches and
            processes add up. A subclass that writes its own objective must make the promise again.
        rows: whether it needs one gradient per task.
        scale: how the network's update follows the losses' scale, at fixed state: losses times c give an update times c
            ("linear"), the same update ("invariant"), or neither ("none").
        parts: into how many equal parts the core is to split each batch, for independent samples.
        tries_steps: whether it is a :class:`~mtl_lightning.balancing.lookahead.TriesSteps`.
        follows_epochs: whether :meth:`after_epoch` does anything.
        least_loss: the smallest loss (of each task) that its formula holds for, None if any; training warns once.
        tensors_only: a promise that what follows an update, and what gives weights, changes no state but parameters and
            buffers, so that a device can take it back where gradients are not finite, and nobody waits to see whether
            they are. A subclass that writes its own ``after_update`` or ``weights`` must make the promise again.
        epochs_to_start: how many epochs pass before its own formula begins; training warns of a run that is not longer.
    """

    affine: bool = True
    rows: bool = False
    scale: Literal["linear", "invariant", "none"] = "linear"
    parts: int = 1
    tries_steps: bool = False
    follows_epochs: bool = False
    tensors_only: bool = True
    least_loss: float | Sequence[float] | None = None
    epochs_to_start: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """State the facts that follow from what a subclass overrides, where it does not say them itself."""
        super().__init_subclass__(**kwargs)
        if "objective" in cls.__dict__ and "affine" not in cls.__dict__:
            cls.affine = False
        if {"after_update", "weights"} & cls.__dict__.keys() and "tensors_only" not in cls.__dict__:
            cls.tensors_only = False
        for method, fact in _FACTS.items():
            if method in cls.__dict__ and fact not in cls.__dict__:
                setattr(cls, fact, True)

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Tell names and likelihoods, before the optimizers are made; without it tasks are Gaussian and nameless."""

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,), means over labelled elements, and present (T,) bool to the scalar () to minimise.

        An absent task's loss is 0 and must count for nothing: neither it nor any term of its learned state.
        """
        return torch.where(present, losses, 0.0).sum()

    def sums_losses(self) -> bool:
        """Whether :meth:`objective` is the plain sum, whose derivatives by the losses need no autograd."""
        return getattr(self.objective, "__func__", None) is Balancer.objective

    def wants_rows(self, micro_batches: int) -> bool:
        """Whether an update of so many micro-batches needs one gradient per task; the core's only question."""
        return self.rows or (not self.affine and micro_batches > 1)

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return the learned parameters of each task's index; left untouched while that task is absent."""
        return {}

    def sigmas(self) -> Tensor | None:
        """Return the learned noise scales (T,), detached, in units of the losses; None where there are none."""
        return None

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Do what follows an optimizer step; ``losses`` recomputes the global losses (T,) when called."""

    def changes_tensors_only(self) -> bool:
        """Whether it and its parts keep the promise of ``tensors_only``; random draws are counted on the host."""
        parts = [*self.modules()]
        balancers = [part for part in parts if isinstance(part, Balancer)]
        return all(one.tensors_only for one in balancers) and not any(isinstance(p, SeededGenerator) for p in parts)

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Do what follows an epoch; ``losses`` (T,) are its means over labelled elements, for the tasks present."""

    def share_seeds(self, broadcast: Callable[[int], int]) -> None:
        """Make the seeds of random draws equal on all processes; ``broadcast`` returns the first process's number."""
        for part in self.modules():
            if isinstance(part, SeededGenerator):
                part.seed = broadcast(part.seed)

    def forward(self, losses: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the objective () of losses (T,), all present by default."""
        if losses.shape != (self.num_tasks,):
            raise ValueError(f"Expected losses of shape ({self.num_tasks},), found {tuple(losses.shape)}.")
        return self.objective(losses, torch.ones_like(losses, dtype=torch.bool) if present is None else present)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``.to()``, but keep learned weights at float32 or better when the network is cast to half."""
        super()._apply(_keeping_precision(fn), recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self


def _keeping_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a conversion without its fall to half precision."""

    def converted(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return tensor.to(moved.device) if moved.dtype in _HALF and tensor.dtype not in _HALF else moved

    return converted
