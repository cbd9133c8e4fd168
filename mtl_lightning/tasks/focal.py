r"""Focal loss: rows that are predicted well count less.

`Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_ (Lin et al., 2017), equation 4: with the
probability p of what is true, the loss is

.. math:: \varphi(p) = -(1 - p)^\gamma \log p
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.trivial import best_output


def binary_focal(output: Tensor, wanted: Tensor, gamma: float, weight: Tensor | None) -> Tensor:
    """Return the losses (*) of logits (*) of a 1.

    Args:
        output: logits.
        wanted: probabilities (*) of a 1.
        gamma: at least 0; with 0 it is the cross-entropy.
        weight: factor on the losses of a 1.
    """
    yes, no = F.logsigmoid(output), F.logsigmoid(-output)  # factors by their logarithms: gradients are finite
    ones = -(gamma * no).exp() * yes * wanted
    return (ones if weight is None else ones * weight) - (gamma * yes).exp() * no * (1 - wanted)


def class_focal(output: Tensor, wanted: Tensor, gamma: float, weight: Tensor | None) -> Tensor:
    """Return the losses (N,) of logits (N, K), likewise, with wanted probabilities (N, K) and weights (K,)."""
    shares = wanted if weight is None else wanted * weight
    return (shares * _focal(output.log_softmax(-1), gamma)).sum(-1)


def best_focal(closed: Tensor, gamma: float, *, classes: bool) -> Tensor:
    """Return the constant logits (K,) with the least loss.

    Args:
        closed: logits (K,) with the least cross-entropy, of classes or of ones.
        gamma: of the loss.
        classes: whether one of the K classes is true; else each of K labels may be.
    """
    if classes:
        share = closed.softmax(-1)
        return best_output(lambda o: class_focal(o, share, gamma, None).sum(), closed, torch.ones_like(closed))
    share = closed.sigmoid()
    return best_output(lambda o: binary_focal(o, share, gamma, None).sum(), closed, torch.ones_like(closed))


def without_focal(best: Tensor, gamma: float, *, classes: bool) -> Tensor:
    r"""Return the logits (K,) with the least cross-entropy, from those with the least focal loss, the other way round.

    At the least, r of a class's share times :math:`\varphi'(p)` is the same for all classes.
    """
    if classes:
        return -_slope(best.log_softmax(-1), gamma)
    return _slope(F.logsigmoid(-best), gamma) - _slope(F.logsigmoid(best), gamma)


def _focal(logarithm: Tensor, gamma: float) -> Tensor:
    return -_rest(logarithm).pow(gamma) * logarithm


def _slope(logarithm: Tensor, gamma: float) -> Tensor:
    """Return the logarithm of -dphi/dp, of a probability's logarithm."""
    rest = _rest(logarithm)
    return (gamma * rest.pow(gamma - 1) * -logarithm + rest.pow(gamma) / logarithm.exp()).log()


def _rest(logarithm: Tensor) -> Tensor:
    """Return 1 - p of its logarithm, above 0, since a power of 0 may have an infinite slope."""
    return -torch.expm1(logarithm.clamp(max=-torch.finfo(logarithm.dtype).tiny))
