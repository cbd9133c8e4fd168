"""``MultiTaskModule``: one network, many tasks, one optimizer per task group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from mtl_lightning.core import checkpoint as plain
from mtl_lightning.core import evaluation, partial_restore, record, resume, step
from mtl_lightning.core.batches import LabelWatch, first_batch, micro_batches
from mtl_lightning.core.compilation import compile_parts
from mtl_lightning.core.epoch_losses import EpochLosses
from mtl_lightning.core.graph import known_name
from mtl_lightning.core.jacobian import warn_if_nothing_is_shared
from mtl_lightning.core.losses import at_least_float32
from mtl_lightning.core.network import Network
from mtl_lightning.core.optimizers import CompositeOptimizer, CompositeScheduler
from mtl_lightning.core.process_group import destroy_at_exit
from mtl_lightning.core.sharding import refuse_unsupported, shard
from mtl_lightning.core.termination import Termination
from mtl_lightning.core.trainer_arguments import TrainerArguments, replacements
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, ConfigurationError, spec_of


class MultiTaskModule(Network):
    """A network with many tasks, trained with manual optimization: one gradient, then a step of every group.

    Its arguments are those of :class:`~mtl_lightning.core.network.Network`: ``tasks`` and ``architecture``, and
    ``input_spec``, ``balancer``, ``heads``, ``reads``, ``groups``, ``optimizers``, ``schedulers``, ``gradient_clip``,
    ``allow_unlabelled``, ``on_nonfinite`` and ``compile`` where the defaults do not fit.
    """

    def start_afresh(self) -> None:
        """Start without a window, without metrics, and with no task known to be labelled."""
        self.evaluations: dict[str, list[evaluation.Evaluation]] = {"val": [], "test": []}  # no weights: not submodules
        self.window: list[Batch] = []
        self.labels = LabelWatch(self.tasks)
        self.epoch_losses = EpochLosses()
        self.skipped = 0
        self.frozen_at_start: list[nn.Parameter] = []
        self.pending_row: record.Row | None = None
        self.pending_window: tuple[Sequence[Batch], Mapping[str, float]] = ([], {})  # and its labels, by task
        self._mask_of: tuple[tuple[bool, ...], torch.device | None] = ((), None)
        self._mask = torch.ones(0, dtype=torch.bool)
        self.last_losses = torch.zeros(len(self.tasks))
        self._interrupted: Mapping[str, Any] = {}  # our part of the checkpoint that a run is resumed from
        self._optimizers_before: partial_restore.SavedOptimizers | None = None
        self.metrics_before: Mapping[str, Any] = {}
        self.validated = False

    def configure_model(self) -> None:
        """Build what waited for the first batch's sizes; compile the parts if asked to; shard them if need be."""
        if not hasattr(self, "heads"):
            self.input_spec = spec_of(first_batch(self.trainer)["inputs"])
            self._build()
        compile_parts(self, self.compile_options)
        shard(self)

    def setup(self, stage: str) -> None:
        """Refuse what cannot be right: strategies, tasks that the datamodule lacks; start with fresh metrics."""
        if stage == "fit":
            refuse_unsupported(self)
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

    def present_mask(self, present: tuple[bool, ...]) -> Tensor:
        """Return which tasks are present as a tensor (T,) bool on the module's device, made once per answer."""
        if (present, self.device) != self._mask_of:
            self._mask_of, self._mask = (present, self.device), torch.tensor(present, device=self.device)
        return self._mask

    def no_gradient_sync(self) -> AbstractContextManager[Any]:
        """Keep processes from summing gradients in the middle of a window."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return cast("AbstractContextManager[Any]", block())

    # -------------------------------------------------------------------------------------------------------- training
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Add a batch to the window and, when it is complete, make one update from it."""
        self.validated = False
        batches = micro_batches(batch, self.tasks)
        self.labels.see(batches, batch_idx)
        self.window += batches
        last = self.trainer.is_last_batch
        objective = None
        if last or (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            window, self.window = self.window, []
            objective = step.update(self, window)
        if last:
            step.finish_epoch(self)
            self.step_schedulers("epoch", self.current_epoch + 1)
        return None if objective is None else {"loss": objective}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave, after a complete window and with a checkpoint, if a process was told to terminate."""
        if not self.window:
            self.termination.leave_if_told(self.trainer)

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
        destroy_at_exit()  # a process group that the trainer makes next
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
        here = [callback for callback in callbacks if isinstance(callback, TrainerArguments)]
        self.trainer_arguments = here[0] if here else TrainerArguments()
        self.trainer_arguments.take(self.trainer)
        ending = [callback for callback in callbacks if isinstance(callback, Termination)]
        self.termination = ending[0] if ending else Termination()
        own = [callback for callback in (self.trainer_arguments, self.termination) if callback not in callbacks]
        return [*replacements(callbacks), *own]

    def on_fit_start(self) -> None:
        """Refuse tasks whose statistics were never fitted, and write the charts' layout."""
        if unfitted := [name for name, task in self.tasks.items() if not task.fitted]:
            raise ConfigurationError(
                f"The tasks {unfitted} standardise their targets but were never fitted: call "
                "`task.fit_target(targets)` with the training split's targets (a MultiTaskDataModule does it itself)."
            )
        if self.world_size > 1:
            self.balancer.share_seeds(self.trainer.strategy.broadcast)
        warn_if_nothing_is_shared(self)
        record.start(self)

    def on_train_start(self) -> None:
        """Put back this process's state of an interrupted run, after the loaders were set up."""
        self.window = []
        self.frozen_at_start = [p for p in self.parameters() if not p.requires_grad]  # which DDP, now made, leaves out
        if self._rates_found:
            self._use_found_rates()
        if self._interrupted:
            resume.restore(self, self._interrupted["processes"])
        elif self._optimizers_before is not None:
            partial_restore.restore_optimizers(self, self._optimizers_before)
        self._optimizers_before = None
        self._interrupted = {}

    def _use_found_rates(self) -> None:
        """Give the groups their ratios back: a learning-rate finder wrote one rate into all of them."""
        self._rates_found = False
        optimizer = cast("CompositeOptimizer", self.optimizers(use_pl_optimizer=False))
        optimizer.set_rates(self._rate_factor)
        scheduler: Any = self.lr_schedulers()
        if isinstance(scheduler, CompositeScheduler):
            scheduler.schedulers = CompositeScheduler(optimizer, self._schedulers).schedulers

    def on_train_epoch_start(self) -> None:
        """Remember the metrics of earlier epochs, which no plateau scheduler is to take for new ones."""
        self.metrics_before = dict(self.trainer.callback_metrics)

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
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            if self.trainer.is_last_batch:
                self._step_plateaus()
            self.validated = True

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do not wait for the end of a validation to leave: a resumed run begins it anew."""
        if self.world_size == 1 and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.termination.leave_if_told(self.trainer)

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
            scheduler.step_plateaus(self.trainer, self.metrics_before)

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
            due = self._interrupted.get("validation_is_due", False) and self.trainer.enable_validation
            resume.plan_validation(checkpoint["loops"], due)

    def restore_optimizers(self, checkpoint_path: str | Path) -> None:
        """Begin the next training with the optimizer state, in a checkpoint, of the parameters that stay.

        For fine-tuning: see :meth:`load_from_checkpoint`. Learning rates, schedulers and counters start anew.
        """
        self._optimizers_before = partial_restore.saved_optimizers(plain.read(checkpoint_path, "cpu"), plain.KEY)

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

        To fine-tune with a task more or less, another head or another balancer, pass what changes and
        ``strict=False``: weights that still fit by name and shape are loaded, all others are made anew. Optimizers
        then start afresh, unless :meth:`restore_optimizers` gives those weights their old optimizer state::

            module = MultiTaskModule.load_from_checkpoint(path, strict=False, tasks=more_tasks)
            module.restore_optimizers(path)
            Trainer(max_epochs=3).fit(module, data)

        Args:
            checkpoint_path: the checkpoint's path.
            map_location: where to put the tensors, as in ``torch.load``.
            hparams_file: refused; a checkpoint holds its own configuration.
            strict: refuse missing, unexpected and differently shaped weights (the default).
            weights_only: refused if false; these checkpoints are plain data.
            kwargs: constructor arguments to change; those that were instances or lambdas must be passed again.
        """
        if hparams_file is not None or weights_only is False:
            raise ConfigurationError(
                "Checkpoints hold their own configuration as plain data: expected no "
                "`hparams_file` and no `weights_only=False`."
            )
        return plain.load(cls, checkpoint_path, kwargs, map_location, strict is not False)
