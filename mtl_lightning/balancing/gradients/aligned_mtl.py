"""Aligned-MTL: gradients made orthogonal and equally long, with the least change."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.preferences import Preferences
from mtl_lightning.types import ConfigurationError

ScaleMode: TypeAlias = Literal["min", "median", "rmse"]


class AlignedMTL(GramianBalancer):
    r"""Independent component alignment: `Independent Component Alignment for Multi-Task Learning
    <https://arxiv.org/abs/2305.19000>`_ (Senushkin, Patakin, Kuznetsov and Konushin, 2023), algorithm 1.

    .. math:: d = \sum_k w_k g_k, \qquad w = B u, \qquad
        B = \sqrt{\sigma} \sum_r \lambda_r^{-1/2} v_r v_r^\top

    where :math:`\lambda_r`, :math:`v_r` are the positive eigenvalues and their eigenvectors of the inner products G of
    the gradients :math:`g_k`, :math:`u_k = 1 / P` for P present tasks, and :math:`\sigma` the smallest of these
    eigenvalues. So the gradients' matrix is replaced by the nearest one whose singular values are all the smallest one.

    What to know before using it:

    - Eigenvalues below P times the rounding error of the inner products, relative to the largest, count as 0, so that
      identical gradients do no harm. Nearly identical ones do: the smallest singular value, and the update with it, is
      then nearly 0; ``scale_mode`` or ``rescale`` helps.
    - A gradient of exactly 0 has the weight 0. If all are, each has the weight :math:`u_k`.
    - One task alone gives its own gradient.

    LibMTL and the authors' code (github.com/SamsungLabs/MTL, 3f577f1, ``code/optim/aligned/balancer.py``) sum instead
    of averaging: ``pref_vector`` of ones.

    Args:
        num_tasks: T.
        pref_vector: u, one number per task in order; absent tasks' are left out and the others kept.
        scale_mode: what :math:`\sigma` is: the smallest eigenvalue ("min", the paper's), the lower median ("median"),
            or the mean ("rmse"), of those that count.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not in the authors' code.
        level: what the gradients are taken of; ``"features"`` is the authors' faster variant.

    Raises:
        ConfigurationError: for preferences that cannot be right or an unknown option.
    """

    tensors_only = True

    def __init__(
        self,
        num_tasks: int,
        *,
        pref_vector: list[float] | None = None,
        scale_mode: ScaleMode = "min",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if scale_mode not in get_args(ScaleMode):
            raise ConfigurationError(
                f"AlignedMTL: expected `scale_mode` to be one of {get_args(ScaleMode)}, found {scale_mode!r}."
            )
        self.preferences = Preferences(num_tasks, pref_vector, owner="AlignedMTL")
        self.scale_mode = scale_mode
        self.rounding = torch.finfo(torch.float64).eps

    def task_weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P) to weights (P,), with an eye to how exact they are."""
        self.rounding = torch.finfo(gramian.dtype).eps
        return super().task_weights(gramian, losses, present)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,)."""
        preferences = self.preferences.among(present, gramian)
        values, vectors = torch.linalg.eigh(gramian)
        usable = values > len(values) * self.rounding * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
        roots = torch.where(usable, values, 1.0).rsqrt() * usable
        found = _SCALES[self.scale_mode](values, usable).sqrt() * (vectors @ (roots * (preferences @ vectors)))
        return torch.where(usable[-1], found, preferences)


def _smallest(values: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, values, torch.inf).min()


def _median(values: Tensor, usable: Tensor) -> Tensor:
    counted = usable.sum()  # the last so many, in ascending order
    return values.gather(0, (len(values) - counted + (counted - 1).clamp(min=0) // 2).clamp(max=len(values) - 1)[None])[
        0
    ]


def _mean(values: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, values, 0.0).sum() / usable.sum().clamp(min=1)


_SCALES = {"min": _smallest, "median": _median, "rmse": _mean}
