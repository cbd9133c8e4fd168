"""``MultiTaskModule``: one network, many tasks, one optimizer per task group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from typing_extensions import Self

from mtl_lightning.architectures.base import (
    Architecture,
    ArchitectureArgument,
    HeadFactory,
    Linear,
    build_architecture,
)
from mtl_lightning.balancing.base import Balancer, BalancerArgument, build_balancer
from mtl_lightning.core import checkpoint as plain
from mtl_lightning.core import evaluation, record, step
from mtl_lightning.core.batches import LabelWatch, first_batch, micro_batches
from mtl_lightning.core.gradient import at_least_float32
from mtl_lightning.core.graph import Edge, TaskGraph, check_task_names, head_sizes, known_name, run_heads
from mtl_lightning.core.groups import (
    BALANCER,
    DEFAULT,
    assign_groups,
    build_optimizers,
    find_roles,
    sparse_parameters,
)
from mtl_lightning.core.optimizers import CompositeOptimizer, CompositeScheduler, Schedule
from mtl_lightning.core.trainer_arguments import TrainerArguments, replacements
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, ConfigurationError, Described, InputSpec, spec_of

_NONFINITE = ("raise", "skip", "ignore")


class MultiTaskModule(Described, LightningModule):
    """A shared representation, a head per task, one objective, and one optimizer per group of parameters.

    Args:
        tasks: the tasks by name, as a datamodule declares them.
        architecture: how tasks share: a class such as ``SharedBottom``, a ``functools.partial`` of one, or any
            ``nn.Module`` (a tensor out is features for all tasks; a dict out is the tasks' final outputs).
        input_spec: sizes of the inputs; without one they are read off the first batch.
        balancer: makes the balancer from the number of tasks; the plain sum by default.
        heads: makes a task's head from (feature size without B, K); ``default`` for tasks without an entry, else
            a linear map.
        reads: ``{task: [tasks whose estimates it reads]}``; see :class:`~mtl_lightning.core.graph.TaskGraph`.
        groups: ``{group: [patterns]}`` of parameter names, or ``task:<name>``; by default one group for what is
            shared, one per task, and one for the balancer.
        optimizers: makes each group's optimizer; ``default`` for groups without an entry. Without this argument:
            Adam at 1e-3, and at 1e-2 for the balancer, whose log-variances have far to go.
        schedulers: each group's learning-rate scheduler, or a :class:`Schedule`; ``default`` likewise.
        gradient_clip: ``{group: largest gradient norm}``.
        allow_unlabelled: tasks that may go without a label for a whole epoch.
        on_nonfinite: what to do about an inf or nan gradient: ``raise``, ``skip`` the update, or ``ignore`` it,
            which saves a host sync.

    Raises:
        ConfigurationError: for unknown names, cycles, and parameters in no group or in two.
    """

    def __init__(
        self,
        tasks: dict[str, Task],
        architecture: ArchitectureArgument,
        input_spec: InputSpec | None = None,
        balancer: BalancerArgument = Balancer,
        heads: dict[str, HeadFactory] | None = None,
        reads: dict[str, list[str] | dict[str, Edge]] | None = None,
        groups: dict[str, list[str]] | None = None,
        optimizers: dict[str, OptimizerCallable] | None = None,
        schedulers: dict[str, Schedule | LRSchedulerCallable] | None = None,
        gradient_clip: dict[str, float] | None = None,
        allow_unlabelled: list[str] | None = None,
        on_nonfinite: Literal["raise", "skip", "ignore"] = "raise",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.by_code = plain.describe_constructor(self)
        self.save_hyperparameters(self.config, logger=False)  # core/record.py gives them to the loggers
        self.hparams.clear()  # the initial ones stay; in a checkpoint they would override the command line
        check_task_names(tasks)
        self.tasks = cast("Mapping[str, Task]", nn.ModuleDict(dict(tasks)))
        self.graph = TaskGraph(list(tasks), reads)
        for name in heads or {}:
            known_name(name, [*tasks, DEFAULT], "heads")
        for name in allow_unlabelled or []:
            known_name(name, tasks, "allow_unlabelled")
        if on_nonfinite not in _NONFINITE:
            raise ConfigurationError(f"`on_nonfinite`: expected one of {_NONFINITE}, found {on_nonfinite!r}.")
        self.input_spec = input_spec
        self.on_nonfinite, self.allow_unlabelled = on_nonfinite, list(allow_unlabelled or [])
        self.gradient_clip = dict(gradient_clip or {})
        self._architecture, self._heads, self._patterns = architecture, dict(heads or {}), groups
        self._optimizers = optimizers or {DEFAULT: partial(Adam, lr=1e-3), BALANCER: partial(Adam, lr=1e-2)}
        self._schedulers = dict(schedulers or {})
        self.balancer = build_balancer(balancer, len(tasks))
        self.balancer.bind({name: task.likelihood for name, task in self.tasks.items()})
        self.evaluations: dict[str, list[evaluation.Evaluation]] = {"val": [], "test": []}  # no weights: not submodules
        self.window: list[Batch] = []
        self.labels = LabelWatch(self.tasks)
        self.skipped = 0
        self.pending_row: record.Row | None = None
        self.last_losses = torch.zeros(len(tasks))
        self._rate_factor, self._rates_found = 1.0, False
        self._interrupted: Mapping[str, Any] = {}  # our part of the checkpoint that a run is resumed from
        self._metrics_before: Mapping[str, Any] = {}
        if input_spec is not None or isinstance(architecture, Architecture) or hasattr(architecture, "out_features"):
            self._build()

    # ---------------------------------------------------------------------------------------------------- construction
    def _build(self) -> None:
        """Make the architecture and the heads, which may need the input spec, then the roles and the groups."""
        names = list(self.tasks)
        self.architecture: Architecture = build_architecture(self._architecture, self.input_spec, names)
        del self._architecture
        if self.architecture.final:
            if any(self.graph.edges.values()) or self._heads:
                raise ConfigurationError(
                    "The architecture returns the tasks' final outputs, so that there are no heads: expected no "
                    "`heads` and no `reads`. Let the network return features, or wire the tasks inside it."
                )
            heads: dict[str, nn.Module] = {}
        else:
            sizes = head_sizes(self.graph, self.architecture.feature_sizes, self.tasks)
            default: HeadFactory = self._heads.get(DEFAULT, Linear)
            heads = {name: self._heads.get(name, default)(sizes[name], self.tasks[name].output_size) for name in names}
        self.heads = nn.ModuleDict(heads)
        if type(self).__init__ is MultiTaskModule.__init__:  # else the subclass may add layers after this constructor
            self._find_groups()

    def _find_groups(self) -> None:
        """Give every parameter its role and its group."""
        self.roles = find_roles(self, list(self.tasks))
        self.groups = assign_groups(self.roles, self._patterns)
        for name in self.gradient_clip:
            known_name(name, dict.fromkeys([*self.groups, BALANCER]), "gradient_clip")

    def configure_model(self) -> None:
        """Build what waited for the first batch's sizes."""
        if not hasattr(self, "heads"):
            self.input_spec = spec_of(first_batch(self.trainer)["inputs"])
            self._build()

    def setup(self, stage: str) -> None:
        """Check the tasks against the datamodule's, and start with fresh metrics."""
        declared: Mapping[str, Task] | None = getattr(getattr(self.trainer, "datamodule", None), "tasks", None)
        for name in self.tasks if declared is not None else ():
            known_name(name, declared or (), "tasks, which the datamodule declares")
        for evaluations in self.evaluations.values():
            del evaluations[:]

    @property
    def scaler(self) -> Any:
        """The gradient scaler of 16-mixed precision, or None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def loss_scale(self) -> Tensor | float:
        """What the gradient scaler multiplies losses by; 1 without one."""
        return 1.0 if self.scaler is None else cast("Tensor", self.scaler.scale(torch.ones((), device=self.device)))

    @property
    def world_size(self) -> int:
        """The number of processes; 1 without a trainer."""
        return 1 if self._trainer is None else self._trainer.world_size

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size == 1:
            return tensor
        return cast("Tensor", self.trainer.strategy.reduce(tensor.clone(), reduce_op="sum"))

    def no_gradient_sync(self) -> AbstractContextManager[Any]:
        """Keep processes from summing gradients in the middle of a window."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return cast("AbstractContextManager[Any]", block())

    @property
    def group_optimizers(self) -> dict[str, Optimizer]:
        """Each group's optimizer, by the group's name."""
        return cast("CompositeOptimizer", self.optimizers(use_pl_optimizer=False)).optimizers

    def composite_optimizer(self) -> Any:
        """Return the optimizer that steps all groups and counts as one global step."""
        return self.optimizers()

    @property
    def lr(self) -> float:
        """The default group's learning rate, for a learning-rate finder.

        What the finder sets is a factor on the rates of all groups: these keep their ratios.
        """
        return self._default_rate * self._rate_factor

    @lr.setter
    def lr(self, found: float) -> None:
        self._rate_factor, self._rates_found = found / self._default_rate, True

    @property
    def _default_rate(self) -> float:
        rates = build_optimizers(self.groups, self._optimizers, self.roles, set()).configured
        by_default = [rate for name, rate in rates.items() if name not in self._optimizers]
        return (by_default or list(rates.values()))[0]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make one optimizer and scheduler per group, behind one of each; parameters may have been added till now."""
        self._find_groups()
        optimizer = build_optimizers(self.groups, self._optimizers, self.roles, sparse_parameters(self))
        if self._rate_factor != 1.0:
            optimizer.set_rates(self._rate_factor)
        self._rates_found = False
        scheduler = CompositeScheduler(optimizer, self._schedulers, DEFAULT)
        if not scheduler.schedulers:
            return optimizer
        return cast(
            "OptimizerLRScheduler", {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "name": "lr"}}
        )

    # --------------------------------------------------------------------------------------------------------- forward
    def run(self, inputs: Any, tasks: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Return outputs (B, K, *) of ``tasks`` and of those they read, and the auxiliary losses ()."""
        wanted = self.graph.needed(tasks)
        features = self.architecture(inputs, wanted)
        if self.architecture.final:
            return dict(features.per_task), features.aux
        heads = cast("Mapping[str, nn.Module]", self.heads)
        return run_heads(self.graph, wanted, features.per_task, heads, self.tasks), features.aux

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Map inputs to the outputs (B, K, *) of every task."""
        return self.run(inputs, list(self.tasks))[0]

    def sigmas(self, original_units: bool = False) -> dict[str, float]:
        """Return the learned noise scale of each task; empty if the balancer learns none.

        Args:
            original_units: in the target's units instead of the loss's, which a standardised target makes differ.
        """
        sigmas = self.balancer.sigmas()
        if sigmas is None:
            return {}
        scales = [task.target_scale if original_units else 1.0 for task in self.tasks.values()]
        return {name: s * scale for name, s, scale in zip(self.tasks, sigmas.tolist(), scales, strict=True)}

    # -------------------------------------------------------------------------------------------------------- training
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Add a batch to the window and, when it is complete, make one update from it."""
        batches = micro_batches(batch, self.tasks)
        self.labels.see(batches, batch_idx)
        self.window += batches
        last = self.trainer.is_last_batch
        objective = None
        if last or (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            window, self.window = self.window, []
            objective = step.update(self, window)
        if last:
            self.step_schedulers("epoch", self.current_epoch + 1)
        return None if objective is None else {"loss": objective}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record, check and clip the unscaled gradients."""
        step.finish_gradients(self)
        clip = self.trainer_arguments.gradient_clip_val
        if clip is not None:
            self.clip_gradients(optimizer, clip, self.trainer_arguments.gradient_clip_algorithm)

    def step_schedulers(self, interval: str, index: int) -> None:
        """Step the schedulers that are due; plateau ones by epoch wait for the validation."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            if isinstance(scheduler, CompositeScheduler):
                scheduler.step(interval, index, self.trainer.callback_metrics)
            elif config.interval == interval and index % config.frequency == 0 and not config.reduce_on_plateau:
                self.lr_scheduler_step(scheduler, None)  # a callback's: the learning-rate finder's, SWA's

    def configure_callbacks(self) -> list[Callback]:
        """Take over what the trainer refuses under manual optimization; the last hook before its check."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
        here = [callback for callback in callbacks if isinstance(callback, TrainerArguments)]
        self.trainer_arguments = here[0] if here else TrainerArguments()
        self.trainer_arguments.take(self.trainer)
        return [*replacements(callbacks), *([] if here else [self.trainer_arguments])]

    def on_fit_start(self) -> None:
        """Refuse tasks whose statistics were never fitted, and write the charts' layout."""
        if unfitted := [name for name, task in self.tasks.items() if not task.fitted]:
            raise ConfigurationError(
                f"The tasks {unfitted} standardise their targets but were never fitted: call "
                "`task.fit_target(targets)` with the training split's targets (a MultiTaskDataModule does it itself)."
            )
        record.start(self)

    def on_train_start(self) -> None:
        """Put back the window and the random state of an interrupted run, after the loaders were set up."""
        self.window = [self.trainer.strategy.batch_to_device(batch) for batch in self._interrupted.get("window", [])]
        if self._rates_found:
            self._use_found_rates()
        if "rng" in self._interrupted:
            plain.restore_random_state(self._interrupted["rng"])
        self._interrupted = {}

    def _use_found_rates(self) -> None:
        """Give the groups their ratios back: a learning-rate finder wrote one rate into all of them."""
        self._rates_found = False
        optimizer = cast("CompositeOptimizer", self.optimizers(use_pl_optimizer=False))
        optimizer.set_rates(self._rate_factor)
        scheduler: Any = self.lr_schedulers()
        if isinstance(scheduler, CompositeScheduler):
            scheduler.schedulers = CompositeScheduler(optimizer, self._schedulers, DEFAULT).schedulers

    def on_train_epoch_start(self) -> None:
        """Remember the metrics of earlier epochs, which no plateau scheduler is to take for new ones."""
        self._metrics_before = dict(self.trainer.callback_metrics)

    def on_train_epoch_end(self) -> None:
        """Step plateau schedulers of epochs without a validation; look for tasks that nobody labelled."""
        self._step_plateaus()
        self.labels.check_epoch(self.trainer, self.allow_unlabelled)

    def on_fit_end(self) -> None:
        """Write the hyperparameters with the final metrics."""
        record.finish(self)

    # ------------------------------------------------------------------------------------ validation, test, prediction
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation metrics."""
        evaluation.step(self, "val", batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, ``val/loss/<task>``, ``val/<metric>/<task>``, then step plateau schedulers."""
        evaluation.finish(self, "val", self.trainer.val_dataloaders)
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit" and self.trainer.is_last_batch:
            self._step_plateaus()

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test metrics."""
        evaluation.step(self, "test", batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss``, ``test/loss/<task>`` and ``test/<metric>/<task>``."""
        evaluation.finish(self, "test", self.trainer.test_dataloaders)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return each task's prediction, in original units; a batch may hold inputs only."""
        inputs = batch["inputs"] if isinstance(batch, Mapping) and "inputs" in batch else batch
        outputs = self(inputs)
        return {name: task.predict(at_least_float32(outputs[name])) for name, task in self.tasks.items()}

    def _step_plateaus(self) -> None:
        scheduler = cast("Any", self.lr_schedulers())
        if isinstance(scheduler, CompositeScheduler):
            scheduler.step_plateaus(self.trainer, self._metrics_before)

    # ------------------------------------------------------------------------------------------------------ checkpoint
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this module, as plain data, and the random state."""
        plain.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the start of training needs, and make room for weights in float64."""
        if self.trainer.precision == "64-true":
            self.double()  # the trainer loads them before it does so, and would round them
        if self.trainer.state.fn == "fit":
            self._interrupted = checkpoint.get(plain.KEY, {})
            self.skipped = self._interrupted.get("skipped", 0)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Rebuild a trained module from its checkpoint alone, without the YAML or the data.

        Args:
            checkpoint_path: the checkpoint's path.
            map_location: where to put the tensors, as in ``torch.load``.
            hparams_file: refused; a checkpoint holds its own configuration.
            strict: refuse missing and unexpected weights (the default).
            weights_only: refused if false; these checkpoints are plain data.
            kwargs: constructor arguments to change; those that were instances or lambdas must be passed again.
        """
        if hparams_file is not None or weights_only is False:
            raise ConfigurationError(
                "Checkpoints hold their own configuration as plain data: expected no "
                "`hparams_file` and no `weights_only=False`."
            )
        return plain.load(cls, checkpoint_path, kwargs, map_location, strict is not False)
