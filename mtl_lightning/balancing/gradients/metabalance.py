"""Auxiliary gradients brought to the length of the primary task's, parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, PerParameter, Rescale
from mtl_lightning.balancing.tools.lazy_buffers import LazyBuffers
from mtl_lightning.balancing.tools.primary import Primary
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype

_STRATEGIES = ("both", "reduce", "enlarge")


class MetaBalance(LazyBuffers, PerParameter, GradientBalancer):
    r"""Auxiliary gradients at the primary one's length: `MetaBalance: Improving Multi-Task Recommendations via Adapting
    Gradient Magnitudes of Auxiliary Tasks <https://arxiv.org/abs/2203.06801>`_ (He, Feng, Cheng, Ji, Guo and Caverlee,
    2022), algorithm 1. For every shared parameter by itself, and every auxiliary task k,

    .. math::
        n_k \leftarrow \beta n_k + (1 - \beta) \lVert g_k \rVert, \qquad
        g_k \leftarrow r \, \frac{n_0}{n_k} \, g_k + (1 - r) \, g_k, \qquad d = \sum_k g_k

    where task 0 is the primary one, whose gradient is left as it is. An auxiliary task neither drowns the primary one
    nor is drowned by it, and r says how far.

    Departures: :math:`n_k` is corrected for its start at 0, which cancels out among tasks that are always present. A
    task that never had a gradient keeps its factor 1, as all tasks do until the primary one has had one; the authors'
    code (github.com/facebookresearch/MetaBalance, 1c342a9, ``metabalance.py``) divides by 0 there. That code has the
    strategy ``"both"`` alone, and its defaults are the ones here. :math:`n_k` of an absent task stays, the primary
    one's included, so that the others are scaled as before while it is absent.

    Heads get the gradients of their own losses, unweighted. State: T numbers per shared parameter.

    Args:
        num_tasks: T, the number of tasks.
        primary: the primary task, by its index, or by its name, which :meth:`bind` makes known.
        relax: r, in [0, 1]. The paper tunes it.
        beta: of the moving average, in [0, 1).
        strategy: which auxiliary gradients are scaled: ``"reduce"`` (the paper's strategy A) those longer than the
            primary one, ``"enlarge"`` (B) those shorter, ``"both"`` (C).
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for a number out of its range, or an unknown option.
    """

    scale = "none"
    lazy = ("norms",)
    norms: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        primary: str | int = 0,
        relax: float = 0.7,
        beta: float = 0.9,
        strategy: Literal["both", "reduce", "enlarge"] = "both",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        if strategy not in _STRATEGIES:
            raise ConfigurationError(
                f"MetaBalance: expected `strategy` to be one of {_STRATEGIES}, found {strategy!r}."
            )
        self.primary = Primary(primary, num_tasks, "MetaBalance")
        self.relax, self.beta, self.strategy = relax, beta, strategy
        dtype = state_dtype()
        self.register_buffer("norms", torch.zeros(num_tasks, 0, dtype=dtype))  # not corrected for their start at 0
        self.register_buffer("updates", torch.zeros(num_tasks, dtype=torch.int64))

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the primary task's name."""
        super().bind(likelihoods)
        self.primary.bind(likelihoods)

    def restart(self) -> None:
        """Start at update 1."""
        self.updates.zero_()

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the sum (D,) of the scaled ones."""
        number, widths = len(jacobian), self.widths(jacobian.shape[1])
        self.widen(len(widths), jacobian)
        updates = self.here(self.updates, present, number) + 1
        self.keep(self.updates, updates, present)
        found = torch.stack([piece.norm(dim=1) for piece in torch.split(jacobian, widths, dim=1)], dim=1)
        self.keep(self.norms, self.beta * self.here(self.norms, present, number) + (1 - self.beta) * found, present)
        factors = self.factors(present, number).to(jacobian.dtype)
        repeats = torch.tensor(widths, device=jacobian.device)
        return (factors.repeat_interleave(repeats, dim=1, output_size=jacobian.shape[1]) * jacobian).sum(0)

    def factors(self, present: Tensor, number: int) -> Tensor:
        """Return what multiplies the gradients of the P = ``number`` present tasks by each shared parameter, (P, W)."""
        corrections = (1 - self.beta ** self.updates.to(self.norms.dtype)).unsqueeze(1)
        norms = torch.where(corrections > 0, self.norms / corrections, 0.0)
        leading, own = norms[self.primary.index], self.here(norms, present, number)
        ratio = torch.where((own > 0) & (leading > 0), leading / own, 1.0)
        if self.strategy != "both":
            ratio = ratio.clamp(max=1) if self.strategy == "reduce" else ratio.clamp(min=1)
        scaled = self.relax * ratio + (1 - self.relax)
        return torch.where(self.primary.among(present, number).unsqueeze(1), 1.0, scaled)
