"""The task contract: one target, its loss, its metrics, its likelihood, and what other tasks may read of it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from mtl_lightning.describe import Described
from mtl_lightning.names import known_arguments, made_by
from mtl_lightning.tasks.trivial import best_output
from mtl_lightning.types import ConfigurationError, Likelihood, TargetError, TargetSpec, state_dtype

MetricFactories: TypeAlias = Mapping[str, Callable[[], Metric]]


class Task(Described, nn.Module, ABC):
    """One target. Subclasses give :meth:`labelled`, :meth:`invalid`, :meth:`elementwise_loss`, :meth:`predict`,
    :meth:`estimate` and :meth:`default_metrics`; the masking, counting and summing is done here, once.

    One *element* is one labelled scalar: a row of a classification, one of the D numbers of a D-vector regression,
    one of the labels of a multi-label target, one pixel of a dense target.

    Args:
        spec: what the data knows of the target: shape, classes, names, units.
        output_size: K, the number of outputs (B, K, *) that the task's head has.
        estimate_size: E, the number of channels of :meth:`estimate`.
        likelihood: the form of the uncertainty term that fits the loss.
        metrics: metrics by name, in place of :meth:`default_metrics`: what makes each, or one to take copies of.

    Attributes:
        batchable: equal for tasks that count labels and lose alike row by row, so that core may put their batches into
            one; by default a task's own.
        rescales: whether the scale of the target is followed during training: before the losses of each update core
            calls :meth:`target_sums`, and :meth:`rescale` with what these add up to.
    """

    batchable: Hashable
    rescales: bool = False
    target_kind: ClassVar[str | None] = None
    """How a table's column is read for it: ``number``, ``count``, ``classes``, ``ordinal`` or ``survival``; None where
    none is."""
    calibrated_by: tuple[str, ...] = ()
    """The methods of calibration that suit the outputs, the usual one first; none unless a subclass says so."""

    def __init__(
        self,
        spec: TargetSpec,
        *,
        output_size: int,
        estimate_size: int,
        likelihood: Likelihood,
        metrics: MetricFactories | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.output_size = output_size
        self.estimate_size = estimate_size
        self.likelihood = likelihood
        self._metrics = None if metrics is None else _factories(metrics)
        self.batchable = id(self)

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """Map a target to a bool mask over its elements: (B,) for one element a row, else the target's shape."""

    @abstractmethod
    def invalid(self, target: Tensor) -> Tensor:
        """Return () bool: does a labelled element hold a value this task cannot take? No host sync."""

    @abstractmethod
    def check(self, target: Tensor) -> None:
        """Raise :class:`TargetError` that says what is wrong with the target: dtype, shape, then values.

        Called on the first batch and whenever :meth:`count` is nan, so it may look at values.
        """

    @abstractmethod
    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Map outputs (B, K, *) and a target to one loss per element, finite wherever the output is.

        Values at unlabelled elements are never used, but they must be finite: their gradient is multiplied by zero.
        """

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K, *) to what a user wants: values in original units, or probabilities and a label."""

    def final(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K, *) to what :meth:`predict` gives, without what follows from it, such as the label."""
        return self.predict(output)

    @abstractmethod
    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K, *) to the estimate (B, E, *) that other tasks read, in standardised units."""

    def as_shown(self, target: Tensor) -> Tensor:
        """Return a target as figures compare predictions with it: as it is, unless its labels are soft."""
        return target

    @abstractmethod
    def default_metrics(self) -> MetricFactories:
        """Return the metrics that fit this task, by name."""

    @abstractmethod
    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed the labelled elements of a batch to ``metrics``, in original units; does nothing where there is none.

        With sample weights (B,) each element has that of its row, and rows of weight 0 are left out; :func:`feed`
        hands them on, and refuses metrics that take none.
        """

    # --------------------------------------------------------------------------------------------------- what core uses
    def count(self, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return () float: the number of labelled elements, or their summed weight; nan if a value is invalid.

        From the target alone: core needs it before any forward, and reads it once per update, which is why an
        invalid value is reported in it.
        """
        if weight is None:
            return self.count_together([target])[0]
        mask = self.labelled(target)
        return torch.where(self.invalid(target), torch.nan, (mask * per_element(weight, mask)).sum())

    def whole_counts(self, targets: Sequence[Tensor]) -> float | None:
        """Return the count of each of N batchable tasks if one look says that no label is missing or wrong, else None.

        What :meth:`count_together` says, for targets on the CPU, at less cost: it reads on the host.
        """
        return None

    def count_together(self, targets: Sequence[Tensor]) -> Tensor:
        """Return the counts (N,) of N batchable tasks, whose targets have one shape; all nan if a value is invalid."""
        rows = torch.cat([*targets]) if len(targets) > 1 else targets[0]
        counts = self.labelled(rows).reshape(len(targets), -1).sum(1, dtype=torch.float32)
        return torch.where(self.invalid(rows), torch.nan, counts)

    def loss(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return () the *sum* of the losses over labelled elements, in float32 or better.

        Never nan for want of labels, and connected to the graph even then. Only core divides, by the count over the
        whole window and all processes.
        """
        output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        losses = self.elementwise_loss(output, target)
        mask = self.labelled(target)
        if losses.shape != mask.shape:
            raise TargetError(
                f"{type(self).__name__}: expected one loss per element, shape {tuple(mask.shape)}, found "
                f"{tuple(losses.shape)}; a loss of your own must not reduce (`reduction='none'`)."
            )
        if weight is not None:
            losses = losses * per_element(weight, mask)
        return torch.where(mask, losses, 0.0).sum()

    def loss_together(self, outputs: Sequence[Tensor] | Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the losses (N,) of N batchable tasks, as from :meth:`loss`; outputs have one shape, so do targets.

        Outputs that lie together already come as one tensor (N, B, K).
        """
        output = outputs.flatten(0, 1) if isinstance(outputs, Tensor) else torch.cat([*outputs])
        rows = torch.cat([*targets])
        output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        losses = torch.where(self.labelled(rows), self.elementwise_loss(output, rows), 0.0)
        return losses.reshape(len(targets), -1).sum(1)

    def metrics(self, stage: str) -> MetricCollection:
        """Return fresh metrics for one stage (``"train"``, ``"val"`` or ``"test"``), the same ones by default."""
        factories = self.default_metrics() if self._metrics is None else self._metrics
        return MetricCollection({name: _made(name, make) for name, make in factories.items()}, compute_groups=False)

    def fit_target(self, target: Tensor) -> None:
        """Fit statistics of the training split's whole target; nothing to fit by default, no-op once fitted."""

    def target_sums(self, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return what :meth:`rescale` needs of a target, to be added up over the window and all processes."""
        return torch.zeros(0, device=target.device)

    def rescale(self, sums: Tensor, last: nn.Linear | nn.Conv2d) -> None:
        """Follow the target's scale, and change the last layer of the task's head so that predictions stay the same.

        Args:
            sums: of :meth:`target_sums`, over the window and all processes.
            last: the affine map that gives the outputs.
        """

    def calibration_rows(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a calibration is fitted to: outputs (N, K), targets (N, D), and which are labelled (N, D).

        Outputs are logits, or numbers in original units; N is a multiple of B. Only asked of tasks with a method in
        :attr:`calibrated_by`.
        """
        raise NotImplementedError

    def decoding(self) -> dict[str, Any]:
        """Return how final outputs become answers, as plain data, so that answering needs no task.

        ``{"form": "binary", "names": [no, yes]}``, ``{"form": "classes", "names": [...]}`` and ``{"form": "labels",
        "names": [...]}`` for probabilities (B,), (B, K) and (B, M); ``{"form": "values", "names": [...], "units":
        ...}`` for numbers (B,), whose names are empty, or (B, D); ``{"form": "fields", "fields": {key: [...]},
        "units": ...}`` for a dict of several such numbers by key, of which ``value`` is the main one; ``{"form":
        "arrays"}``, by default, for what is given as it is. Where names are not known, they are ``"0"``, ``"1"``, ...
        """
        return {"form": "arrays"}

    # ------------------------------------------------------------------------------------ what of the outputs is shared
    @property
    def head_size(self) -> int:
        """H, the number of outputs (B, H, *) that the task's head gives; K by default."""
        return self.output_size

    def complete(self, output: Tensor) -> Tensor:
        """Map what the head gives (B, H, *) to outputs (B, K, *), by parameters of the task that all rows share.

        As it is by default. The parameters are in the task's optimizer group, and in checkpoints.
        """
        return output

    def output_sigmas(self) -> Tensor | None:
        """Return the noise level (D,) of each output, in the target's units, if the task learns them; no host sync."""
        return None

    # ------------------------------------------------------------------- the trivial predictor, to compare a loss with
    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the constant (K,) that predicts a sample of the training labels with the least loss.

        In units of the task's own choice, which :meth:`trivial_output` maps to outputs. By default they are outputs,
        found numerically, whatever the loss is.

        Args:
            rows: (N, *) of :meth:`picked`, each with a label in it.
            weight: (N,) sample weights above 0.
        """
        start = torch.zeros(self.output_size, dtype=state_dtype(), device=rows.device)
        return self.best_output(rows, weight, start, torch.ones_like(start))

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map what :meth:`trivial_prediction` found to the outputs (K,) that the loss takes."""
        return prediction

    def typical_output(self, prediction: Tensor) -> Tensor:
        """Map it to the outputs (K,) that metrics see: without weights of classes, which only the loss knows."""
        return self.trivial_output(prediction)

    def best_output(self, rows: Tensor, weight: Tensor, start: Tensor, scale: Tensor) -> Tensor:
        """Search constant outputs (K,) with the least loss over rows (N, *) with weights (N,)."""
        weight = weight.to(start.dtype)
        return best_output(
            lambda output: self.rows_loss(output.expand(len(rows), -1), rows, weight) / weight.sum(), start, scale
        )

    def picked(self, target: Tensor) -> Tensor:
        """Return the rows (N, *) of a target (B, *) that may get into the sample, N a multiple of B; no host sync."""
        return target

    def has_label(self, rows: Tensor) -> Tensor:
        """Map rows (N, *) to (N,) bool, whether a label is in it; no host sync."""
        return self.labelled(rows).reshape(len(rows), -1).any(1)

    def rows_loss(self, output: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Return () the sum of the losses of outputs (N, K) over rows (N, *) with weights (N,)."""
        sides = rows.shape[1:] if rows.dim() == 3 else rows.shape[2:]
        shaped = output.reshape(*output.shape, *(1 for _ in sides)).expand(*output.shape, *sides)
        return self.loss(shaped, rows, weight)

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit_target` has nothing left to do."""
        return True

    @property
    def target_scale(self) -> float | None:
        """Original units per unit of the loss; converts sigma (1 unless the task standardises its target).

        None where no one number does, so that sigma is not given in original units.
        """
        return 1.0


def _factories(metrics: Any) -> dict[str, Callable[[], Metric]]:
    """Return what makes each metric; one that has been made is copied, afresh.

    Raises:
        ConfigurationError: for anything else.
    """
    found: dict[str, Callable[[], Metric]] = {}
    by_name = isinstance(metrics, Mapping | MetricCollection)
    for name, made in metrics.items() if by_name else ():
        known_arguments(made)
        if isinstance(made, Metric):
            found[name] = partial(_copy, made)
        elif callable(made) and not isinstance(made, nn.Module):
            found[name] = made
    if not by_name or len(found) < len(metrics):
        raise ConfigurationError(
            f"`metrics`: expected a dict {{name: metric class}}, found {metrics!r:.100}. Write `metrics={{'mse': "
            "MeanSquaredError}`, with a `functools.partial` for its arguments."
        )
    return found


def _made(name: str, make: Callable[[], Metric]) -> Metric:
    """Make a metric.

    Raises:
        ConfigurationError: if it cannot be made so, or something else is.
    """
    try:
        made: object = make()
    except (TypeError, ValueError) as error:
        maker = made_by(make)
        raise ConfigurationError(
            f"`metrics`, {name!r}: expected a metric that can be made without further arguments, found "
            f"{getattr(maker, '__name__', maker)}: {error}. Give them in a `functools.partial`, in YAML as `init_args`."
        ) from error
    if not isinstance(made, Metric):
        raise ConfigurationError(
            f"`metrics`, {name!r}: expected a metric of torchmetrics, found one of type {type(made).__name__}."
        )
    return made


def _copy(metric: Metric) -> Metric:
    copied = metric.clone()
    copied.reset()
    return copied


def feed(metrics: MetricCollection, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
    """Update metrics with predictions and targets of N elements, and their weights (N,) if they have some.

    Raises:
        ConfigurationError: for a metric that takes no weights, which would give another figure than is asked for.
    """
    if weight is None:
        metrics.update(prediction, target)
        return
    if blind := [name for name, m in metrics.items() if "weight" not in inspect.signature(m.update).parameters]:
        raise ConfigurationError(
            f"The data has sample weights: expected metrics whose `update` has an argument `weight`, found {blind} "
            "without. Choose others in the task's `metrics`, such as those of `mtl_lightning.tasks.weighted`, or leave "
            "`weights` out of the batches of validation and test."
        )
    metrics.update(prediction, target, weight=weight)


def per_element(weight: Tensor, mask: Tensor) -> Tensor:
    """Spread sample weights (B,) over a mask (B, *)."""
    if weight.shape != mask.shape[:1]:
        raise TargetError(f"Expected sample weights of shape {tuple(mask.shape[:1])}, found {tuple(weight.shape)}.")
    return weight.reshape(-1, *(1,) * (mask.dim() - 1)).expand(mask.shape)
