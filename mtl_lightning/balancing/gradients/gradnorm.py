"""GradNorm: loss weights learned so that tasks train at similar rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.adam import TaskAdam
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype

InitialLosses: TypeAlias = Literal["first_update", "first_epoch"] | list[float] | dict[str, float]
_WHEN = ("first_update", "first_epoch")


class _Sum:
    """The learned numbers are the weights themselves, kept positive and at a constant sum."""

    def weights(self, numbers: Tensor) -> Tensor:
        """Map the numbers (P,) of the present tasks to weights (P,) whose sum is P."""
        return numbers * (len(numbers) / numbers.sum())

    def slope(self, weights: Tensor, by_weight: Tensor) -> Tensor:
        """Map derivatives (P,) by the weights to derivatives by the numbers, as in the paper at a free sum."""
        return by_weight

    def kept(self, new: Tensor, old: Tensor, moved: Tensor, floor: float) -> Tensor:
        """Return the new numbers (T,), those in ``moved`` not below the floor and with the sum they had."""
        new = new.clamp(min=floor)
        before, after = (torch.where(moved, numbers, 0.0).sum() for numbers in (old, new))
        return torch.where(moved, new * (before / torch.where(after > 0, after, 1.0)), old)


class _Softmax:
    """The learned numbers are logits, free to take any value."""

    def weights(self, numbers: Tensor) -> Tensor:
        return len(numbers) * numbers.softmax(0)

    def slope(self, weights: Tensor, by_weight: Tensor) -> Tensor:
        return weights * (by_weight - (weights * by_weight).mean())

    def kept(self, new: Tensor, old: Tensor, moved: Tensor, floor: float) -> Tensor:
        return torch.where(moved, new, old)


_NORMALIZATIONS: dict[str, _Sum | _Softmax] = {"sum": _Sum(), "softmax": _Softmax()}


class GradNorm(GramianBalancer):
    r"""Weights learned so that tasks train at similar rates: `GradNorm: Gradient Normalization for Adaptive Loss
    Balancing in Deep Multitask Networks <https://arxiv.org/abs/1711.02257>`_ (Chen, Badrinarayanan, Lee and Rabinovich,
    2018), equations 1 and 2 and algorithm 1.

    .. math::

        G_k = w_k \lVert g_k \rVert, \qquad r_k = \frac{L_k / L_k(0)}{\mathrm{mean}_j\, L_j / L_j(0)}, \qquad
        L_\text{grad} = \sum_k \left| G_k - \bar G\, r_k^\alpha \right|

    where :math:`g_k` is the gradient of task k's loss :math:`L_k` with respect to the last shared layer (``level``),
    :math:`\bar G` the mean of the :math:`G_k`, and the target :math:`\bar G r_k^\alpha` counts as a constant. The
    update uses :math:`\sum_k w_k L_k`; then the weights make one step of their own Adam down the slope of
    :math:`L_\text{grad}`, and are scaled to sum to T. No second backward is needed, as :math:`G_k` is linear in
    :math:`w_k`:

    .. math:: \partial L_\text{grad} / \partial w_k = \mathrm{sign}(G_k - \bar G\, r_k^\alpha)\, \lVert g_k \rVert

    What the paper leaves open, and departures from it:

    - Weights are kept at ``floor`` or more, since a negative one would make its task worse on purpose.
    - With tasks absent from an update, means are over those present, whose weights sum to their number in that update;
      afterwards they have the sum that they had before, and the absent ones' weights are untouched.
    - A task whose first loss is 0 or negative starts with its first positive one; until then its weight stays.
    - In an update that is skipped, for gradients that are not finite, nothing is learned.

    The larger alpha, the more the slowest task takes of the sum; with a very large one the others go to ``floor``.

    LibMTL's variant is ``GradNorm(T, initial_losses="first_epoch", normalization="softmax", weight_heads=False,
    level="parameters")``. It learns with the network's optimizer; here Adam stays private.

    Args:
        num_tasks: T.
        alpha: how strongly the slower tasks are helped; 0 makes all gradients equally large. The paper uses 1.5 for
            NYUv2 and 0.12 for its synthetic tasks.
        lr: the weights' learning rate; the paper uses 0.025.
        initial_losses: L(0). ``"first_update"``: of each task, the loss of the first update that it is present in.
            ``"first_epoch"``: its mean over the first epoch, before whose end weights stay at 1. Or values in the
            tasks' order, or by name (the tasks left out use their first update): the paper recommends log C for a
            classification into C classes, when the first losses depend on the initialisation.
        normalization: ``"sum"`` as in the paper, or ``"softmax"``: the weights are T times the softmax of what is
            learned.
        floor: smallest weight, before the weights are scaled to their sum; unused with ``"softmax"``.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; in the paper they are, as the total loss is.
        level: what the gradients are taken of; the paper's is the last shared layer.

    Attributes:
        numbers: (T,) what is learned: the weights, which sum to T, or their logits.
        first_losses: (T,) L(0), 0 where it is not known yet.

    Raises:
        ConfigurationError: for options out of range.
    """

    follows_epochs = False  # but for initial losses of the first epoch, and for what the loss balancer does
    tensors_only = True
    numbers: Tensor
    first_losses: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        alpha: float = 1.5,
        lr: float = 0.025,
        initial_losses: InitialLosses = "first_update",
        normalization: Literal["sum", "softmax"] = "sum",
        floor: float = 1e-4,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = True,
        level: Level = "last_layer",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if normalization not in _NORMALIZATIONS:
            raise ConfigurationError(
                f"GradNorm: expected `normalization` to be one of {list(_NORMALIZATIONS)}, found {normalization!r}."
            )
        self.alpha, self.floor, self._normalization = alpha, floor, _NORMALIZATIONS[normalization]
        self.adam = TaskAdam(num_tasks, lr=lr)
        dtype = state_dtype()
        self.register_buffer("numbers", torch.ones(num_tasks, dtype=dtype))
        self.register_buffer("first_losses", torch.zeros(num_tasks, dtype=dtype))
        self._from_epoch = initial_losses == "first_epoch"
        if alpha:
            self.least_loss = 0.0
        self.epochs_to_start = max(self.epochs_to_start, int(self._from_epoch))
        self.follows_epochs = self.follows_epochs or self._from_epoch
        self._by_name = dict(initial_losses) if isinstance(initial_losses, dict) else None
        self._take_values(initial_losses)
        self._learned: tuple[Tensor, Tensor, Tensor] | None = None  # slope, L(0), moved: till `after_update`

    def _take_values(self, given: InitialLosses) -> None:
        """Check the initial losses, and keep those in the tasks' order."""
        if isinstance(given, str):
            if given not in _WHEN:
                raise ConfigurationError(
                    f"GradNorm: expected `initial_losses` to be values or one of {_WHEN}, found {given!r}."
                )
            return
        values: Sequence[float] = list(given.values() if isinstance(given, dict) else given)
        number = len(values) if isinstance(given, dict) else self.num_tasks
        if len(values) != number:
            raise ConfigurationError(
                f"GradNorm: expected as `initial_losses` {number} positive numbers, found {given}. Give one per task."
            )
        if not isinstance(given, dict):
            self.first_losses.copy_(torch.tensor(values))

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the initial losses by the tasks' names.

        Raises:
            ConfigurationError: for a name that is no task.
        """
        super().bind(likelihoods)
        names = list(likelihoods)
        if self._by_name is None:
            return
        if unknown := sorted(self._by_name.keys() - set(names)):
            raise ConfigurationError(
                f"GradNorm: expected `initial_losses` of the tasks {names}, found some of {unknown}, which are none."
            )
        self.first_losses.copy_(torch.tensor([self._by_name.get(name, 0.0) for name in names]))
        self._by_name = None

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,) before this update's step, which :meth:`after_update` makes."""
        if self._by_name is not None:
            raise ConfigurationError(
                f"GradNorm: expected `bind` to tell which tasks {list(self._by_name)} are, found it not called. Call "
                "it, or give `initial_losses` as a list."
            )
        weights = self._normalization.weights(self.here(self.numbers, present, len(losses)).to(losses))
        known = self.here(self.first_losses, present, len(losses)).to(losses)
        first = known if self._from_epoch else torch.where(known > 0, known, losses.clamp(min=0))
        by_weight = slopes(weights, gramian.diagonal().clamp(min=0).sqrt(), losses, first, self.alpha)
        slope, started = torch.zeros_like(self.numbers), self.first_losses.clone()
        self.keep(slope, self._normalization.slope(weights, by_weight).to(slope), present)
        self.keep(started, first.to(started), present)
        self._learned = slope, started, present & (started > 0)
        return weights

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Make the step of the weights."""
        super().after_update(losses)
        if self._learned is None:
            return
        slope, first, moved = self._learned
        self._learned = None
        self.first_losses.copy_(first)
        change = self.adam.step(slope, moved)
        self.numbers.copy_(self._normalization.kept(self.numbers + change, self.numbers, moved, self.floor))

    @torch.no_grad()
    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Take the first epoch's mean losses as initial ones, if they are to be."""
        super().after_epoch(losses, present)
        if self._from_epoch:
            new = present & (self.first_losses == 0) & losses.isfinite() & (losses > 0)
            self.first_losses.copy_(torch.where(new, losses.to(self.first_losses), self.first_losses))


def slopes(weights: Tensor, norms: Tensor, losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """Return the derivatives (P,) of GradNorm's loss by the weights; 0 for a task whose first loss is not known.

    Args:
        weights: (P,).
        norms: (P,) of the tasks' gradients.
        losses: (P,).
        first: (P,) L(0), 0 where it is not known.
        alpha: the power of the relative rates.
    """
    known = first > 0
    number = known.sum().clamp(min=1)
    ratios = torch.where(known, losses.clamp(min=0) / torch.where(known, first, 1.0), 0.0)
    mean_ratio = ratios.sum() / number
    rates = torch.where(mean_ratio > 0, ratios / torch.where(mean_ratio > 0, mean_ratio, 1.0), 1.0)
    sizes = weights * norms
    target = torch.where(known, sizes, 0.0).sum() / number * rates**alpha
    return torch.where(known, torch.sign(sizes - target) * norms, 0.0)
