"""The time to an event, of rows some of which were watched for less: hazards of intervals of time."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.fitted import FittedTask
from mtl_lightning.tasks.likelihoods import SOFTMAX
from mtl_lightning.tasks.options import merged_spec
from mtl_lightning.tasks.precision import KeepsPrecision
from mtl_lightning.tasks.survival_metrics import Concordance, IntegratedBrier, restricted_mean
from mtl_lightning.tasks.trivial import wide
from mtl_lightning.types import ConfigurationError, TargetError, TargetSpec

PAIR = ("time", "event")
"""The names, in its spec, of a target of survival."""


class Survival(KeepsPrecision, FittedTask):
    r"""The time to an event, which of some rows is only known to be later (censored), by hazards of K intervals.

    Cut points :math:`0 < c_1 < \ldots < c_K` divide time into intervals from above :math:`c_{k-1}` to :math:`c_k`, and
    each output is the logit of a hazard: the probability :math:`h_k` that the event happens in the interval if it has
    not before. The loss of a row, in nats, is minus the log-likelihood of `A scalable discrete-time survival model for
    neural networks <https://arxiv.org/abs/1805.00917>`_ (Gensheimer and Narasimhan, 2019),

    .. math:: -\log h_k \; [\text{the event was in } k] \; - \sum_{j \text{ survived}} \log(1 - h_j)

    also that of `Continuous and Discrete-Time Survival Prediction with Neural Networks
    <https://arxiv.org/abs/1910.06724>`_ (Kvamme and Borgan, 2021). A row with an event has survived the intervals
    before it. A censored one has survived those that ended by then, and the one that it is in if it was seen for at
    least half of it, as in the first paper: without that, survival would be estimated too low. Of times that are all
    cut points both papers say the same, and the likelihood is exact. A row that is later than the last cut point has
    survived all.

    The uncertainty term is a softmax's, ``exp(-s) * L + s / 2``, since the loss is the cross-entropy of which interval
    the event is in: ``exp(s)`` is a temperature, without units.

    Targets (B, 2): floats, a time of at least 0 and whether the event happened then, 1, or the row was seen until then
    without it, 0; nan in either for a missing label.

    Predictions, in the units of time: ``value`` (B,), the median time, where the probability of survival, which is
    taken to be linear between cut points, falls to 1/2; the last cut point where it does not, which then means at
    least that; ``expected`` (B,), the mean of the time up to the last cut point (the area under the curve); and
    ``survival`` (B, K), the probability that the event is later than each cut point. Other tasks read the latter.

    Metrics, of labelled rows: ``concordance``, Harrell's, between 0 and 1, higher is better; ``brier``, integrated and
    weighted for censoring (Graf et al., 1999), between 0 and 1, lower is better.

    Args:
        spec: what the data says: its shape is ``(2,)``, its names are ``("time", "event")``.
        cuts: the cut points, ascending, above 0.
        intervals: K, where no cut points are given: :meth:`fit_target` then takes quantiles of the times of events in
            the training split, so that about as many events are in each; the last cut point is the latest of them.
        units: of time, in words, where no spec says them.
        metrics: metrics by name, in place of the default ones; they are fed probabilities of survival (N, K) and
            targets (N, 2).

    Raises:
        ConfigurationError: for another spec, or cut points that are none.
    """

    dtypes = "a floating-point dtype"
    values = "times of at least 0, each with 1 (event) or 0 (censored), or nan for missing"
    target_kind = "survival"
    unfitted = (
        "Survival: expected cut points, found none. Give `cuts`, call `fit_target` with the training split's target, "
        "or load a checkpoint that holds them."
    )
    parts = 2
    cuts: Tensor

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        cuts: list[float] | None = None,
        intervals: int = 10,
        units: str | None = None,
        metrics: MetricFactories | None = None,
    ) -> None:
        spec = merged_spec("Survival", TargetSpec(shape=(2,), names=PAIR) if spec is None else spec, units=units)
        if (spec.shape, spec.names) != ((2,), PAIR):
            raise ConfigurationError(
                f"Survival: expected the shape (2,) with the names {PAIR} in the TargetSpec, found {spec.shape} with "
                f"{spec.names}. In a table name the column of events: `targets: {{churn: {{event: left}}}}`."
            )
        if cuts is not None and (not cuts or any(b <= a for a, b in pairwise([0.0, *cuts])) or cuts[-1] == torch.inf):
            raise ConfigurationError(
                f"Survival: expected `cuts` to be times above 0, ascending, such as [30, 90, 365], found {cuts}."
            )
        size = intervals if cuts is None else len(cuts)
        super().__init__(spec, columns=None, output_size=size, likelihood=SOFTMAX, metrics=metrics)
        given = torch.arange(1.0, size + 1) if cuts is None else torch.tensor(cuts)
        self.register_buffer("cuts", given.double(), persistent=cuts is None)
        self.await_target(cuts is None)

    # ------------------------------------------------------------------------------------------------------ the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats only."""
        return dtype.is_floating_point

    def is_labelled(self, elements: Tensor) -> Tensor:
        """Rows (B,) with a time and whether it is an event's."""
        return ~elements.isnan().any(1)

    def is_valid(self, elements: Tensor) -> Tensor:
        """Times (B, 2) are finite and not negative, events 0 or 1."""
        time, event = elements.unbind(1)
        valid = torch.stack([(time >= 0) & time.isfinite(), (event == 0) | (event == 1)], dim=1)
        return valid | ~self.is_labelled(elements).unsqueeze(1)

    @property
    def target_scale(self) -> float | None:
        """None: sigma is of a temperature, which has no units."""
        return None

    @torch.no_grad()
    def fit_target(self, target: Tensor) -> None:
        """Take quantiles of the times of events as cut points, unless they were given.

        Args:
            target: the whole split's, (N, 2).

        Raises:
            TargetError: if the target is not valid, or has fewer different times of events than intervals.
        """
        if self.fitted:
            return
        self.check(target)
        elements = self.elements(target).detach().cpu().double()
        times = elements[self.is_labelled(elements) & (elements[:, 1] == 1), 0]
        self.cuts.copy_(cut_points(times[times > 0], self.output_size))
        self.end_fit()

    def intervals(self, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Return in which interval each row's event was, and which ones it has survived, both (B, K) bool."""
        cuts = self.cuts.to(torch.promote_types(elements.dtype, self.cuts.dtype))
        time, event = elements[:, :1].to(cuts.dtype), elements[:, 1:] == 1
        later, middle = time > cuts, torch.cat([cuts[:1] / 2, (cuts[:-1] + cuts[1:]) / 2])
        before = F.pad(later[:, :-1], (1, 0), value=True)
        return event & before & ~later, torch.where(event, later, time >= middle)

    # ------------------------------------------------------------------------------------------------------ the output
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return minus the log-likelihood of each row, in nats."""
        self.expect_fitted()
        happened, survived = self.intervals(elements)
        return (torch.where(happened, F.softplus(-output), 0.0) + torch.where(survived, F.softplus(output), 0.0)).sum(1)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the logits (K,) of the hazards: events over rows at risk; half a row where there is none."""
        happened, survived = self.intervals(self.elements(rows))
        sizes = wide(weight).unsqueeze(1)
        events, others = (happened * sizes).sum(0), (survived * sizes).sum(0)
        least = torch.where(events + others > 0, 0.5 * sizes.mean(), 1.0)
        return torch.where(events > 0, events, least).log() - torch.where(others > 0, others, least).log()

    def survival(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the probabilities (B, K) that the event is later than each cut point."""
        return F.logsigmoid(-output).cumsum(1).exp()

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, K) to the median time (B,), the expected one (B,), and the curve of survival (B, K)."""
        curve = self.for_metrics(output)
        cuts = self.cuts.to(curve.dtype)
        return {"value": median(curve, cuts), "expected": restricted_mean(curve, cuts), "survival": curve}

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the probabilities (B, K) of survival."""
        return self.survival(self.outputs(output))

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see the curves (B, K) of survival."""
        self.expect_fitted()
        return self.survival(self.precise(output))

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are a time, another, and probabilities by the cut points."""
        self.expect_fitted()
        fields = {"value": [], "expected": [], "survival": _called(self.cuts.tolist())}
        return {"form": "fields", "fields": fields, "units": self.spec.units}

    def default_metrics(self) -> MetricFactories:
        """Return Harrell's concordance and the integrated Brier score."""
        self.expect_fitted()
        cuts = tuple(self.cuts.tolist())
        return {"concordance": partial(Concordance, cuts=cuts), "brier": partial(IntegratedBrier, cuts=cuts)}


def cut_points(times: Tensor, number: int) -> Tensor:
    """Return quantiles (K,) of times of events (N,), all different, ascending: about as many events in each interval.

    Raises:
        TargetError: if there are fewer different times.
    """
    distinct: Tensor
    distinct, counts = torch.unique(times, return_counts=True)
    if len(distinct) < number:
        raise TargetError(
            f"Survival: expected events at {number} different times above 0 at least, one for each interval, found "
            f"{len(distinct)}. Use fewer `intervals`, or give `cuts`."
        )
    upto = counts.cumsum(0)
    places: list[int] = []
    for interval in range(1, number + 1):
        place = int(torch.searchsorted(upto, interval * len(times) / number))
        place = max(place, places[-1] + 1) if places else place
        places.append(min(place, len(distinct) - 1 - (number - interval)))  # as many times as intervals are left
    return distinct[torch.tensor(places)]


def median(curve: Tensor, cuts: Tensor) -> Tensor:
    """Return where each curve (B, K) of survival, linear between 0 and the cut points (K,), is 1/2; or the last one."""
    ends = F.pad(cuts, (1, 0))
    values = F.pad(curve, (1, 0), value=1.0)
    place = (curve > 0.5).sum(1, keepdim=True).clamp(max=curve.shape[1] - 1)
    high, low = values.gather(1, place), values.gather(1, place + 1)
    share = ((high - 0.5) / (high - low).clamp(min=torch.finfo(curve.dtype).tiny)).clamp(0, 1)
    ends = ends.expand(curve.shape[0], -1)
    start, end = ends.gather(1, place), ends.gather(1, place + 1)
    return (start + share * (end - start))[:, 0]


def _called(cuts: list[float]) -> list[str]:
    """Return the names of cut points: as short as they are different."""
    return next(
        names for digits in range(4, 18) if len({*(names := [f"{cut:.{digits}g}" for cut in cuts])}) == len(cuts)
    )
