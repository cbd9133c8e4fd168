"""What methods of gradients are asked: balancers that see one gradient per task, and make one of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.names import known_arguments
from mtl_lightning.types import ConfigurationError, Likelihood

Rescale: TypeAlias = Literal["none", "sum", "mean", "norm"]
Level: TypeAlias = Literal["parameters", "features", "last_layer"]
LossBalancer: TypeAlias = Callable[[int], Balancer]
_RESCALES = ("none", "sum", "mean", "norm")


class GradientBalancer(Balancer):
    """Combines the gradients of the present tasks with respect to the shared parameters; a subclass says how.

    The losses may be weighed first, by a loss balancer of their own: the rows are then those of the weighed losses.

    Args:
        num_tasks: T, the number of tasks.
        losses: makes the loss balancer from T; the plain sum by default, which leaves the losses as they are.
        rescale: what is done to the combined gradient, since methods differ in its scale: ``"norm"`` gives it the norm
            of the sum of the rows; ``"sum"`` and ``"mean"``, for methods with task weights, make their absolute values
            sum to the number of present tasks or to 1, which never turns an update where some are negative (of
            AlignedMTL, say); ``"none"`` leaves the method's own scale. So does ``"norm"`` where the rows cancel out to
            less than a thousandth of their lengths: what is left there is rounding noise, not to be blown up.

    Attributes:
        gramian: whether the rows' inner products are all that it needs; then it is a :class:`GramianBalancer`.
        level: what the rows are gradients of: all shared ``"parameters"``, the ``"features"`` that all heads read, or
            the ``"last_layer"`` that is shared.
        weight_heads: whether its task weights multiply the gradients of the tasks' own parameters, too.
        solves_on_host: whether it reads inner products or weights on the host, which waits for the device's work.

    Raises:
        ConfigurationError: for an unknown option, one that the method cannot serve, or a ``losses`` that needs rows.
    """

    rows = True
    affine = False
    follows_epochs = False  # but for what the loss balancer does
    tensors_only = True
    gramian: bool = False
    level: str = "parameters"
    weight_heads: bool = False
    solves_on_host: ClassVar[bool] = False
    rescales: ClassVar[tuple[str, ...]] = ("none", "norm")

    def __init__(self, num_tasks: int, *, losses: LossBalancer = Balancer, rescale: Rescale = "none") -> None:
        super().__init__(num_tasks)
        if rescale not in self.rescales:
            raise ConfigurationError(
                f"{type(self).__name__}: expected `rescale` to be one of {self.rescales}, found {rescale!r}."
            )
        self.rescale = rescale
        self.losses = inner_balancer(losses, num_tasks, type(self).__name__)
        self.follows_epochs = self.follows_epochs or self.losses.follows_epochs
        self.least_loss, self.epochs_to_start = self.losses.least_loss, self.losses.epochs_to_start

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D), or (S, P, D) where ``parts`` is S > 1, losses (P,) and present (T,) to a gradient (D,).

        Nothing here is inf or nan, and never below float32. Per-task state (T, ...) is read with :meth:`here`.
        """

    # ---------------------------------------------------------------------------------------------------- the contract
    @torch.no_grad()
    def gradient(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D), the gradients of the P present tasks over D shared parameters, to one (D,), rescaled.

        Args:
            jacobian: the rows, each times the derivative of :meth:`objective` by its task's loss.
            losses: (P,) the losses of the present tasks.
            present: (T,) bool.
        """
        combined = self.combine(jacobian, losses, present)
        if self.rescale != "norm":
            return combined
        rows = jacobian if jacobian.dim() == 2 else jacobian.mean(0)
        return combined * _ratio(rows.sum(0).norm(), combined.norm(), 1e-3 * rows.norm(dim=1).mean())

    def here(self, state: Tensor, present: Tensor, number: int) -> Tensor:
        """Return the entries (P, ...) of a per-task state (T, ...) that belong to the present tasks.

        Args:
            state: the state.
            present: (T,) bool.
            number: P; where it is T, no value of ``present`` is looked at, which on a GPU would have to be waited for.
        """
        return state if number == self.num_tasks else state[present]

    def keep(self, state: Tensor, values: Tensor, present: Tensor) -> None:
        """Write the present tasks' entries (P, ...) of a per-task state (T, ...); absent tasks' stay as they are."""
        if len(values) == self.num_tasks:
            state.copy_(values)
        else:
            state[present] = values.to(state.dtype)

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Pass the tasks' names and likelihoods on."""
        super().bind(likelihoods)
        self.losses.bind(likelihoods)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) to the loss balancer's objective ()."""
        return self.losses.objective(losses, present)

    def sums_losses(self) -> bool:
        """Whether the objective is the loss balancer's, and that one the plain sum."""
        return getattr(self.objective, "__func__", None) is GradientBalancer.objective and self.losses.sums_losses()

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return the loss balancer's parameters of each task."""
        return self.losses.owned()

    def sigmas(self) -> Tensor | None:
        """Return the loss balancer's noise scales (T,)."""
        return self.losses.sigmas()

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Do what the loss balancer does after an optimizer step."""
        self.losses.after_update(losses)

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Do what the loss balancer does after an epoch."""
        self.losses.after_epoch(losses, present)


class GramianBalancer(GradientBalancer):
    """Combines gradients linearly, with weights that follow from their inner products alone.

    Args:
        num_tasks: T, the number of tasks.
        losses: makes the loss balancer from T; see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.
        weight_heads: whether the weights also multiply the gradients of the tasks' own parameters, which otherwise
            get the gradients of their own (weighed) losses.
        level: what the inner products are taken of. ``"parameters"``: the gradients with respect to all shared
            parameters, exact. ``"features"``: those with respect to the features that all tasks share, before the
            heads, as in MGDA-UB; one backward through the trunk instead of one per task. ``"last_layer"``: those with
            respect to the last shared layer; then one backward of the weighted losses.

    Raises:
        ConfigurationError: for an unknown option.
    """

    gramian = True
    tensors_only = True
    rescales = _RESCALES
    levels: ClassVar[tuple[str, ...]] = ("parameters", "features", "last_layer")

    def __init__(
        self,
        num_tasks: int,
        *,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        if level not in self.levels:
            raise ConfigurationError(
                f"{type(self).__name__}: expected `level` to be one of {self.levels}, found {level!r}."
            )
        self.weight_heads, self.level = weight_heads, level

    @abstractmethod
    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map the inner products (P, P) of the rows, losses (P,) and present (T,) to the rows' weights (P,).

        The Gramian is symmetric, finite and in float64.
        """

    @torch.no_grad()
    def task_weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P) to weights (P,), rescaled, in the Gramian's dtype."""
        exact = gramian.double()
        exact = (exact + exact.T) / 2
        found = self.weights(exact, losses.double(), present)
        if self.rescale in ("sum", "mean"):
            target = len(found) if self.rescale == "sum" else 1
            found = found * _ratio(found.new_tensor(float(target)), found.abs().sum())
        elif self.rescale == "norm":
            lengths = exact.diagonal().clamp(min=0).sqrt()
            combined = (found @ exact @ found).clamp(min=0).sqrt()
            found = found * _ratio(exact.sum().clamp(min=0).sqrt(), combined, 1e-3 * (found.abs() @ lengths))
        return found.to(gramian.dtype)

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to their weighted sum (D,), at the method's own scale."""
        return self.weights(gramian(jacobian), losses.double(), present).to(jacobian.dtype) @ jacobian

    @torch.no_grad()
    def gradient(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to their weighted sum (D,), rescaled."""
        return self.task_weights(gramian(jacobian), losses, present).to(jacobian.dtype) @ jacobian


# ------------------------------------------------------------------------------------------- what some methods opt into
class MasksFeatures:
    """Mixin of a method that, at the level of features, masks their gradients before these are summed: no weights."""

    @abstractmethod
    def masks(self, signed: Tensor, present: Tensor) -> Tensor:
        """Map sums over rows of sign(feature) times its gradient, (P, F), and present (T,) to factors (P, F)."""


class WeighsHeads:
    """Mixin of a method of whole rows that weighs the tasks' own parameters' gradients too, if ``weight_heads``."""

    @abstractmethod
    def head_weights(self, present: Tensor, number: int) -> Tensor:
        """Return what multiplies those of the P = ``number`` present tasks, (P,); asked for after :meth:`gradient`."""


class PerParameter:
    """Mixin of a method that treats each shared parameter by itself.

    Attributes:
        sizes: how many entries of a row each shared parameter has, in order, which core tells; empty where unknown.
    """

    sizes: tuple[int, ...] = ()

    def widths(self, width: int) -> list[int]:
        """Return the lengths of the pieces of a row of so many entries, one per shared parameter.

        It is one piece where the sizes are unknown, and where they do not add up to the width (rows of something else
        than the shared parameters).
        """
        return list(self.sizes) if self.sizes and sum(self.sizes) == width else [width]


def inner_balancer(losses: LossBalancer, num_tasks: int, owner: str) -> Balancer:
    """Make the loss balancer inside of another balancer.

    Raises:
        ConfigurationError: if it needs rows, tries steps, which only the outermost balancer can, or is made for another
            number of tasks.
    """
    known_arguments(losses)
    made: object = losses(num_tasks)
    fits = isinstance(made, Balancer) and not made.rows and not made.tries_steps and made.num_tasks == num_tasks
    if not (isinstance(made, Balancer) and fits):
        raise ConfigurationError(
            f"{owner}: expected as `losses` a loss balancer for {num_tasks} tasks, one that tries no steps, found "
            f"{made!r}."
        )
    return made


def _ratio(wanted: Tensor, found: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Return the factor () that makes ``found`` () ``wanted``; 1 where that is no more than ``noise``."""
    tiny = torch.finfo(found.dtype).tiny
    return torch.where(found > torch.as_tensor(noise).clamp(min=tiny), wanted / found, torch.ones_like(found))
