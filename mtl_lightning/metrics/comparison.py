"""How a multi-task model compares with others: Delta-m against single-task baselines, and mean rank.

>>> import torch
>>> from mtl_lightning.metrics import delta_m
>>> values, baselines = torch.tensor([0.81, 0.50]), torch.tensor([0.90, 0.40])  # an accuracy, an error
>>> delta_m(values, baselines, [True, False])  # 10 % worse and 25 % worse: 17.5 % worse in the mean
tensor(17.5000)

Two conventions are in use, and they differ in sign and in what is averaged, so that both are to be stated with a
figure:

- ``sign="drop"``, ``weights="metric"`` (the defaults here): lower is better, below 0 is better than single-task
  training, and every metric counts alike, so that a task with five metrics weighs five times one with a single metric.
  So in CAGrad (`arXiv 2110.14048 <https://arxiv.org/abs/2110.14048>`_), Nash-MTL (`2202.01017
  <https://arxiv.org/abs/2202.01017>`_), FAMO (`2306.03792 <https://arxiv.org/abs/2306.03792>`_) and FairGrad
  (`2402.15638 <https://arxiv.org/abs/2402.15638>`_).
- ``sign="gain"``, ``weights="task"``: higher is better, and every task counts alike. So in `Attentive Single-Tasking of
  Multiple Tasks <https://arxiv.org/abs/1904.08918>`_ (Maninis et al., 2019) and Auto-Lambda (`2202.03091
  <https://arxiv.org/abs/2202.03091>`_), with one metric a task, and in LibMTL (`2203.14338
  <https://arxiv.org/abs/2203.14338>`_), whose code gives fractions, not per cent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from mtl_lightning.types import ConfigurationError

__all__ = ["DeltaM", "MeanRank", "delta_m", "mean_rank", "relative_differences"]

Weights: TypeAlias = Literal["metric", "task"]
Sign: TypeAlias = Literal["drop", "gain"]


def relative_differences(
    values: Tensor, baselines: Tensor, higher_is_better: Sequence[bool], sign: Sign = "drop"
) -> Tensor:
    r"""Return how much worse (``"drop"``) or better (``"gain"``) each metric is than its baseline, in per cent of it.

    :math:`100 \, (-1)^{h_m} (A_m - B_m) / |B_m|` for a drop, the negative of it for a gain, where :math:`A_m` is the
    value, :math:`B_m` the baseline, and :math:`h_m` is 1 if higher is better, else 0. Departure: the papers divide by
    :math:`B_m`, which is the same for positive baselines; with a negative one (a log-likelihood, an R2) their figure
    would call an improvement a loss.

    Args:
        values: (*, M).
        baselines: (M,), of single-task models.
        higher_is_better: M.
        sign: which way is positive.

    Raises:
        ConfigurationError: for other sizes or another sign, and for a baseline of 0, which nothing is relative to.
    """
    if sign not in ("drop", "gain"):
        raise ConfigurationError(f"Delta-m: expected a `sign` of 'drop' or 'gain', found {sign!r}.")
    if baselines.dim() != 1 or values.shape[-1:] != baselines.shape or len(higher_is_better) != len(baselines):
        raise ConfigurationError(
            "Delta-m: expected values (*, M), M baselines and M entries of `higher_is_better`, found "
            f"{tuple(values.shape)}, {tuple(baselines.shape)} and {len(higher_is_better)}."
        )
    if not bool((baselines != 0).all()):
        raise ConfigurationError(
            f"Delta-m: expected baselines other than 0, found 0 at {(baselines == 0).nonzero().flatten().tolist()}: a "
            "difference relative to 0 has no meaning. Leave these metrics out, or use another one of the task."
        )
    worse = torch.tensor([-1.0 if higher else 1.0 for higher in higher_is_better], dtype=values.dtype)
    ways = worse.to(values.device) * (1 if sign == "drop" else -1)
    return 100 * ways * (values - baselines) / baselines.abs()


def delta_m(
    values: Tensor,
    baselines: Tensor,
    higher_is_better: Sequence[bool],
    *,
    tasks: Sequence[Hashable] | None = None,
    weights: Weights = "metric",
    sign: Sign = "drop",
) -> Tensor:
    r"""Return :math:`\Delta_m` (*), the mean of :func:`relative_differences`, in per cent.

    Args:
        values: (*, M), the model's metrics.
        baselines: (M,), those of single-task models.
        higher_is_better: M.
        tasks: the task of each metric, M; needed with ``weights="task"``.
        weights: ``"metric"`` is the mean over all metrics, ``"task"`` the mean over tasks of the means over their
            metrics.
        sign: ``"drop"``: lower is better; ``"gain"``: higher is better.

    Raises:
        ConfigurationError: as in :func:`relative_differences`, and without the tasks where they are needed.
    """
    differences = relative_differences(values, baselines, higher_is_better, sign)
    if weights == "metric":
        return differences.mean(-1)
    if weights != "task":
        raise ConfigurationError(f"Delta-m: expected `weights` to be 'metric' or 'task', found {weights!r}.")
    if tasks is None or len(tasks) != len(baselines):
        raise ConfigurationError(
            f"Delta-m: expected the task of each of {len(baselines)} metrics with weights='task', found {tasks}."
        )
    groups = [[index for index, task in enumerate(tasks) if task == name] for name in dict.fromkeys(tasks)]
    return torch.stack([differences[..., group].mean(-1) for group in groups], -1).mean(-1)


def mean_rank(values: Tensor, higher_is_better: Sequence[bool]) -> Tensor:
    """Return each method's rank (N,), 1 for the best, averaged over the metrics; equal values share their mean rank.

    A rank depends on which methods are compared: mean ranks of two papers cannot be.

    Args:
        values: (N, M), the metrics of N methods.
        higher_is_better: M.

    Raises:
        ConfigurationError: for other sizes or values that are nan.
    """
    if values.dim() != 2 or values.shape[1] != len(higher_is_better) or bool(values.isnan().any()):
        raise ConfigurationError(
            f"Mean rank: expected values (N, M) without nan and M entries of `higher_is_better`, found "
            f"{tuple(values.shape)}, {int(values.isnan().sum())} of them nan, and {len(higher_is_better)}."
        )
    signs = values.new_tensor([1.0 if higher else -1.0 for higher in higher_is_better])
    oriented = values * signs
    better = (oriented.unsqueeze(0) > oriented.unsqueeze(1)).sum(1)  # (N, M): how many methods beat this one
    equal = (oriented.unsqueeze(0) == oriented.unsqueeze(1)).sum(1)  # itself included
    return (better + (equal + 1) / 2).to(values.dtype).mean(1)


class DeltaM(Metric):
    r""":func:`delta_m` of named metrics; several updates, such as one per seed or epoch, are averaged.

    :math:`\Delta_m` is linear in the values: that of a mean is the mean of those of its parts.

    >>> metric = DeltaM({"acc/left": 0.90, "error/size": 0.40}, {"acc/left": True, "error/size": False})
    >>> metric.update({"acc/left": 0.81, "error/size": 0.50})
    >>> metric.compute()
    tensor(17.5000)

    Args:
        baselines: the single-task model's value of each metric, by the metric's name.
        higher_is_better: of each metric.
        tasks: the task of each metric; by default what follows the last ``/`` of its name.
        weights: as in :func:`delta_m`.
        sign: as in :func:`delta_m`.

    Raises:
        ConfigurationError: for names that differ, and for a baseline of 0.
    """

    total: Tensor
    count: Tensor
    is_differentiable = False

    def __init__(
        self,
        baselines: Mapping[str, float],
        higher_is_better: Mapping[str, bool],
        tasks: Mapping[str, str] | None = None,
        weights: Weights = "metric",
        sign: Sign = "drop",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.names = list(baselines)
        _same_names("higher_is_better", self.names, higher_is_better)
        self.ways = [bool(higher_is_better[name]) for name in self.names]
        self.tasks = [name.rpartition("/")[2] if tasks is None else tasks[name] for name in self.names]
        self.weights, self.sign = weights, sign
        if zero := [name for name, value in baselines.items() if value == 0]:
            raise ConfigurationError(
                f"DeltaM: expected baselines other than 0, found 0 of {zero}: a difference relative to 0 has no "
                "meaning. Leave these metrics out, or use another one of the task."
            )
        self.register_buffer("baselines", torch.tensor([*baselines.values()]), persistent=False)
        self.add_state("total", torch.zeros(len(self.names)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # it depends on the convention
        """Whether a larger value is better."""
        return self.sign == "gain"

    def update(self, values: Mapping[str, float | Tensor]) -> None:
        """Add one model's metrics; names that have no baseline are left out."""
        if missing := [name for name in self.names if name not in values]:
            raise ConfigurationError(f"DeltaM: expected values of {self.names}, found none of {missing}.")
        self.total += torch.stack([torch.as_tensor(values[name]).to(self.total) for name in self.names])
        self.count += 1

    def compute(self) -> Tensor:
        """Return Delta-m (), in per cent."""
        return self._of(list(range(len(self.names))))

    def by_task(self) -> dict[str, Tensor]:
        """Return each task's mean over its metrics (), in per cent."""
        return {
            name: self._of([index for index, task in enumerate(self.tasks) if task == name])
            for name in dict.fromkeys(self.tasks)
        }

    def _of(self, indices: list[int]) -> Tensor:
        means, baselines = self.total[indices] / self.count, self.get_buffer("baselines")[indices]
        ways, tasks = [self.ways[i] for i in indices], [self.tasks[i] for i in indices]
        return delta_m(means, baselines, ways, tasks=tasks, weights=self.weights, sign=self.sign)


class MeanRank(Metric):
    """:func:`mean_rank` of named methods; several updates of a method, such as one per seed, are averaged.

    >>> metric = MeanRank(["sum", "ours"], {"acc": True, "error": False})
    >>> metric.update("sum", {"acc": 0.7, "error": 0.4})
    >>> metric.update("ours", {"acc": 0.8, "error": 0.4})
    >>> metric.compute()
    {'sum': tensor(1.7500), 'ours': tensor(1.2500)}

    Args:
        methods: the methods to be compared.
        higher_is_better: of each metric, by its name.
    """

    total: Tensor
    count: Tensor
    is_differentiable = False
    higher_is_better = False

    def __init__(self, methods: Sequence[str], higher_is_better: Mapping[str, bool], **options: Any) -> None:
        super().__init__(**options)
        self.methods, self.ways = list(methods), {name: bool(way) for name, way in higher_is_better.items()}
        self.add_state("total", torch.zeros(len(self.methods), len(self.ways)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.methods)), dist_reduce_fx="sum")

    def update(self, method: str, values: Mapping[str, float | Tensor]) -> None:
        """Add one run of a method: all of its metrics."""
        if method not in self.methods:
            raise ConfigurationError(f"MeanRank: expected a method of {self.methods}, found {method!r}.")
        _same_names("values", list(self.ways), values)
        row = self.methods.index(method)
        self.total[row] += torch.stack([torch.as_tensor(values[name]).to(self.total) for name in self.ways])
        self.count[row] += 1

    def compute(self) -> dict[str, Tensor]:
        """Return each method's mean rank ().

        Raises:
            ConfigurationError: if a method has no values.
        """
        if missing := [name for name, count in zip(self.methods, self.count.tolist(), strict=True) if not count]:
            raise ConfigurationError(f"MeanRank: expected values of every method, found none of {missing}.")
        ranks = mean_rank(self.total / self.count.unsqueeze(1), list(self.ways.values()))
        return dict(zip(self.methods, ranks, strict=True))


def _same_names(what: str, expected: list[str], found: Mapping[str, Any]) -> None:
    if set(expected) != set(found):
        raise ConfigurationError(f"Expected `{what}` of the metrics {sorted(expected)}, found {sorted(found)}.")
