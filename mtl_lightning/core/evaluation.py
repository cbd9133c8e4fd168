"""Validation and test: one loss and one set of metrics per task over a whole split, labelled entries only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import check_targets, micro_batches, targets_of, weight_of
from mtl_lightning.core.update.figures import by_tag, check_shape, write_matrices
from mtl_lightning.nested import leaves
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, ConfigurationError, MtlLightningWarning

_OURS = ("loss", "labels")  # what is logged for every task beside its metrics


class MeanLosses(Metric):
    """Each task's loss over everything seen, and that of its trivial predictor: the sums (T,) and the labelled counts
    (T,), added over processes.
    """

    total: Tensor
    trivial: Tensor
    count: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        for name in ("total", "trivial", "count"):
            self.add_state(name, torch.zeros(num_tasks), dist_reduce_fx="sum")

    def update(self, index: int, total: Tensor, trivial: Tensor | float, count: Tensor) -> None:
        """Add a batch's summed loss, that of the trivial predictor, and count of one task."""
        self.total[index] += total
        self.trivial[index] += trivial
        self.count[index] += count

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean losses (T,) and the trivial predictors', nan where nothing was labelled, and counts (T,)."""
        return self.total / self.count, self.trivial / self.count, self.count


class Evaluation(nn.Module):
    """The metrics of one stage and one dataloader.

    Args:
        tasks: the tasks by name.
        stage: ``"val"`` or ``"test"``.

    Attributes:
        started: whether a batch was seen.
        seen: the tasks that had a target.
        compared: after :meth:`compute`, the losses over the trivial predictors' (n,), of n tasks.
        normalised: the same () by task, of the tasks that have a trivial predictor with a loss above 0.
    """

    def __init__(self, tasks: Mapping[str, Task], stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.started = False
        self.trivial: dict[str, Tensor] = {}
        self.compared = torch.zeros(0)
        self.normalised: dict[str, Tensor] = {}
        self.seen: set[str] = set()
        self.losses = MeanLosses(len(tasks))
        self.names = {name: task.spec.names for name, task in tasks.items()}
        self.metrics = nn.ModuleDict({name: _metrics_of(name, task, stage) for name, task in tasks.items()})

    def update(self, network: Network, batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        """Add a batch: its outputs (B, K, *) for every task that it has a target of."""
        tasks = network.tasks
        if not self.started:
            self.trivial = trivial_outputs(network, self.losses.total.device)
        self.started = True
        targets = targets_of(batch)
        self.seen.update(targets)
        for index, (name, task) in enumerate(tasks.items()):
            if name in targets:
                output = at_least_float32(outputs[name])
                target, weight = targets[name], weight_of(batch, name)
                trivial = self._trivial_loss(name, task, output, target, weight)
                self.losses.update(index, task.loss(output, target, weight), trivial, task.count(target, weight))
                shown = network.calibrated(name, output) if self.stage == "test" else output
                update_metrics(name, task, cast("MetricCollection", self.metrics[name]), shown, target, weight)

    def _trivial_loss(
        self, name: str, task: Task, output: Tensor, target: Tensor, weight: Tensor | None
    ) -> Tensor | float:
        """Return the summed loss () of the trivial predictor in place of outputs (B, K, *); 0 if there is none."""
        if name not in self.trivial:
            return 0.0
        return task.loss(spread(self.trivial[name], output), target, weight)

    def compute(self, prefix: str, balancer: Balancer) -> dict[str, Tensor]:
        """Return ``<prefix>/loss`` and ``<prefix>/<what>/<task>`` of each task that has a label; then start afresh.

        What: its ``loss``, its ``labels`` (the number, or weight, of labelled elements), and its metrics: of
        those that are vectors ``<prefix>/<metric>/<task>/<class>``, and matrices (R, C) as they are. If weights of
        the losses are learned, ``<prefix>/objective`` too: what is trained on, with the weights as they are.
        """
        vectors = self.losses.compute()
        means, trivial, counts = (vector.reshape(-1) for vector in vectors)  # torchmetrics squeezes T = 1
        values: dict[str, Tensor] = {}
        labelled = counts > 0
        values[f"{prefix}/loss"] = means[labelled].sum()
        if balancer.owned():
            values[f"{prefix}/objective"] = balancer.objective(torch.where(labelled, means, 0.0), labelled)
        self.compared = compared(means[labelled], trivial[labelled]) if self.trivial else means[:0]
        bad = (labelled & ~(trivial > 0)).tolist() if self.trivial else []
        useful = zip(self.metrics, means / trivial, (labelled & (trivial > 0)).tolist(), strict=True)
        self.normalised = {name: ratio for name, ratio, known in useful if known and self.trivial}
        if left_out := [name for name, missing in zip(self.metrics, bad, strict=False) if missing]:
            rank_zero_warn(
                f"`{prefix}/loss_normalised` leaves out {left_out}: expected the loss of a constant prediction to be "
                "above 0, found none, or one of a loss that may be negative, with which no loss can be compared.",
                category=MtlLightningWarning,
            )
        for index, (name, metrics) in enumerate(self.metrics.items()):
            if labelled[index]:
                values[f"{prefix}/loss/{name}"] = means[index]
                values[f"{prefix}/labels/{name}"] = counts[index]
                computed = cast("MetricCollection", metrics).compute()
                known = self.names.get(name, ())
                values |= {
                    t: v for key, value in computed.items() for t, v in by_tag(f"{prefix}/{key}/{name}", value, known)
                }
        self.started, self.seen = False, set()
        self.losses.reset()
        for metrics in self.metrics.values():
            cast("MetricCollection", metrics).reset()
        return values


def trivial_outputs(network: Network, device: torch.device) -> dict[str, Tensor]:
    """Return the constant outputs (K,) of each task's trivial predictor; empty before any is fitted.

    Those of a task that had no label until then are 0.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    found = {}
    predictions = network.trivial_predictions
    for name, task in network.tasks.items() if predictions is not None else ():
        found[name] = torch.zeros(task.output_size, device=device)
        prediction: Any = (predictions or {}).get(name)
        if isinstance(prediction, Tensor) and prediction.shape == (task.output_size,):  # it may be from a checkpoint
            found[name] = task.trivial_output(prediction.to(device, dtype))
    return found


def spread(constant: Tensor, output: Tensor) -> Tensor:
    """Return a constant (K,) in the shape and the dtype of outputs (B, K, *)."""
    return torch.zeros_like(output) + constant.to(output.dtype).reshape(-1, *(1 for _ in output.shape[2:]))


def compared(losses: Tensor, trivial: Tensor) -> Tensor:
    """Return losses (n,) over those of the trivial predictors (n,), where these are above 0; if nowhere, the losses."""
    useful = trivial > 0
    return (losses / trivial)[useful] if bool(useful.any()) else losses


def _metrics_of(name: str, task: Task, stage: str) -> MetricCollection:
    """Return a task's metrics; refuse those whose tags would be ours."""
    metrics = task.metrics(stage)
    if taken := [metric for metric in metrics if metric in _OURS]:
        raise ConfigurationError(
            f"Task {name!r}: expected metrics with names of their own, found {taken}: `{stage}/{taken[0]}/{name}` is "
            "what this library logs for every task. Give the metric another name in the task's `metrics`."
        )
    return metrics


def update_metrics(
    name: str, task: Task, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None
) -> None:
    """Feed a batch to a task's metrics, with its sample weights (B,) if it has some.

    Raises:
        ConfigurationError: if there are weights and the task, or one of its metrics, takes none.
    """
    if weight is None:
        task.update(metrics, output, target)
        return
    if "weight" not in inspect.signature(task.update).parameters:
        raise ConfigurationError(
            f"Task {name!r}: the data has sample weights: expected an argument `weight` of "
            f"{type(task).__name__}.update, found none. Add it, or leave `weights` out of the batches of validation "
            "and test."
        )
    try:
        task.update(metrics, output, target, weight)
    except ConfigurationError as error:
        raise ConfigurationError(f"Task {name!r}: {error}") from None


class DerivedMetrics(Callback):
    """A callback that adds to the metrics of a validation or test before they are logged, so that whatever monitors
    metrics finds its own among them: checkpoints, early stopping, plateau schedulers.
    """

    def derive(self, module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return further metrics () by tag, the same on all processes.

        Args:
            module: what was evaluated.
            stage: ``"val"`` or ``"test"``.
            values: what is about to be logged, by tag.
        """
        raise NotImplementedError


def with_derived(module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics () that are about to be logged, if there are any, with those that callbacks add to them.

    Matrices are shown now, and left out.
    """
    found = {tag: value for tag, value in values.items() if not value.dim()}
    write_matrices({tag: value for tag, value in values.items() if value.dim()}, module.trainer)
    for callback in module.trainer.callbacks if found else []:  # type: ignore[attr-defined]  # set outside its __init__
        if isinstance(callback, DerivedMetrics):
            found |= callback.derive(module, stage, found)
    return found


@contextmanager
def wide_sums() -> Iterator[None]:
    """Make new tensors in float32 or better: under 16-true and bf16-true a count would stop growing at 2048 or 256."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(before, torch.float32))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Evaluations:
    """The evaluations under way: of each stage, one per dataloader.

    Args:
        network: what is evaluated.
        runtime: where it runs.
        kind: what evaluates a dataloader.

    Attributes:
        stages: by stage (``"val"``, ``"test"``), the evaluation of each dataloader.
        normalised: by stage, what the last one of it found of each task: its loss over the trivial predictor's (); in
            several dataloaders the largest.
    """

    def __init__(self, network: Network, runtime: Runtime, kind: type[Evaluation] = Evaluation) -> None:
        self._network, self._runtime, self._kind = network, runtime, kind
        self.stages: dict[str, list[Evaluation]] = {"val": [], "test": []}
        self.normalised: dict[str, dict[str, Tensor]] = {}

    def start_afresh(self) -> None:
        """Forget everything; refuse metrics that cannot be logged, before the first batch."""
        for stage, evaluations in self.stages.items():
            evaluations.clear()
            checked = set()  # a hundred tasks have few kinds of metrics
            for name, task in self._network.tasks.items():
                if not task.fitted:  # a checkpoint that is yet to be loaded knows what its metrics are of
                    continue
                for key, metric in _metrics_of(name, task, stage).items():
                    if type(metric) not in checked:
                        check_shape(f"{stage}/{key}/{name}", metric)
                    checked.add(type(metric))

    def update(self, stage: str, batch: Any, dataloader_idx: int) -> None:
        """Add a batch of one dataloader, once its targets are checked: metrics read them on the host too."""
        network = self._network
        for item in micro_batches(batch, network.tasks):
            check_targets(item, network.tasks)
            outputs, _ = network.run(item["inputs"], list(targets_of(item)))
            with self._runtime.full_precision(), wide_sums():
                self.add(stage, item, outputs, dataloader_idx)
                self._runtime.show(stage, item, outputs, dataloader_idx)

    def add(self, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int) -> None:
        """Add a checked micro-batch of one dataloader with its outputs (B, K, *)."""
        evaluations = self.stages[stage]
        while len(evaluations) <= dataloader_idx:
            evaluations.append(self._kind(self._network.tasks, stage).to(self._runtime.device))
        evaluations[dataloader_idx].update(self._network, batch, outputs)

    def compute(self, stage: str, loaders: Any) -> dict[str, Tensor]:
        """Return what the stage's metrics say, by tag, and start afresh.

        Several dataloaders are told apart by their name or number, unless each task is in one of them only: then its
        tags are the usual ones, and ``<stage>/loss`` is the sum over all tasks. ``<stage>/loss_normalised`` is there in
        any case: the mean, over the tasks and dataloaders, of the losses over those of the trivial predictors. A task
        whose trivial predictor has a loss of 0, or below, is left out of it.

        Args:
            stage: ``"val"`` or ``"test"``.
            loaders: the stage's dataloaders, for their names.
        """
        evaluations = self.stages[stage]  # one alone for loaders that give joint batches, {name: batch}
        names = ["/".join(map(str, place)) for place, _ in leaves(loaders)]
        names = names if len(names) >= len(evaluations) else [str(index) for index in range(len(evaluations))]
        apart = len(evaluations) == 1 or self._tasks_are_apart(evaluations)
        values: dict[str, Tensor] = {}
        ratios: list[Tensor] = []
        normalised = self.normalised[stage] = {}
        for index, evaluation in enumerate(evaluations):
            if evaluation.started:
                prefix = stage if apart else f"{stage}/{names[index]}"
                for tag, value in evaluation.compute(prefix, self._network.balancer).items():
                    values[tag] = values[tag] + value if tag in values else value  # the loss over several dataloaders
                ratios.append(evaluation.compared)
                for name, ratio in evaluation.normalised.items():
                    normalised[name] = torch.maximum(normalised.get(name, ratio), ratio)
                if len(evaluation.compared) and not apart:
                    values[f"{prefix}/loss_normalised"] = evaluation.compared.mean()
        if sum(map(len, ratios)):
            values[f"{stage}/loss_normalised"] = torch.cat(ratios).mean()
        return values

    def _tasks_are_apart(self, evaluations: Sequence[Evaluation]) -> bool:
        """Whether no task has had a target in two dataloaders, on any process."""
        found = torch.tensor([[name in evaluation.seen for name in self._network.tasks] for evaluation in evaluations])
        everywhere = self._runtime.all_sum(found.float().to(self._runtime.device)) > 0
        return bool((everywhere.sum(0) <= 1).all())
