"""Split-conformal intervals: how far from what is predicted the truth lies in most rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtl_lightning.calibration.probabilities import NotCalibratedError

_ROUNDING = 1e-9


def half_widths(errors: Tensor, known: Tensor, coverage: float, weight: Tensor | None = None) -> list[float]:
    """Return for each output the q with which predictions - q to + q hold the truth in a share c of new rows.

    `Distribution-Free Predictive Inference for Regression <https://arxiv.org/abs/1604.04173>`_ (Lei et al., 2018),
    algorithm 2: of n absolute errors the one at place ceil((n + 1) c) in order. If new rows are exchangeable with
    these, the truth is inside with a probability of at least c, and, where no errors are equal, below c + 1 / (n + 1):
    over all rows, not for each. With sample weights it is the smallest error with a weight of c times that of all rows
    and a new one up to it, as in `Conformal Prediction Under Covariate Shift <https://arxiv.org/abs/1904.06019>`_
    (Tibshirani et al., 2019); departure: the new row's weight, which nobody knows, is taken to be their mean.

    Args:
        errors: (N, D), not negative, anything where there is no label.
        known: (N, D) bool.
        coverage: c, between 0 and 1.
        weight: (N,); 1 each by default.

    Raises:
        NotCalibratedError: if some output has too few rows for so large a coverage.
    """
    sizes = torch.ones(len(errors), dtype=torch.float64) if weight is None else weight.double()
    found = []
    for column in range(errors.shape[1]):
        mask = known[:, column] & (sizes > 0)
        ordered, order = errors[mask, column].double().sort()
        upto = sizes[mask][order].cumsum(0)
        total = float(upto[-1]) if len(upto) else 0.0
        needed = coverage * (total + total / max(len(upto), 1)) - _ROUNDING * total
        place = int((upto < needed).sum())
        if place >= len(ordered):
            least = math.ceil(coverage / (1 - coverage) - _ROUNDING)
            raise NotCalibratedError(
                f"a coverage of {coverage:g} needs at least {least} labels of an output, found {len(ordered)}"
            )
        found.append(float(ordered[place]))
    return found
