"""Fits that turn logits into probabilities: a temperature, Platt's line, and isotonic regression."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.errors import MtlLightningError

_STEPS = 100  # of Newton's method, at most; about ten are needed
_COLDEST, _HOTTEST = 0.01, 100.0
_KNOTS = 400  # of an isotonic regression, at most


class NotCalibratedError(MtlLightningError):
    """There is no calibration to be had from some rows; says why."""


# ------------------------------------------------------------------------------------------------------------- classes
def temperature(logits: Tensor, classes: Tensor, weight: Tensor | None = None) -> float:
    r"""Return the temperature T > 0 with the least negative log-likelihood of softmax(z / T).

    `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_ (Guo et al., 2017), equation 9. In
    :math:`\beta = 1 / T` the loss :math:`\sum_i w_i (\log \sum_k e^{\beta z_{ik}} - \beta z_{i y_i})` is convex:
    Newton's method, halved where it leaves the interval that holds the minimum. T is between 0.01 and 100.

    Args:
        logits: z, (N, K).
        classes: y, (N,) integers 0..K-1.
        weight: w, (N,); 1 each by default.

    Raises:
        NotCalibratedError: if no such T is the best: all rows are predicted right, or the logits tell nothing.
    """
    z = logits.double() - logits.double().amax(1, keepdim=True)
    true = z.gather(1, classes.long().unsqueeze(1))[:, 0]
    share = _shares(weight, len(z))

    def slope(beta: float) -> tuple[float, float]:
        """Return the first and the second derivative of the loss."""
        chance = (beta * z).softmax(1)
        mean = (chance * z).sum(1)
        variance = (chance * z.square()).sum(1) - mean.square()
        return float((share * (mean - true)).sum()), float((share * variance).sum())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(high)[0] < 0:
        raise NotCalibratedError("its classes are predicted without a mistake there, so that no temperature is best")
    if slope(low)[0] > 0:
        raise NotCalibratedError("its logits tell nothing of the classes there")
    beta = 1.0
    for _ in range(_STEPS):
        first, second = slope(beta)
        low, high = (beta, high) if first < 0 else (low, beta)
        step = -first / second if second > 0 else float("inf")
        following = beta + step if low < beta + step < high else (low + high) / 2
        if abs(following - beta) <= 1e-10 * beta:
            break
        beta = following
    return 1 / beta


# ----------------------------------------------------------------------------------------------------------- yes or no
def platt(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    r"""Return the slope a > 0 and the intercept b with the least negative log-likelihood of sigmoid(a z + b).

    `Probabilistic Outputs for Support Vector Machines
    <https://citeseerx.ist.psu.edu/document?doi=10.1.1.41.1639>`_ (Platt, 1999), with the targets proposed there,
    :math:`(N_+ + 1) / (N_+ + 2)` for a yes and :math:`1 / (N_- + 2)` for a no, which keep the line finite where the
    labels can be separated; and with the Newton steps of `A Note on Platt's Probabilistic Outputs for Support Vector
    Machines <https://www.csie.ntu.edu.tw/~cjlin/papers/plattprob.pdf>`_ (Lin, Lin and Weng, 2007). N is the summed
    weight, the mean weight being 1.

    Args:
        logits: z, (N,).
        labels: (N,) 0 or 1.
        weight: (N,); 1 each by default.

    Raises:
        NotCalibratedError: if all labels are equal, or the labels do not rise with the logits.
    """
    z, yes = logits.double(), labels == 1
    share = _shares(weight, len(z))
    yeses, noes = (len(z) * float(share[rows].sum()) for rows in (yes, ~yes))
    if yeses == 0 or noes == 0:
        raise NotCalibratedError("its labels there are all the same")
    wanted = torch.where(yes, (yeses + 1) / (yeses + 2), 1 / (noes + 2)).double()
    middle, spread = z.mean(), z.std().clamp(min=1e-12)
    columns = torch.stack([(z - middle) / spread, torch.ones_like(z)], 1)

    def loss(line: Tensor) -> Tensor:
        score = columns @ line
        return (share * (torch.nn.functional.softplus(score) - wanted * score)).sum()

    line = torch.tensor([float(spread), float(middle)], dtype=torch.float64)  # that leaves the logits as they are
    value = loss(line)
    for _ in range(_STEPS):
        chance = (columns @ line).sigmoid()
        gradient = columns.T @ (share * (chance - wanted))
        curvature = columns.T @ ((share * chance * (1 - chance)).unsqueeze(1) * columns)
        direction = torch.linalg.solve(curvature + 1e-12 * torch.eye(2, dtype=torch.float64), -gradient)
        if float(-gradient @ direction) < 1e-14:  # twice what the loss can still fall by
            break
        fraction = 1.0
        while fraction > 1e-10 and loss(line + fraction * direction) > value + 1e-4 * fraction * gradient @ direction:
            fraction /= 2
        line = line + fraction * direction
        value = loss(line)
    slope = float(line[0] / spread)
    if slope <= 0:
        raise NotCalibratedError("its labels there do not rise with its logits")
    return slope, float(line[1] - line[0] * middle / spread)


def isotonic(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> tuple[list[float], list[float]]:
    """Return knots: logits that rise, and the probabilities there, which do not fall.

    `Transforming Classifier Scores into Accurate Multiclass Probability Estimates
    <https://doi.org/10.1145/775047.775151>`_ (Zadrozny and Elkan, 2002): the non-decreasing function with the least
    squared error, by pooling adjacent violators. Departures: probabilities are kept 1 / (N + 2) away from 0 and 1,
    which have no logit; and of more than 400 knots 400 are kept, spread evenly.

    Args:
        logits: (N,); compared in float32, as networks give them.
        labels: (N,) 0 or 1.
        weight: (N,); 1 each by default.

    Raises:
        NotCalibratedError: if all labels are equal, or the labels do not rise with the logits.
    """
    yes = (labels == 1).double()
    if bool((yes == yes[0]).all()):
        raise NotCalibratedError("its labels there are all the same")
    share = _shares(weight, len(yes))
    places, group = logits.float().unique(return_inverse=True)  # type: ignore[no-untyped-call]  # torch leaves it so
    weights = share.new_zeros(len(places)).index_add(0, group, share)
    totals = share.new_zeros(len(places)).index_add(0, group, share * yes)
    blocks: list[tuple[float, float, int]] = []  # weight, weight of the yeses, number of places
    for size, total in zip(weights.tolist(), totals.tolist(), strict=True):
        block = (size, total, 1)
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:  # not below: one block
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    if len(blocks) == 1:
        raise NotCalibratedError("its labels there do not rise with its logits")
    least = 1 / (len(yes) + 2)
    x: list[float] = []
    y: list[float] = []
    first, found = 0, places.double().tolist()
    for size, total, number in blocks:
        ends = [found[first], *([found[first + number - 1]] if number > 1 else [])]
        x += ends
        y += [min(max(total / size, least), 1 - least)] * len(ends)
        first += number
    if len(x) > _KNOTS:
        kept = torch.linspace(0, len(x) - 1, _KNOTS).round().long().tolist()
        x, y = [x[i] for i in kept], [y[i] for i in kept]
    return x, y


def _shares(weight: Tensor | None, rows: int) -> Tensor:
    """Return how much each row counts (N,), 1 in all."""
    found = torch.ones(rows, dtype=torch.float64) if weight is None else weight.double()
    return found / found.sum()
