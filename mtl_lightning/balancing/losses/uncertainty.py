"""Loss weights learned as the noise level of each task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype

_HALVINGS = 60  # of the bounds' distance: as exact as float64 can tell


class _Kendall:
    """The regulariser ``b * s``, which grows with s without end and falls with it likewise."""

    def value(self, s: Tensor, b: Tensor, power: Tensor) -> Tensor:
        return b * s

    def slope(self, s: Tensor, b: Tensor, power: Tensor) -> Tensor:
        return b


class _LiebelKoerner:
    """The same with ``log(1 + scale^2)`` in place of ``log(scale)``, never negative; ``scale^2 = exp(power * s)``."""

    def value(self, s: Tensor, b: Tensor, power: Tensor) -> Tensor:
        return 2 * b / power * torch.logaddexp(power * s, torch.zeros_like(s))

    def slope(self, s: Tensor, b: Tensor, power: Tensor) -> Tensor:
        return 2 * b * torch.sigmoid(power * s)


_REGULARIZERS: dict[str, _Kendall | _LiebelKoerner] = {"kendall": _Kendall(), "liebel_koerner": _LiebelKoerner()}
_GAUSSIAN = Likelihood(0.5, 0.5, "log_var")


class UncertaintyWeighting(Balancer):
    r"""Weights learned as noise levels: `Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics <https://arxiv.org/abs/1705.07115>`_ (Kendall, Gal and Cipolla, 2018), equations 7 and 10.

    .. math:: \sum_k a_k e^{-s_k} L_k + b_k s_k

    over the tasks k that are present. :math:`L_k` is task k's mean loss over labelled elements, :math:`s_k` a learned
    number, and :math:`a_k`, :math:`b_k` follow from the task's :class:`~mtl_lightning.types.Likelihood`: for squared
    errors a = b = 1/2 and :math:`s = \log \sigma^2`, for absolute ones a = b = 1 and s is the log of the Laplace
    distribution's scale, for cross-entropies a = 1, b = 1/2 and :math:`e^s` is a temperature. The paper derives no term
    for absolute errors; this one is the likelihood of Laplace noise.

    At the optimum :math:`e^{s_k} = a_k L_k / b_k`, where task k's loss has the weight :math:`b_k / L_k`.

    With ``regularizer="liebel_koerner"``, :math:`\log(1 + \text{scale}^2)` replaces :math:`\log \text{scale}`, with the
    same coefficient: `Auxiliary Tasks in Multi-task Learning <https://arxiv.org/abs/1805.06334>`_ (Liebel and Körner,
    2018). For squared errors with :math:`c = \sigma` this is the paper's :math:`L / (2 c^2) + \log(1 + c^2)`, whose
    optimum is :math:`c^2 = (aL + \sqrt{a^2 L^2 + 4 a L}) / 2` with a = 1/2. The paper uses that one form for every loss
    and learns c; here each likelihood keeps its a and b, and s is learned, which keeps c positive.

    What to know before using it:

    - A negative objective is expected, as soon as a loss is well below 1; with Liebel and Körner's term it is not.
      Never stop early on the objective or choose checkpoints by it: it falls as s does. Monitor unweighted losses.
    - Losses must not be negative. As one goes to 0, s would go to minus infinity and the weight to infinity; hence
      ``bounds``, which the papers do not have, applied to the parameters after each step. Clamped inside the graph, s
      would lose its gradient there and never return.
    - A task without a label in a batch counts for nothing there. Were its term b s left in, s would drift away.
    - At the optimum of s a task's objective is :math:`b_k \log L_k`, up to a constant. A regression that has come down
      to its noise :math:`\sigma` keeps the weight :math:`1 / (2 \sigma^2)`: what shared parameters get from it is noise
      that grows as :math:`1 / \sigma`. Adam divides by it, and a harder task beside it learns the slower: slower than
      under the plain sum, and than with a trunk of its own.
    - With Adam, s moves by about the learning rate per update: give the balancer 1e-2 or so, and no weight decay, which
      would pull every noise level to 1.

    Args:
        num_tasks: T, the number of tasks.
        init: where every s starts; the paper does not say, 0 is a noise level of 1. With ``"first_batch"`` each s
            starts at the optimum for its task's first loss in training.
        bounds: smallest and largest s.
        regularizer: the term that keeps noise levels from growing.

    Attributes:
        affine: False until every s has started, since the first losses must then be exact; True from then on.
        log_vars: s of each task, one parameter (1,) each; a log variance, or a log scale for Laplace noise. Never
            below float32.

    Raises:
        ConfigurationError: for bounds in the wrong order, a start outside of them, or an unknown option.
    """

    affine = True
    tensors_only = True
    least_loss = 0.0
    a: Tensor
    b: Tensor
    power: Tensor
    started: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        init: float | Literal["first_batch"] = 0.0,
        bounds: tuple[float, float] = (-8.0, 8.0),
        regularizer: Literal["kendall", "liebel_koerner"] = "kendall",
    ) -> None:
        super().__init__(num_tasks)
        self.bounds = _checked_bounds(bounds)
        start = _checked_start(init, self.bounds)
        if regularizer not in _REGULARIZERS:
            raise ConfigurationError(f"`regularizer`: expected one of {list(_REGULARIZERS)}, found {regularizer!r}.")
        self._regularizer = _REGULARIZERS[regularizer]
        dtype = state_dtype()
        # One parameter per task, so that an absent task's can be left out of a step; (1,), since FSDP takes no scalars.
        self.log_vars = nn.ParameterList(nn.Parameter(torch.full((1,), start, dtype=dtype)) for _ in range(num_tasks))
        for name in ("a", "b", "power"):
            self.register_buffer(name, torch.ones(num_tasks, dtype=dtype), persistent=False)
        self.register_buffer("started", torch.full((num_tasks,), init != "first_batch"))
        self.affine = init != "first_batch"  # all of `started`, readable without a host sync
        self.register_load_state_dict_post_hook(_read_started)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._use([_GAUSSIAN] * num_tasks)

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Take each task's a and b, and what its s means.

        Raises:
            ConfigurationError: for another number of tasks, or coefficients that give no optimum.
        """
        super().bind(likelihoods)
        if len(likelihoods) != self.num_tasks:
            raise ConfigurationError(
                f"UncertaintyWeighting: expected the likelihoods of {self.num_tasks} tasks, found {list(likelihoods)}."
            )
        for name, likelihood in likelihoods.items():
            positive = all(0 < value < math.inf for value in likelihood[:2])
            if not positive or likelihood.scale not in ("log_var", "log_scale"):
                raise ConfigurationError(
                    f"Task {name!r}: expected a likelihood with positive a and b, and 'log_var' or 'log_scale' as its "
                    f"scale, found {likelihood}."
                )
        self._use(list(likelihoods.values()))

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the objective ().

        In training with ``init="first_batch"`` it first sets s of the tasks that are present for the first time.
        """
        losses = torch.where(present, losses, 0.0)
        new = self._start(losses.detach(), present) if self.training and not self.affine else None
        s = torch.cat(self._s())
        if new is not None:
            # at its optimum the gradient of s is rounding noise, which Adam would blow up to a full step: make it 0
            s = torch.where(new, s.detach(), s)
        terms = self.a * torch.exp(-s) * losses + self._regularizer.value(s, self.b, self.power)
        return torch.where(present, terms, 0.0).sum()

    def _s(self) -> list[Tensor]:
        """Return s of each task (1,); ``parameters()`` would look for it in all modules below, at every update."""
        return cast("list[Tensor]", [*self.log_vars._parameters.values()])

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return each task's s."""
        return {index: [s] for index, s in enumerate(self.log_vars)}

    @torch.no_grad()
    def sigmas(self) -> Tensor:
        """Return each task's noise level (T,): a standard deviation, in units of its loss.

        It is that of the loss at which s would be at its optimum: where :math:`e^{s} r(s) = a L` with the regulariser's
        slope r, which with Liebel and Körner's term is not b.
        """
        s = torch.cat(self._s())
        slope = self._regularizer.slope(s, self.b, self.power)
        s = s if slope is self.b else s + torch.log(slope / self.b)
        return (s * self.power).mul_(0.5).exp_().mul_(self.power.sqrt())  # sqrt(2) b for the scale b of Laplace noise

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Bring every s back between the bounds."""
        s = self._s()
        low, high = self.bounds
        torch._foreach_clamp_min_(s, low)
        torch._foreach_clamp_max_(s, high)

    @torch.no_grad()
    def _use(self, likelihoods: Sequence[Likelihood]) -> None:
        """Keep the coefficients as buffers."""
        powers = {"log_var": 1.0, "log_scale": 2.0}
        for index, likelihood in enumerate(likelihoods):
            self.a[index], self.b[index] = likelihood.a, likelihood.b
            self.power[index] = powers[likelihood.scale]

    @torch.no_grad()
    def _start(self, losses: Tensor, present: Tensor) -> Tensor:
        """Set s of the tasks that are present, and were not before, to its optimum for ``losses`` (T,).

        Returns which tasks these are, (T,) bool.
        """
        ready = present & ~self.started & losses.isfinite()
        optimum = self._optimum(losses)
        for index, s in enumerate(self.log_vars):
            s.copy_(torch.where(ready[index], optimum[index], s))
        self.started |= ready
        self.affine = bool(self.started.all())
        return ready

    def _optimum(self, losses: Tensor) -> Tensor:
        """Return the s (T,) within bounds at which the objective is smallest.

        There ``exp(s) * slope(s) = a * L``, whose left side grows with s for either regulariser: halve until found.
        """
        low, high = (torch.full_like(self.a, bound) for bound in self.bounds)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = middle.exp() * self._regularizer.slope(middle, self.b, self.power) > self.a * losses
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


def _read_started(balancer: UncertaintyWeighting, _incompatible_keys: object) -> None:
    """Read the flags that a state dict has just brought along."""
    balancer.affine = bool(balancer.started.all())


def _checked_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    low, high = bounds
    if not low < high:
        raise ConfigurationError(f"`bounds`: expected two numbers, the smaller one first, found {bounds}.")
    return float(low), float(high)


def _checked_start(init: float | str, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if init == "first_batch":
        return min(max(0.0, low), high)
    if isinstance(init, str) or not low <= init <= high:
        raise ConfigurationError(
            f"`init`: expected a number within the bounds {bounds}, or 'first_batch', found {init!r}."
        )
    return float(init)
