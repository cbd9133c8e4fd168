"""Gradients turned towards each other, as far as they usually agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer, Level, LossBalancer, PerParameter, Rescale
from mtl_lightning.balancing.tools.lazy_buffers import LazyBuffers
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.types import ConfigurationError, state_dtype

_GROUPS = ("whole", "matrix")
_SMALLEST_SINE = 1e-4  # of the angle aimed at: correcting to a smaller one would take an unboundedly long step


class GradVac(LazyBuffers, PerParameter, GramianBalancer):
    r"""Gradient vaccine: `Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models <https://arxiv.org/abs/2010.05874>`_ (Wang, Tsvetkov, Firat and Cao, 2021), algorithm 1.

    Each task i visits the other tasks j in a random order. Where its gradient :math:`g_i'`, which starts as
    :math:`g_i`, is less similar to :math:`g_j` than the pair usually is, :math:`\phi < \hat\phi_{ij}` with
    :math:`\phi = \cos(g_i', g_j)`, it is turned until it is as similar:

    .. math::
        g_i' \leftarrow g_i' + \frac{\lVert g_i' \rVert \, (\hat\phi_{ij} \sqrt{1 - \phi^2}
        - \phi \sqrt{1 - \hat\phi_{ij}^2})}{\lVert g_j \rVert \sqrt{1 - \hat\phi_{ij}^2}} \, g_j, \qquad
        \hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi

    and :math:`d = \sum_i g_i'`. With targets :math:`\hat\phi` of 0, where they start, this is PCGrad. Two opposite
    gradients cancel out, by the definition of both methods. Rows of 0 have no cosine: it counts as 0, and nothing is
    added.

    With ``groups="matrix"`` all of this happens for each shared parameter by itself (the paper's ``all_matrix``,
    LibMTL's group type 2), in the same order of visits. That needs the rows themselves; ``"whole"`` needs only their
    inner products, at any ``level``.

    Departures: :math:`\sqrt{1 - \hat\phi^2}` is not taken smaller than 1e-4, since two gradients cannot be made
    parallel by a finite step. Targets of pairs of which a task is absent stay. ``epsilon`` is not in the paper.

    Heads get the gradients of their own losses, unweighted. State: T * T targets per group.

    Args:
        num_tasks: T, the number of tasks.
        beta: of the targets' moving average, in [0, 1]. LibMTL's and torchjd's default is 0.5.
        groups: what is one gradient: ``"whole"``, all shared parameters together, or ``"matrix"``, each by itself.
        epsilon: added to denominators; LibMTL and torchjd have 1e-8, with which small gradients differ less.
        seed: of the orders; see :class:`SeededGenerator`.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GramianBalancer`. With ``groups="matrix"`` only ``"none"`` and ``"norm"``.
        weight_heads: see :class:`GramianBalancer`. Not with ``groups="matrix"``.
        level: see :class:`GramianBalancer`. With ``groups="matrix"`` only ``"parameters"``.

    Raises:
        ConfigurationError: for a number out of its range, an unknown option, or options that exclude each other.
    """

    scale = "linear"
    lazy = ("targets",)
    targets: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        beta: float = 0.01,
        groups: Literal["whole", "matrix"] = "whole",
        epsilon: float = 0.0,
        seed: int | None = None,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if groups not in _GROUPS:
            raise ConfigurationError(f"GradVac: expected `groups` to be one of {_GROUPS}, found {groups!r}.")
        if groups == "matrix" and (weight_heads or level != "parameters" or rescale in ("sum", "mean")):
            raise ConfigurationError(
                "GradVac: expected with groups='matrix', which has no weights of whole gradients, level='parameters', "
                f"weight_heads=False and `rescale` 'none' or 'norm', found {level=}, {weight_heads=}, {rescale=}."
            )
        self.beta, self.groups, self.epsilon = beta, groups, epsilon
        self.gramian = groups == "whole"
        dtype = state_dtype()
        self.register_buffer("targets", torch.zeros(num_tasks, num_tasks, 0, dtype=dtype))
        self.draws = SeededGenerator(seed)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P) of whole gradients to the weights (P,) of the turned ones' sum."""
        self.widen(1, gramian)
        return self._turned(gramian.unsqueeze(0), present)[0]

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the sum (D,) of the turned ones."""
        width = jacobian.shape[1]
        widths = self.widths(width) if self.groups == "matrix" else [width]
        self.widen(len(widths), jacobian)
        split = torch.split(jacobian, widths, dim=1)
        weights = self._turned(torch.stack([gramian(piece) for piece in split]), present).to(jacobian.dtype)
        return torch.cat([weight @ piece for weight, piece in zip(weights, split, strict=True)])

    @torch.no_grad()
    def gradient(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the combined gradient (D,), rescaled."""
        kind = GramianBalancer if self.gramian else GradientBalancer
        return kind.gradient(self, jacobian, losses, present)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Go on to the next orders."""
        super().after_update(losses)
        self.draws.advance()

    def _turned(self, gramians: Tensor, present: Tensor) -> Tensor:
        """Map inner products (W, P, P) of each group to the weights (W, P) of the turned gradients' sum."""
        number = gramians.shape[1]
        pairs = self.here(self.targets, present, number)
        pairs = pairs if number == self.num_tasks else pairs[:, present]
        targets, orders = pairs.permute(2, 0, 1).to(gramians), self._orders(present, number)
        shares, targets = turn(gramians, targets, orders, self.beta, self.epsilon)
        self._keep_pairs(targets.permute(1, 2, 0), present)
        return shares.sum(1)

    def _orders(self, present: Tensor, number: int) -> Tensor:
        """Return whom each of the P = ``number`` present tasks visits, one after the other, (P, P - 1)."""
        keys = self.here(self.draws.uniform(self.num_tasks, self.num_tasks, like=self.targets), present, number)
        keys = (keys if number == self.num_tasks else keys[:, present]).clone()
        keys.fill_diagonal_(2.0)  # each visits itself last, that is, not at all
        return keys.argsort(dim=1)[:, :-1]

    def _keep_pairs(self, moved: Tensor, present: Tensor) -> None:
        """Write the targets (P, P, W) of pairs of present tasks."""
        if len(moved) == self.num_tasks:
            self.targets.copy_(moved)
        else:
            index = present.nonzero().squeeze(1)
            self.targets[index.unsqueeze(1), index] = moved.to(self.targets.dtype)


def turn(gramians: Tensor, targets: Tensor, orders: Tensor, beta: float, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """Turn P gradients, in each of W groups, towards each other.

    Args:
        gramians: (W, P, P) the gradients' inner products.
        targets: (W, P, P) the cosines aimed at.
        orders: (P, V) whom each task visits.
        beta: of the targets' moving average.
        epsilon: added to denominators.

    Returns:
        The turned gradients as combinations of the given ones, (W, P, P), and the targets after it.
    """
    targets, number = targets.clone(), gramians.shape[1]
    shares = torch.eye(number, dtype=gramians.dtype, device=gramians.device).expand_as(gramians).clone()
    lengths = gramians.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    tasks = torch.arange(number, device=gramians.device)
    for visited in orders.unbind(1):  # all tasks make their visits side by side
        products = shares @ gramians
        own = (products * shares).sum(2).clamp(min=0).sqrt()
        other, aim = lengths[:, visited], targets[:, tasks, visited]
        cosine = _ratio(products[:, tasks, visited], own * other + epsilon).clamp(-1, 1)
        sine, aimed_sine = (1 - cosine**2).sqrt(), (1 - aim**2).clamp(min=0).sqrt()
        step = own * (aim * sine - cosine * aimed_sine)
        step = _ratio(step, other * aimed_sine.clamp(min=_SMALLEST_SINE) + epsilon)
        shares[:, tasks, visited] += torch.where((cosine < aim) & (other > 0), step, 0.0)
        targets[:, tasks, visited] = (1 - beta) * aim + beta * cosine
    return shares, targets


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0.0)
