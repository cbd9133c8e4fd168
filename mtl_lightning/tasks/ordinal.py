"""Levels in order, such as ratings: cumulative logits with learned cut points."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.likelihoods import SOFTMAX
from mtl_lightning.tasks.options import at_least_two, counted, merged_spec, single_label
from mtl_lightning.tasks.ordinal_metrics import QuadraticKappa, RankError
from mtl_lightning.tasks.rows import MISSING, RowTask
from mtl_lightning.tasks.trivial import log_class_shares
from mtl_lightning.tasks.weighted import ClassAccuracy
from mtl_lightning.types import TargetSpec, state_dtype


class Ordinal(RowTask):
    r"""One of K levels in order a row, such as a rating, learned by cumulative logits (a loss in nats).

    The head gives one score, and K - 1 cut points c in ascending order divide it into levels: the proportional odds of
    `Regression Models for Ordinal Data <https://doi.org/10.1111/j.2517-6161.1980.tb01109.x>`_ (McCullagh, 1980),

    .. math:: P(y > k \mid x) = \mathrm{sigmoid}(\mathrm{score}(x) - c_k), \qquad k = 0, \ldots, K - 2

    The cut points are parameters of the task (:attr:`cut_points`): in its optimizer group, and in checkpoints. A cut
    point is the one before and a softplus, so that they stay in order and no level's probability is below 0. They
    start where a score of 0 gives all levels the same probability.

    With ``proportional: false`` the head gives K - 1 outputs, and the distances between cut points depend on the row
    too. So do they in a network of your own that gives final outputs (B, K - 1); one that gives a score (B, 1) is
    completed with the cut points.

    Targets (B,) or (B, 1): integers 0..K-1 in the levels' order, or -100 for missing.

    Predictions: ``probability`` (B, K) of the levels, the likeliest level as ``label`` (B,), which is what the
    probabilities of any classes are answered with, and the expected ``rank`` (B,), between 0 and K - 1. The median of
    the levels has a smaller mean absolute error, where that is what counts: it is the first level up to which the
    probabilities add up to half. Other tasks read the probabilities (B, K - 1) of a level above 0, ..., above K - 2.

    Metrics, of the likeliest level: ``accuracy``, between 0 and 1, higher is better; ``mae``, of the rank, in levels,
    lower is better; ``kappa``, Cohen's with quadratic weights, at most 1 and 0 of a constant, higher is better.

    Args:
        spec: what the data says: ``classes`` is K, at least 2, ``names`` are the levels in order; its shape is ``()``.
        num_classes: K, where no spec says it.
        class_names: what the levels are called, in order, likewise; there are K of them.
        proportional: whether the distances of the cut points are the same for all rows.
        metrics: metrics by name, in place of the default ones; they are fed probabilities (N, K) and levels (N,).

    Raises:
        ConfigurationError: for another spec, or one that the arguments contradict.
    """

    dtypes = "an integer dtype"
    target_kind = "ordinal"
    offsets: nn.Parameter | None

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        proportional: bool = True,
        metrics: MetricFactories | None = None,
    ) -> None:
        number = counted("Ordinal", num_classes, class_names, "num_classes")
        spec = merged_spec("Ordinal", spec, classes=number, names=class_names)
        single_label(spec, "Ordinal")
        size = at_least_two(spec.classes, "Ordinal")
        super().__init__(spec, columns=None, output_size=size - 1, likelihood=SOFTMAX, metrics=metrics)
        self.levels = size
        self.values = f"levels 0..{size - 1} or {MISSING} for missing"
        self.proportional = proportional and size > 2  # of two levels the one cut point is the head's bias
        shares = torch.full((size,), 1 / size, dtype=torch.float64)
        self.offsets = nn.Parameter(outputs_of(shares).to(state_dtype())) if self.proportional else None
        if type(self) is Ordinal:
            self.batchable = (Ordinal, size)

    # ------------------------------------------------------------------------------------------------- the cut points
    @property
    def head_size(self) -> int:
        """H: a score; or K - 1 outputs where the distances of cut points depend on the row, too."""
        return 1 if self.proportional else self.output_size

    def complete(self, output: Tensor) -> Tensor:
        """Map scores (B, 1) to outputs (B, K - 1), by the cut points; outputs that are complete are left as they are.

        The first output is the logit of a level above 0, the others are softplus' arguments: by how much the logit of
        a level above k is below that of one above k - 1.
        """
        if self.offsets is None or output.shape[1:] != (1,):
            return output
        offsets = self.offsets.to(torch.promote_types(output.dtype, self.offsets.dtype))
        first, others = offsets[:1], offsets[1:]
        return torch.cat([output.to(offsets.dtype) + first, others.expand(output.shape[0], -1)], dim=1)

    @property
    def cut_points(self) -> Tensor:
        """The cut points (K - 1,), ascending, in the units of the score; only where they are the same for all rows."""
        if self.offsets is None:
            raise AttributeError("Ordinal: expected `proportional` and more than 2 levels, without which none is kept.")
        return -self.logits(self.offsets.detach()[None])[0]

    def logits(self, output: Tensor) -> Tensor:
        """Map outputs (B, K - 1) to the logits (B, K - 1) of a level above 0, ..., above K - 2: a descending row."""
        first = output[:, :1]
        return torch.cat([first, first - F.softplus(output[:, 1:]).cumsum(1)], dim=1)

    def log_probabilities(self, output: Tensor) -> Tensor:
        r"""Map outputs (B, K - 1) to the logarithms (B, K) of the levels' probabilities.

        With logits a of a level above k - 1 and b of one above k,
        :math:`\log(\sigma(a) - \sigma(b)) = \log\sigma(a) + \log\sigma(-b) + \log(1 - e^{b - a})`, and the distance
        a - b is a softplus, of which the last term is the logarithm of a sigmoid: nothing cancels.
        """
        logits = self.logits(output)
        above, below = F.pad(F.logsigmoid(logits), (1, 0)), F.pad(F.logsigmoid(-logits), (0, 1))
        return above + below + F.pad(F.logsigmoid(output[:, 1:]), (1, 1))

    # ------------------------------------------------------------------------------------------------------ the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Integers only."""
        return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)

    def is_labelled(self, elements: Tensor) -> Tensor:
        """``-100`` is a missing label; compared as int64, since a uint8 would wrap it."""
        return elements.long() != MISSING

    def is_valid(self, elements: Tensor) -> Tensor:
        """Levels are 0..K-1."""
        return ~self.is_labelled(elements) | ((elements >= 0) & (elements < self.levels))

    # ------------------------------------------------------------------------------------------------------ the output
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return minus the logarithm of the probability of each row's level, in nats."""
        # An invalid level makes `count` nan, which is reported in words; unclamped, it would stop a GPU for good.
        levels = elements.long().clamp(0, self.levels - 1)
        return -self.log_probabilities(output).gather(1, levels[:, None])[:, 0]

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs (K - 1,) whose probabilities are the levels' shares; half a row of levels not seen."""
        shares = log_class_shares(self.elements(rows), weight, self.levels, None, 0.0).softmax(0)
        return outputs_of(shares)

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, K - 1) to the levels' probabilities (B, K), the likeliest level and the mean rank (B,)."""
        probability = self.for_metrics(output)
        ranks = torch.arange(self.levels, dtype=probability.dtype, device=probability.device)
        return {"probability": probability, "label": probability.argmax(-1), "rank": probability @ ranks}

    def final(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K - 1) to probabilities alone, unless a subclass predicts something else."""
        return self.for_metrics(output) if type(self).predict is Ordinal.predict else self.predict(output)

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K - 1) to the probabilities (B, K - 1) of a level above 0, ..., above K - 2."""
        return self.logits(self.precise(output)).sigmoid().to(output.dtype)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see the probabilities (B, K) of the levels."""
        return self.log_probabilities(self.precise(output)).softmax(-1)  # which add up to 1, however rounded

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are probabilities of classes."""
        return {"form": "classes", "names": self.spec.named(self.levels)}

    def default_metrics(self) -> MetricFactories:
        """Return the accuracy, the mean absolute error of the rank, and kappa with quadratic weights."""
        size = self.levels
        return {
            "accuracy": partial(ClassAccuracy, num_classes=size),
            "mae": RankError,
            "kappa": partial(QuadraticKappa, num_classes=size),
        }


def outputs_of(shares: Tensor) -> Tensor:
    """Return the outputs (K - 1,) of :class:`Ordinal` whose probabilities are shares (K,), all above 0."""
    above = shares.flip(0).cumsum(0).flip(0)[1:]
    below = shares.cumsum(0)[:-1]
    logits = above.log() - below.log()
    return torch.cat([logits[:1], inverse_softplus(logits[:-1] - logits[1:])])


def inverse_softplus(values: Tensor, least: float = 1e-12) -> Tensor:
    """Return what softplus maps to values, all above 0; smaller ones than ``least`` count as that."""
    values = values.clamp(min=least)
    return torch.where(values > math.log(2), values + torch.log(-torch.expm1(-values)), torch.expm1(values).log())
