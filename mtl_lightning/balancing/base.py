"""The balancer contract: how T losses become one update. The base class is the plain sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mtl_lightning.balancing.draws import Draws
from mtl_lightning.balancing.virtual_step import VirtualStep
from mtl_lightning.types import Likelihood

_HALF = (torch.float16, torch.bfloat16)


class Balancer(nn.Module):
    """Sum of the losses of the tasks that are present, and the contract of every other balancer.

    A balancer is used in a bare PyTorch loop as ``balancer(losses).backward()``; the module calls its parts.

    Args:
        num_tasks: T, the number of tasks, fixed for life.

    Attributes:
        affine: a promise that :meth:`objective` is affine in the losses at fixed state, so that micro-batches and
            processes add up. A subclass that writes its own objective must make the promise again.
        rows: whether it needs one gradient per task, which :meth:`gradient` makes one.
        scale: how the network's update follows the losses' scale, at fixed state: losses times c give an update times c
            ("linear"), the same update ("invariant"), or neither ("none").
        splits: into how many equal parts the core is to split each batch, one set of rows each.
        gramian: whether :meth:`task_weights` of the rows' inner products is all that it needs.
        level: what the rows are gradients of: all shared ``"parameters"``, the ``"features"`` that all heads read, or
            the ``"last_layer"`` that is shared.
        weight_heads: whether its task weights multiply the gradients of the tasks' own parameters, too.
        sizes: how many entries of a row each shared parameter has, in order, which core tells; empty where unknown.
    """

    affine: bool = True
    rows: bool = False
    scale: Literal["linear", "invariant", "none"] = "linear"
    splits: int = 1
    gramian: bool = False
    level: str = "parameters"
    weight_heads: bool = False
    sizes: tuple[int, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Withdraw the promise ``affine`` from a subclass that overrides the objective and does not repeat it."""
        super().__init_subclass__(**kwargs)
        if "objective" in cls.__dict__ and "affine" not in cls.__dict__:
            cls.affine = False

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"Expected at least 1 task, found num_tasks={num_tasks}.")
        self.num_tasks = num_tasks

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Tell the tasks' names and likelihoods, in order; called once, before the optimizers are made.

        Not calling it means Gaussian losses and nameless tasks, so that ``Cls(num_tasks)`` works by itself.
        """

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,), means over labelled elements, and present (T,) bool to the scalar () to minimise.

        An absent task's loss is 0 and must count for nothing: neither it nor any term of its learned state.
        """
        return torch.where(present, losses, 0.0).sum()

    def gradient(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D), the gradients of the P present tasks over D shared parameters, to one (D,).

        Args:
            jacobian: the rows, each times the derivative of :meth:`objective` by its task's loss.
            losses: (P,) the losses of the present tasks.
            present: (T,) bool.
        """
        return jacobian.sum(0)

    def task_weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map the rows' inner products (P, P), losses (P,) and present (T,) to task weights (P,), if ``gramian``."""
        raise NotImplementedError

    def head_weights(self, present: Tensor, number: int) -> Tensor | None:
        """Return what multiplies the gradients of P = ``number`` present tasks' own parameters, (P,); None for 1.

        Asked for after :meth:`gradient`, if ``weight_heads`` and not ``gramian``.
        """
        return None

    def masks(self, signed: Tensor, present: Tensor) -> Tensor:
        """Map sums over rows of sign(feature) times its gradient, (P, F), to factors (P, F), if not ``gramian``.

        Asked for at the level of features, of methods that mask the features' gradients before these are summed.
        """
        raise NotImplementedError

    def wants_rows(self, micro_batches: int) -> bool:
        """Whether an update of so many micro-batches needs one gradient per task; the core's only question."""
        return self.rows or (not self.affine and micro_batches > 1)

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return the learned parameters of each task's index; left untouched while that task is absent."""
        return {}

    def sigmas(self) -> Tensor | None:
        """Return the learned noise scales (T,), detached, in units of the losses; None where there are none."""
        return None

    def tries_steps(self) -> bool:
        """Whether :meth:`before_update` does anything."""
        return type(self).before_update is not Balancer.before_update

    def before_update(self, virtual: VirtualStep, present: Tensor) -> None:
        """Learn from where steps would lead, before the update's losses; ``present`` is (T,) bool."""

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Do what follows an optimizer step; ``losses`` recomputes the global losses (T,) when called."""

    def follows_epochs(self) -> bool:
        """Whether :meth:`after_epoch` does anything."""
        return type(self).after_epoch is not Balancer.after_epoch

    def share_seeds(self, broadcast: Callable[[int], int]) -> None:
        """Make the seeds of random draws equal on all processes; ``broadcast`` returns the first process's number."""
        for part in self.modules():
            if isinstance(part, Draws):
                part.seed = broadcast(part.seed)

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Do what follows an epoch; ``losses`` (T,) are its means over labelled elements, for the tasks present."""

    def forward(self, losses: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the objective () of losses (T,), all present by default."""
        if losses.shape != (self.num_tasks,):
            raise ValueError(f"Expected losses of shape ({self.num_tasks},), found {tuple(losses.shape)}.")
        return self.objective(losses, torch.ones_like(losses, dtype=torch.bool) if present is None else present)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``.to()``, but keep learned weights at float32 or better when the network is cast to half."""

        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in _HALF and tensor.dtype not in _HALF else moved

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self
