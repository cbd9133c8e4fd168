"""Entries of gradients dropped at random, so that all tasks that are left agree on a sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, MasksFeatures, Rescale
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype

_LEVELS = ("features", "parameters")


class GradDrop(MasksFeatures, GradientBalancer):
    r"""Gradient sign dropout: `Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout
    <https://arxiv.org/abs/2010.06808>`_ (Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, 2020), algorithm 1.

    On the features z that all tasks share (``level="features"``), with one row z_b per sample b,

    .. math::
        s_k = \sum_b \mathrm{sign}(z_b) \, \frac{\partial L_k}{\partial z_b}, \qquad
        P = \frac{1}{2} \Bigl(1 + \frac{\sum_k s_k}{\sum_k |s_k|}\Bigr), \qquad
        M_k = [P > U] \, [s_k > 0] + [P < U] \, [s_k < 0]

    for each entry of the features, with U drawn evenly from [0, 1). The gradient that task k sends into the trunk is
    :math:`(\ell_k + (1 - \ell_k) M_k) \, \partial L_k / \partial z_b`, where :math:`\ell_k` is its leak. So P is the
    chance that an entry takes the tasks that would raise it; otherwise it takes those that would lower it.

    ``level="parameters"`` drops entries of the gradients of the shared parameters instead: the rows take the place of
    :math:`s_k`, as torchjd does, which is not what the paper proposes. The paper's function f, applied to P, is the
    identity here, as in the paper's experiments. An entry where all :math:`s_k` are 0 passes only the leaks.

    Heads get the gradients of their own losses, unweighted. State: none but the number of updates, for the draws.

    Args:
        num_tasks: T, the number of tasks.
        leak: how much of a task's dropped entries passes nevertheless, in [0, 1]: one number for all tasks, or one for
            each, in their order or by their names, which :meth:`bind` makes known.
        level: what the entries are entries of: ``"features"`` or ``"parameters"``.
        seed: of the draws; see :class:`SeededGenerator`.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`. On features only ``"none"``.

    Raises:
        ConfigurationError: for a leak that is no such number, another number of them, or an unknown option.
    """

    scale = "linear"
    leaks: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        leak: float | list[float] | dict[str, float] = 0.0,
        level: Literal["features", "parameters"] = "features",
        seed: int | None = None,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        if level not in _LEVELS:
            raise ConfigurationError(f"GradDrop: expected `level` to be one of {_LEVELS}, found {level!r}.")
        if level == "features" and rescale != "none":
            raise ConfigurationError(
                f"GradDrop: expected `rescale` to be 'none' on features, where no gradient of the trunk is combined, "
                f"found {rescale!r}. Leave it out, or choose level='parameters'."
            )
        self.level = level
        self._by_name = dict(leak) if isinstance(leak, dict) else None
        values = leak if isinstance(leak, list) else [0.0 if isinstance(leak, dict) else leak] * num_tasks
        if len(values) != num_tasks:
            raise ConfigurationError(
                f"GradDrop: expected one leak for each of {num_tasks} tasks, found {len(values)}: {values}."
            )
        dtype = state_dtype()
        self.register_buffer("leaks", torch.tensor(values, dtype=dtype), persistent=False)  # a setting, no state
        self.draws = SeededGenerator(seed)

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the leaks by the tasks' names.

        Raises:
            ConfigurationError: if a name is no task, or a task has no leak.
        """
        super().bind(likelihoods)
        if self._by_name is None:
            return
        names = list(likelihoods)
        if self._by_name.keys() != set(names):
            raise ConfigurationError(
                f"GradDrop: expected one leak for each of the tasks {names}, found some for {list(self._by_name)}."
            )
        self.leaks.copy_(torch.tensor([self._by_name[name] for name in names], dtype=self.leaks.dtype))
        self._by_name = None

    def masks(self, signed: Tensor, present: Tensor) -> Tensor:
        """Map what each present task pulls with (P, F) to what multiplies its gradient, (P, F) in [0, 1].

        Args:
            signed: on features: the sum over the batch, all micro-batches and processes, of the sign of each entry of
                the features times the gradient with respect to it; F entries, those of one row of the features.
            present: (T,) bool.

        Raises:
            ConfigurationError: if leaks by name wait for :meth:`bind`.
        """
        if self._by_name is not None:
            raise ConfigurationError(
                f"GradDrop: expected `bind` to tell which tasks {list(self._by_name)} are, found it not called. Call "
                "it, or give the leaks as a list."
            )
        leaks = self.here(self.leaks, present, len(signed)).to(signed.dtype).unsqueeze(1)
        return drop_masks(signed, leaks, self.draws.uniform(signed.shape[1], like=signed))

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the sum (D,) of what is left of them."""
        return (self.masks(jacobian, present) * jacobian).sum(0)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Go on to the next draws."""
        super().after_update(losses)
        self.draws.advance()


def drop_masks(signed: Tensor, leaks: Tensor, draws: Tensor) -> Tensor:
    """Map what tasks pull with (P, F), leaks (P, 1) and draws (F,) in [0, 1) to factors (P, F) in [0, 1]."""
    total = signed.abs().sum(0)
    tilt = torch.where(total > 0, signed.sum(0) / total, 0.0)
    raised = (1 + tilt) / 2
    kept = ((raised > draws) & (signed > 0)) | ((raised < draws) & (signed < 0))
    return torch.where(kept, 1.0, leaks)
