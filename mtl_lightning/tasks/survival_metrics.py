"""Metrics of curves of survival, with rows that are censored and with sample weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from mtl_lightning.tasks.trivial import wide


def restricted_mean(curve: Tensor, cuts: Tensor) -> Tensor:
    """Return the areas (N,) under curves (N, K) of survival, linear between 0 and the cut points (K,)."""
    values = F.pad(curve, (1, 0), value=1.0)
    return ((values[:, 1:] + values[:, :-1]) / 2 * F.pad(cuts, (1, 0)).diff()).sum(1)


class _OfCurves(Metric):
    """A metric that keeps an epoch's curves, K + 3 numbers a row.

    Args:
        cuts: the cut points, K.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    kept: list[Tensor]

    def __init__(self, cuts: tuple[float, ...], **options: Any) -> None:
        super().__init__(**options)
        self.cuts = tuple(cuts)
        # Flat, of one dtype: processes may have different numbers of rows, or none.
        self.add_state("kept", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N rows.

        Args:
            prediction: probabilities (N, K) of survival at the cut points.
            target: (N, 2), times and whether the event happened then.
            weight: sample weights (N,); 1 each by default.
        """
        sizes = torch.ones_like(target[:, 0]) if weight is None else weight
        self.kept.append(torch.cat([wide(part) for part in (target, sizes[:, None], prediction)], dim=1).flatten())

    def compute(self) -> Tensor:
        """Return the metric ()."""
        kept = torch.cat(self.kept) if isinstance(self.kept, list) else self.kept
        rows = kept.reshape(-1, len(self.cuts) + 3)
        return self.of(rows[:, 3:], rows[:, 0], rows[:, 1] == 1, rows[:, 2]).to(self.dtype)

    @abstractmethod
    def of(self, curve: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
        """Return the metric () of curves (N, K), times (N,), events (N,) bool and weights (N,)."""


class Concordance(_OfCurves):
    """Harrell's index of concordance: of all pairs of rows of which it is known whose event was first, the share in
    which the expected time (up to the last cut point) of the first is shorter; equal ones count half.

    `Evaluating the Yield of Medical Tests <https://doi.org/10.1001/jama.1982.03320430047030>`_ (Harrell et al., 1982).
    A pair is known where the earlier time is an event's; of equal times, where the other row is censored. A pair weighs
    the product of its weights. Without a pair it is 0, and a warning says so.
    """

    higher_is_better = True

    def of(self, curve: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
        """Return the index ()."""
        right, every = concordant(restricted_mean(curve, curve.new_tensor(self.cuts)), time, event, weight)
        if every == 0:
            rank_zero_warn("No pair of rows whose order is known: concordance has no meaning and is given as 0.")
            return every
        return right / every


class IntegratedBrier(_OfCurves):
    r"""The squared difference between survival and its probability, over time, weighted for censoring.

    `Assessment and comparison of prognostic classification schemes for survival data
    <https://pubmed.ncbi.nlm.nih.gov/10474158/>`_ (Graf et al., 1999):

    .. math:: BS(t) = \frac{1}{n} \sum_i \frac{S(t | x_i)^2 \, [t_i \le t, \text{event}]}{G(t_i -)}
        + \frac{(1 - S(t | x_i))^2 \, [t_i > t]}{G(t)}

    where G is the Kaplan-Meier estimate, by these very rows, of not being censored until then; of equal times events
    come first. The integral is that of straight lines between 0, where it is 0, and the cut points, over the last of
    them; cut points later than the last row are left out.
    """

    higher_is_better = False

    def of(self, curve: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
        """Return the score ()."""
        cuts = curve.new_tensor(self.cuts)
        used = max(int((cuts <= time.max()).sum()), 1)
        scores = brier(curve[:, :used], time, event, weight, cuts[:used])
        return torch.trapezoid(F.pad(scores, (1, 0)), F.pad(cuts[:used], (1, 0))) / cuts[used - 1]


def brier(curve: Tensor, time: Tensor, event: Tensor, weight: Tensor, cuts: Tensor) -> Tensor:
    """Return the Brier scores (K,) at the cut points."""
    times, uncensored = kaplan_meier_of_censoring(time, event, weight)
    before = F.pad(uncensored, (1, 0), value=1.0)
    at_event = before[torch.searchsorted(times, time.contiguous())].unsqueeze(1)
    at_cut = before[torch.searchsorted(times, cuts, right=True)]
    dead, alive = (time[:, None] <= cuts) & event[:, None], time[:, None] > cuts
    found = torch.where(dead, curve.square() / at_event, 0.0) + torch.where(alive, (1 - curve).square() / at_cut, 0.0)
    return (weight[:, None] * found).sum(0) / weight.sum()


def kaplan_meier_of_censoring(time: Tensor, event: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different times (U,), ascending, and the estimated probability (U,) of being censored later."""
    times, place = torch.unique(time, return_inverse=True)
    none = weight.new_zeros(len(times))
    events = none.index_add(0, place, weight * event)
    censored = none.index_add(0, place, weight * ~event)
    at_risk = (events + censored).flip(0).cumsum(0).flip(0) - events
    return times, torch.where(censored > 0, 1 - censored / at_risk, 1.0).clamp(min=0).cumprod(0)


def concordant(score: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight () of the concordant pairs, and that of all pairs of known order; N log(N)^2 steps.

    Args:
        score: (N,), longer for a later event.
        time: (N,).
        event: (N,) bool.
        weight: (N,).
    """
    ranks = torch.unique(score, return_inverse=True)[1]
    moments = torch.unique(time, return_inverse=True)[1]
    order = (2 * moments + ~event).argsort(descending=True, stable=True)  # later ones first; of equal times, censored
    ranks, moments, event, weight = (part[order] for part in (ranks, moments, event, weight))
    higher, every = _earlier(ranks, torch.zeros_like(ranks), weight)
    of_events = [part[event] for part in (ranks, moments, weight)]
    same_higher, same = _earlier(*of_events)  # pairs of events at one time, whose order is not known
    sizes = of_events[2]
    return (sizes * (higher[event] - same_higher)).sum(), (sizes * (every[event] - same)).sum()


def _earlier(ranks: Tensor, group: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each row (N,) the weight of the rows before it in its group that have a higher rank, equal ones half;
    and of all before it in its group.

    Bit by bit: of rows whose ranks have the first bits in common, those with a 1 next are above those with a 0.
    """
    bits = max(int(ranks.max()).bit_length(), 1) if len(ranks) else 1
    whole = (group << bits) | ranks
    higher = _before(whole, weight) / 2
    for bit in range(bits):
        one = (whole >> bit) & 1
        higher = higher + (1 - one) * _before(whole >> (bit + 1), weight * one)
    return higher, _before(group, weight)


def _before(key: Tensor, weight: Tensor) -> Tensor:
    """Return of each row (N,) the summed weight of the rows before it that have its key."""
    order = key.argsort(stable=True)
    ordered, sizes = key[order], weight[order]
    upto = sizes.cumsum(0) - sizes
    start = torch.searchsorted(ordered, ordered)
    return torch.empty_like(weight).scatter(0, order, upto - upto[start])
