"""IMTL: losses at one scale, and gradients with equal projections."""

from __future__ import annotations

from typing import Literal

from mtl_lightning.balancing.gradients.imtl_g import IMTLG
from mtl_lightning.balancing.losses.imtl_l import IMTLL
from mtl_lightning.balancing.rows import Level, LossBalancer, Rescale


class IMTL(IMTLG):
    r"""Both halves of `Towards Impartial Multi-task Learning <https://openreview.net/forum?id=IMPnRXEWpvr>`_ (Liu, Li,
    Kuang, Xue, Chen, Yang, Liao and Zhang, 2021), its algorithm 1.

    :class:`~mtl_lightning.balancing.IMTLL` learns a scale :math:`s_k` per task and minimises
    :math:`\sum_k e^{s_k} L_k - s_k`, which weighs the heads; :class:`~mtl_lightning.balancing.IMTLG` combines
    the gradients of the :math:`e^{s_k} L_k` with respect to the shared parameters, see there for what to know.

    LibMTL's IMTL is the same in parameters, except that its inverse of the Gramian fails where gradients depend on each
    other; its scales are learned with the network's optimizer, here with that of the group ``balancer``. In features it
    differs: it sums the features' gradients over the rows of a batch before it compares tasks, (F,) each, where
    ``level="features"`` compares all of them, (B, F).

    Args:
        num_tasks: T.
        normalization: see :class:`~mtl_lightning.balancing.IMTLG`.
        losses: makes the loss balancer from T; with the plain sum it would be IMTL-G alone.
        rescale: see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        weight_heads: whether IMTL-G's weights also multiply the heads' gradients, beside the scales; not in the paper.
        level: what the gradients are taken of; the paper's, for speed, are the features.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        normalization: Literal["sum", "absolute"] = "sum",
        losses: LossBalancer = IMTLL,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(
            num_tasks,
            normalization=normalization,
            losses=losses,
            rescale=rescale,
            weight_heads=weight_heads,
            level=level,
        )
