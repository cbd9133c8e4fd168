"""The trivial predictor: the constant that predicts a task's training targets best, whatever the inputs are.

Its loss tells how large a loss is: a network whose loss is a tenth of it has learned much, whatever the units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_STEPS = 200  # of the optimiser, at most


def best_output(loss: Callable[[Tensor], Tensor], start: Tensor, scale: Tensor) -> Tensor:
    """Return the outputs (K,) with the least loss () that L-BFGS finds from a start (K,), which has a finite one.

    Args:
        loss: maps outputs (K,) to their mean loss; it can be differentiated.
        start: where the search starts.
        scale: (K,) the size of a step.
    """
    with torch.enable_grad():
        moved = torch.zeros_like(start, requires_grad=True)
        search: Any = torch.optim.LBFGS([moved], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            value = loss(start + scale * moved)
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return value

        search.step(closure)
    with torch.no_grad():
        found = start + scale * moved
        return torch.where(loss(found) < loss(start), found, start)  # the search may go astray


def means(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return the mean (K,) of each column of values (N, K) over its labelled entries; 0 of none.

    Args:
        values: anything where there is no label.
        mask: (N, K) bool.
        weight: (N,) of the rows.
    """
    sizes = mask * wide(weight).unsqueeze(1)
    return (torch.where(mask, wide(values), 0.0) * sizes).sum(0) / _at_least_some(sizes.sum(0))


def deviations(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return the standard deviation (K,) of each column likewise; 1 of a constant."""
    away = wide(values) - means(values, mask, weight)
    return _at_least_some(means(away.square(), mask, weight).sqrt())


def medians(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return the median (K,) of each column likewise: the smallest value with half of the weight up to it."""
    return quantiles(values, mask, weight, 0.5)


def quantiles(values: Tensor, mask: Tensor, weight: Tensor, level: float) -> Tensor:
    """Return a quantile (K,) of each column likewise: the smallest value with a share ``level`` of the weight to it."""
    ordered, order = torch.where(mask, wide(values), torch.inf).sort(0)
    upto = (mask * wide(weight).unsqueeze(1)).gather(0, order).cumsum(0)
    place = (upto < upto[-1] * level).sum(0, keepdim=True)
    found = ordered.gather(0, place)[0]
    return torch.where(mask.any(0), found, 0.0)


def shares(ones: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return the share (K,) of ones in each column of labels 0 or 1 (N, K), between 0 and 1 but neither of them."""
    found = means(ones, mask, weight)
    least = _unseen(wide(mask).sum(0))
    return torch.where(found <= 0, least, torch.where(found >= 1, 1 - least, found))


def log_class_shares(
    classes: Tensor, weight: Tensor, number: int, class_weights: Tensor | None, smoothing: float
) -> Tensor:
    """Return the logits (K,) whose softmax has the least cross-entropy, as torch weighs and smooths it.

    Args:
        classes: (N,) integers 0..K-1, all labelled; or probabilities (N, K).
        weight: (N,) of the rows.
        number: K.
        class_weights: (K,) factors on the losses, by the class.
        smoothing: e; that much of the wanted probability is spread evenly over all classes.
    """
    if classes.dim() == 2:
        totals = (wide(classes) * wide(weight)[:, None]).sum(0)
    else:
        totals = wide(weight).new_zeros(number).index_add(0, classes.long(), wide(weight))
    found = totals / totals.sum()
    least = _unseen(totals.new_tensor(len(classes))) / _at_least_some((found == 0).sum())
    wanted = torch.where(found > 0, found, least) * (1 - smoothing) + smoothing / number
    if class_weights is not None:
        wanted = wanted * class_weights.to(wanted.dtype)
    return wanted.clamp(min=1e-12).log()  # of a class that the loss leaves out


def without_class_weights(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Return the logits (K,) of the classes' own shares; a class of weight 0, whose share is unknown, is last.

    Args:
        logits: of :func:`log_class_shares`, with the weights.
        weights: (K,) of the classes.
    """
    if weights is None:
        return logits
    weights = weights.to(logits)
    return torch.where(weights > 0, logits - weights.clamp(min=1e-12).log(), logits.min() - 1)


def _unseen(labels: Tensor) -> Tensor:
    """Return the share of all that so many labels do not have: half a label, since 0 would give an infinite loss."""
    return 0.5 / (labels + 1)


def wide(values: Tensor) -> Tensor:
    """Return values in float64, or float32 on a device that has no wider numbers."""
    return values.float() if values.device.type == "mps" else values.double()


def _at_least_some(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, 1.0)
