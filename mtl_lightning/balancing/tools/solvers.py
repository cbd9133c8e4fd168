"""Solvers of the small problems that decide on the weights of P gradients, given their inner products alone.

They work on the gradients' cosines, so that it does no harm if some gradients are far longer than others; on the CPU,
in float64, since they look at values to know when to stop; and from starts that treat all tasks alike, so that the
tasks' order does not matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EXCHANGES = 12  # 1 to 7 are usual
_DESCENTS = 10  # steps per unknown; 1 or 2 are usual
_GATHERED = 24  # from so many unknowns on, cutting out the active ones is cheaper than masking the others
_NEWTON_STEPS = 40  # 3 to 10 are usual
_HALVINGS = 12
_LONG, _SHORT = 3.0, 1e-5  # steps of log y
_ROUGH, _FINE = 1e-8, 1e-13  # ridges
_NEGLIGIBLE = 1e-7  # share of a ridge


def correlations(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths (P,) and the cosines (P, P) of rows with inner products ``gramian`` (P, P), on the CPU.

    A row of zeros gets the length 1 and is orthogonal to all others.
    """
    gramian = gramian.cpu()
    lengths = gramian.diagonal().clamp(min=0).sqrt()
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    cosines = (gramian / lengths / lengths.unsqueeze(1)).clamp_(-1, 1)
    cosines.fill_diagonal_(1.0)
    return lengths, cosines


def definite(matrix: Tensor, ridge: float = 1e-10) -> Tensor:
    """Add ``ridge`` to the diagonal of cosines (P, P), or as much more as makes them positive definite.

    More is needed where they are not even semi-definite, because of rounding: those of float32 rows.
    """
    while True:
        lifted = matrix.clone()
        lifted.diagonal().add_(ridge)
        if ridge > len(matrix) or not torch.linalg.cholesky_ex(lifted).info:  # so much is always enough
            return lifted
        ridge *= 10


def filled(weights: Tensor, known: Tensor) -> Tensor:
    """Replace the weights (P,) that are not ``known`` (P,) bool by the mean of the others, or by 1."""
    if bool(known.all()):
        return weights
    mean = torch.where(known, weights, 0.0).sum() / known.sum().clamp(min=1)
    return torch.where(known, weights, torch.where(known.any(), mean, torch.ones_like(mean)))


# -------------------------------------------------------------------------------------------- nonnegative least squares
def nonnegative(matrix: Tensor, linear: Tensor, support: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Minimise ``x' H x / 2 - b' x`` over x >= 0 for several b at once, exactly.

    Guess which entries of x are positive, solve for them, exchange all those of the wrong sign: block pivoting, `Fast
    Nonnegative Matrix Factorization <https://doi.org/10.1137/110821172>`_ (Kim and Park, 2011). The few
    problems where a dozen exchanges do not settle it are left to :func:`_descend`.

    Args:
        matrix: H (P, P), positive definite.
        linear: b (M, P), one problem per row.
        support: (M, P) bool, a guess of which entries of x are positive; by default where b is.

    Returns:
        x (M, P), and where it is positive, (M, P) bool.
    """
    tolerance = 1e-12 * linear.abs().amax()
    if support is None or not bool(support.any()):
        support = linear > tolerance
    found, positive = torch.zeros_like(linear), support
    if not bool(support.any()):
        return found, positive
    rows, right = None, linear
    for _ in range(_EXCHANGES):
        x = solve_within(matrix, right, support)
        wrong = torch.where(support, x, torch.addmm(right, x, matrix, beta=-1)) < -tolerance
        found, positive = _put(found, x, rows), _put(positive, support, rows)
        if not bool(wrong.any()):
            return found.clamp_(min=0), positive
        if len(matrix) >= _GATHERED:  # the others are done
            going = wrong.any(1)
            rows = going.nonzero().squeeze(1) if rows is None else rows[going]
            right, support, wrong = right[going], support[going], wrong[going]
        support = support ^ wrong
    rows = wrong.any(1).nonzero().squeeze(1) if rows is None else rows
    x = _descend(matrix, linear[rows], found[rows].clamp(min=0), tolerance)
    return found.clamp_(min=0).index_copy_(0, rows, x), positive.index_copy(0, rows, x > 0)


def _descend(matrix: Tensor, linear: Tensor, x: Tensor, tolerance: Tensor) -> Tensor:
    """Minimise ``x' H x / 2 - b' x`` over x (M, P) >= 0, from a start x >= 0, by steps that never ascend.

    The active-set method of Lawson and Hanson, Solving Least Squares Problems (1974), algorithm 23.10: go towards the
    minimum over the positive entries as far as they stay positive; once there, free the entry that helps most.
    """
    support = x > 0
    for _ in range(_DESCENTS * len(matrix)):
        goal = solve_within(matrix, linear, support)
        blocking = support & (goal <= 0)
        ways = torch.where(blocking, x / (x - goal).clamp(min=1e-300), torch.inf)
        way = ways.amin(1, keepdim=True).clamp(max=1)
        x = torch.where(support & (ways > way), x + way * (goal - x), 0.0)
        there = ~blocking.any(1)
        slope, best = torch.where(x > 0, torch.inf, x @ matrix - linear).min(1)
        helps = there & (slope < -tolerance)
        if bool((there & ~helps).all()):
            break
        support = x > 0
        support[torch.arange(len(x)), best] |= helps
    return x


def _put(whole: Tensor, values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else whole.index_copy(0, rows, values)


def solve_within(matrix: Tensor, linear: Tensor, support: Tensor) -> Tensor:
    """Solve ``H x = b`` for the entries (M, P) in the support, with the others at 0."""
    if len(matrix) < _GATHERED:
        return _solve_masked(matrix, linear, support)
    size = max(1, int(support.sum(1).max()))
    index = support.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
    inside = support.gather(1, index)
    matrices = matrix[index.unsqueeze(2), index.unsqueeze(1)]
    x = _solve_masked(matrices, linear.gather(1, index), inside)
    return torch.zeros_like(linear).scatter_(1, index, x)


def _solve_masked(matrices: Tensor, linear: Tensor, inside: Tensor) -> Tensor:
    """Solve ``H x = b`` for the entries (M, N) ``inside``, with the others at 0; H is (N, N) or (M, N, N)."""
    mask = inside.to(matrices.dtype)
    masked = matrices * (mask.unsqueeze(2) * mask.unsqueeze(1))
    masked.diagonal(dim1=1, dim2=2).add_(1 - mask)
    factor = torch.linalg.cholesky_ex(masked).L
    return torch.cholesky_solve((linear * mask).unsqueeze(2), factor).squeeze(2)


# ------------------------------------------------------------------------------------------------------ fair allocation
def fair(cosines: Tensor, log_gains: Tensor, power: float) -> Tensor:
    """Solve ``(C y)_i = k_i y_i^-power`` for y > 0.

    There ``y' C y / 2 - sum_i k_i u(y_i)`` is smallest, where u is the log for a power of 1, and
    ``y^(1 - power) / (1 - power)`` for another one. Where a nonnegative combination of the rows is 0 there is no
    solution, and one with some 1e-8 of each row's length on the diagonal is taken, which always exists.

    Args:
        cosines: C (P, P), inner products of rows of length 1.
        log_gains: log k (P,).
        power: positive.

    Returns:
        y (P,).
    """
    rough = _Fair(definite(cosines, _ROUGH), log_gains, power)
    logs = rough.solve(rough.start())
    y, _, wanted = rough.sides(logs)
    share = float((_ROUGH * y / wanted).max())  # of the ridge in the equation
    if not _NEGLIGIBLE < share < 0.5:
        return y  # exact enough, or there is no solution
    return _Fair(definite(cosines, _FINE), log_gains, power).solve(logs).exp()


class _Fair:
    """The equation ``(H y)_i = k_i y_i^-power`` with a positive definite H, and Newton's method for log y.

    So y stays positive, and no step depends on units.
    """

    def __init__(self, matrix: Tensor, log_gains: Tensor, power: float) -> None:
        self.matrix, self.log_gains, self.power = matrix, log_gains, power

    def sides(self, logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y (P,) and both sides of the equation, from log y."""
        y = logs.exp()
        return y, self.matrix @ y, torch.exp(self.log_gains - self.power * logs)

    def start(self) -> Tensor:
        """Return log y of the best multiple of what would solve the equation if all rows were orthogonal."""
        logs = self.log_gains / (1 + self.power)
        y, reached, wanted = self.sides(logs)
        return logs + ((y @ wanted) / (y @ reached)).log() / (1 + self.power)

    def solve(self, logs: Tensor) -> Tensor:
        """Return the solution as log y, from a start: to a relative 1e-9 or better, or as far as rounding lets it."""
        y, reached, wanted = self.sides(logs)
        for _ in range(_NEWTON_STEPS):
            descent = y * (wanted - reached)
            hessian = self.matrix * (y.unsqueeze(1) * y)
            hessian.diagonal().add_(y * wanted, alpha=self.power)
            step = torch.cholesky_solve(descent.unsqueeze(1), torch.linalg.cholesky_ex(hessian).L).squeeze(1)
            longest = float(step.abs().max())
            if not math.isfinite(longest):
                break  # beyond what numbers can hold
            if longest < _SHORT:
                return logs + step  # errors square; more steps would only be rounding errors
            if longest > _LONG:
                step *= _LONG / longest
            logs, y, reached, wanted = self._search(logs, step, float(descent @ step))
        return logs

    def _search(self, logs: Tensor, step: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a step of log y, halved until the objective there is not half as steep upwards as it was downwards.

        Returns the new log y, y and both sides of the equation.
        """
        for halvings in range(_HALVINGS):
            moved = logs + step / 2**halvings
            y, reached, wanted = self.sides(moved)
            if float((y * (reached - wanted)) @ step) <= 0.5 * slope:
                break
        return moved, y, reached, wanted
