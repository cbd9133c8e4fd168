"""``MultiTaskModule``: one network, many tasks, one optimizer per task group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import Self

from mtl_lightning import checkpoint_file
from mtl_lightning.architectures.base import ArchitectureArgument, HeadFactory
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.build import BalancerArgument
from mtl_lightning.checkpoint_file import KEY
from mtl_lightning.core import compat, optim
from mtl_lightning.core.checkpoint import RandomState, fine_tuning, format_1, resume
from mtl_lightning.core.checkpoint import checkpoint as saving
from mtl_lightning.core.compilation import CompileOptions, begin_step, checked_options, compile_parts
from mtl_lightning.core.evaluation import Evaluations, with_derived
from mtl_lightning.core.network import Edge, Named, Network
from mtl_lightning.core.optim import Schedule
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import refuse_unsupported, shard
from mtl_lightning.core.update import (
    Accumulation,
    HostCounts,
    Intake,
    LabelWatch,
    Updates,
    Window,
    micro_batches,
    record,
)
from mtl_lightning.core.update.gradients.parameters import check_shared
from mtl_lightning.describe import Described
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import InputSpec


class MultiTaskModule(Described, Network, compat.Exports, compat.Transfers, compat.HookNames):
    """A network with many tasks, trained with manual optimization: one gradient, then a step of every group.

    Args:
        tasks: the tasks by name, as a datamodule declares them.
        architecture: how tasks share: a class such as ``SharedBottom``, a ``functools.partial`` of one, or any
            ``nn.Module`` (a tensor out is features for all tasks; a dict out is the tasks' final outputs).
        input_spec: sizes of the inputs; without one they are read off the first batch.
        balancer: makes the balancer from the number of tasks; the plain sum by default.
        heads: makes a task's head from (feature size without B, K), or is one; ``default`` others', else linear maps.
        reads: ``{task: [tasks whose estimates it reads]}``; see :class:`~mtl_lightning.core.network.graph.TaskGraph`.
        groups: ``{group: [patterns]}`` of parameter names, or ``task:<name>``; by default one group for what is
            shared, one per task, and one for the balancer.
        optimizers: makes each group's optimizer, ``default`` the others'; else Adam at 1e-3, at 1e-2 for the balancer.
        schedulers: each group's learning-rate scheduler, or a :class:`Schedule`; ``default`` likewise.
        gradient_clip: ``{group: largest gradient norm}``; null, 0 or less is no clipping.
        allow_unlabelled: tasks that may go without a label for a whole epoch.
        on_nonfinite: about an inf or nan gradient: ``raise``, one update later, ``skip`` the update, or ``ignore``.
        compile: ``torch.compile`` the architecture and the heads: True, or its arguments (``{mode: max-autotune}``);
            see :mod:`~mtl_lightning.core.compilation`.
        fast_paths: whether what gives the same numbers may be computed in faster ways than the plain one.

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
        groups: dict[str, list[str] | str] | None = None,
        optimizers: dict[str, OptimizerCallable] | None = None,
        schedulers: dict[str, Schedule | optim.SchedulerFactory] | None = None,
        gradient_clip: dict[str, float | None] | None = None,
        allow_unlabelled: list[str] | None = None,
        on_nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        compile: CompileOptions = False,
        fast_paths: bool = True,
    ) -> None:
        super().__init__(tasks, architecture, input_spec, balancer, heads, reads, fast_paths)
        self.automatic_optimization = False
        self.config, self.by_code = saving.describe_constructor(self)
        self.save_hyperparameters(self.config, logger=False)  # record.py gives them to the loggers
        self.hparams.clear()  # the initial ones stay; in a checkpoint they would override the command line
        self.compile_options = checked_options(compile)
        self.plan = optim.OptimizerPlan(groups, optimizers, schedulers, gradient_clip)
        self.runtime = Runtime(self, compat.Direct(self))
        self.updates = Updates(self, self.runtime, self.plan, on_nonfinite)
        self.intake = Intake(self, self.runtime)
        self.host_counts = HostCounts(self.tasks, self.balancer.parts, self.fast_paths)
        self.accumulation = Accumulation(self.runtime, self)
        self.labels = LabelWatch(self.tasks, allow_unlabelled or [])
        self.evaluations = Evaluations(self, self.runtime)
        self.validations = compat.Validations(self.runtime)
        self._interrupted: Mapping[str, Any] = {}  # our part of the checkpoint that a run is resumed from
        self._optimizers_before: fine_tuning.SavedOptimizers | None = None
        if self.is_built and type(self).__init__ is MultiTaskModule.__init__:  # else a subclass may yet add layers
            self.plan.assign(self.roles)

    @property
    def resumable(self) -> resume.Parts:
        """The owners of what an interrupted run goes on with; the random state is put back last."""
        return {
            "accumulation": self.accumulation,
            "updates": self.updates,
            "labels": self.labels,
            "validations": self.validations,
            "random_state": RandomState(self.runtime),
        }

    def configure_model(self) -> None:
        """Build what waited for the first batch's sizes; compile the parts if asked to; shard them if need be."""
        if not self.is_built:
            compat.build_for_data(self, self.trainer, self.intake)
        compile_parts(self, self.compile_options)
        shard(self, self.trainer)

    def setup(self, stage: str) -> None:
        """Refuse what cannot be right: strategies, tasks that the datamodule lacks; start with fresh metrics."""
        self.runtime.start_afresh()
        if stage == "fit":
            refuse_unsupported(self, self.trainer)
            self.trained_on = self.trivial_predictions = self.calibration = None  # what comes next is trained on
        resume.accept_schema(self.trainer, self.trained_on)
        compat.check_declared(self.tasks, self.trainer)
        self.evaluations.start_afresh()
        self.intake.start_afresh()
        self.host_counts.start_afresh()
        self.look_for_hooks_again()

    def configure_callbacks(self) -> list[Callback]:
        """Take over what the trainer refuses under manual optimization; the last hook before its check."""
        compat.destroy_at_exit()  # a process group that the trainer makes next
        if self.fast_paths:
            compat.without_profile(self.trainer)
        self.trainer_arguments, self.termination, callbacks = compat.own_callbacks(self.trainer)
        return callbacks

    @property
    def groups(self) -> dict[str, Named]:
        """The parameters of each group, by full name."""
        return self.plan.groups

    @property
    def group_optimizers(self) -> dict[str, Optimizer]:
        """Each group's optimizer, by the group's name."""
        return self._composite.optimizers

    @property
    def _composite(self) -> optim.CompositeOptimizer:
        return optim.composite_of(self.optimizers(use_pl_optimizer=False))

    @property
    def _scheduler(self) -> optim.CompositeScheduler | None:
        found: Any = self.lr_schedulers()
        return found if isinstance(found, optim.CompositeScheduler) else None

    @property
    def lr(self) -> float:
        """The default group's rate, for a learning-rate finder; what that sets keeps the ratios of all groups."""
        return self.plan.rate

    @lr.setter
    def lr(self, found: float) -> None:
        self.plan.rate = found

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make one optimizer and scheduler per group, behind one of each; parameters may have been added till now."""
        self.find_roles()
        self.plan.assign(self.roles)
        optimizer, scheduler = self.plan.make(self, compat.length_of(self._trainer))
        config = {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "name": "lr"}}
        return cast("OptimizerLRScheduler", config if scheduler.schedulers else optimizer)

    def _step_schedulers(self, interval: str, index: int) -> None:
        trainer = self.trainer
        if configs := trainer.lr_scheduler_configs:
            optim.step_due(configs, interval, index, trainer.callback_metrics, self.lr_scheduler_step)

    def on_fit_start(self) -> None:
        """Refuse tasks whose statistics were never fitted, and write the charts' layout."""
        self.check_fitted()
        if self.runtime.world_size > 1:
            self.balancer.share_seeds(self.trainer.strategy.broadcast)
        check_shared(self, self.trainer.accumulate_grad_batches)
        self.plan.check_clipping(self, bool(self.trainer_arguments.gradient_clip_val))
        self.updates.warn_of_setup()
        record.start(self.trainer, saving.hyperparameters(self.hparams_initial, self.trainer))

    def on_train_start(self) -> None:
        """Put back this process's state of an interrupted run, after the loaders were set up."""
        self.accumulation.start_afresh()
        self.updates.start_fit()
        self.plan.use_found_rate(self._composite, self._scheduler)
        if self._interrupted:
            resume.restore(self.resumable, self._interrupted["processes"], self.runtime)
        elif self._optimizers_before is not None:
            fine_tuning.restore_optimizers(self, self._composite, self.groups, self._optimizers_before)
        self._interrupted, self._optimizers_before = {}, None

    def on_train_epoch_start(self) -> None:
        """Tell the metrics of earlier epochs from those to come."""
        self.validations.start_epoch()

    @compat.with_signature
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Add a batch to the window and, when it is complete, make one update from it."""
        begin_step(self.compile_options)
        self.validations.start_batch()
        if self.calibration is not None:
            self.calibration = None  # that of other weights
        counts = self.host_counts.take(batch)
        batches = micro_batches(self.intake.take(batch, "train"), self.tasks)
        self.labels.update(batches, batch_idx)
        last = self.trainer.is_last_batch
        complete = last or (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        window = self.accumulation.add(batches, complete, counts)
        objective = None
        if window is not None:
            counted = Window.counted(window[0], self.tasks, self.runtime, window[1], self.balancer.parts)
            objective = self._update(counted)
        if last:
            self.updates.finish_epoch()
            self._step_schedulers("epoch", self.current_epoch + 1)
        return None if objective is None else {"loss": objective}

    def _update(self, window: Window) -> Tensor | None:
        """Make one update, and return its objective (); None if no task has a label."""
        if not window.names:
            return None
        self.labels.labelled.update(window.names)
        objective = self.updates.make(window, cast("LightningOptimizer", self.optimizers()))
        self._step_schedulers("step", self.trainer.global_step)
        return objective

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record, check and clip the unscaled gradients."""
        clip, algorithm = self.trainer_arguments.gradient_clip_val, self.trainer_arguments.gradient_clip_algorithm
        self.updates.finish_gradients()
        if clip is not None and self.updates.finite.bad is not True:  # else there are no gradients any more
            self.clip_gradients(optimizer, clip, algorithm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave, after a complete window and with a checkpoint, if a process was told to terminate."""
        if not self.accumulation.batches:
            self.termination.stop_if_requested(self.trainer, self.runtime)

    def on_train_epoch_end(self) -> None:
        """Step plateau schedulers of epochs without a validation; look for tasks that nobody labelled."""
        self.updates.settle()
        self.validations.step_plateaus(self._scheduler)
        self.labels.check_epoch(self.runtime.went_through_all_data)

    def on_fit_end(self) -> None:
        """Write the hyperparameters with the best metrics; let go of what only updates need."""
        record.finish(self.trainer, saving.hyperparameters(self.hparams_initial, self.trainer), self.validations.best)
        self.updates.finish_fit()

    def on_validation_start(self) -> None:
        """Fix, in the first one of a fit, what ``val/loss_normalised`` compares with."""
        if self.validations.in_training:
            self.updates.settle()
            self.updates.label_sample.fit(self.accumulation.batches)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation metrics."""
        begin_step(self.compile_options)
        self.evaluations.update("val", self.intake.take(batch, "val", dataloader_idx), dataloader_idx)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do not wait for the end of a validation to leave: a resumed run begins it anew."""
        if self.runtime.world_size == 1 and self.validations.in_training:
            self.termination.stop_if_requested(self.trainer, self.runtime)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, ``val/loss/<task>``, ``val/<metric>/<task>``, then step plateau schedulers."""
        self._log_evaluation("val", self.trainer.val_dataloaders)
        if self.validations.in_training:
            self.validations.finish(self._scheduler)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test metrics."""
        begin_step(self.compile_options)
        self.evaluations.update("test", self.intake.take(batch, "test", dataloader_idx), dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss``, ``test/loss/<task>`` and ``test/<metric>/<task>``."""
        self._log_evaluation("test", self.trainer.test_dataloaders)

    def _log_evaluation(self, stage: str, loaders: Any) -> None:
        values = self.evaluations.compute(stage, loaders)
        self.log_dict(with_derived(self, stage, values), sync_dist=self.runtime.world_size > 1)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return each task's prediction, in original units; a batch may hold inputs only."""
        begin_step(self.compile_options)
        return self.predict(self.intake.take(batch, "predict", dataloader_idx))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this module, as plain data, and what an interrupted run goes on with."""
        saving.prove_rebuildable(self, self.config, self.by_code)
        described = {"config": self.config, "by_code": self.by_code, "validation_is_due": self.validations.is_due()}
        checkpoint[KEY] = saving.our_part(self, self.runtime, self.plan, self.resumable, described)
        for key in {"optimizer_states", "lr_schedulers"} & checkpoint.keys():
            checkpoint[key] = saving.without_numpy(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the start of training needs, and make room for weights in float64."""
        where, whole = self.trainer.ckpt_path or "The checkpoint", not self.runtime.shards_parameters
        checkpoint_file.check(checkpoint, where, weights=whole)
        checkpoint.update(format_1.upgrade(checkpoint))
        saved = checkpoint.get(KEY, {})
        saving.put_back(self, saved, where)
        resume.accept_schema(self.trainer, self.trained_on)
        if self.trainer.precision == "64-true":
            self.double()  # the trainer loads them before it does so, and would round them
        if self.trainer.state.fn == "fit":
            resume.check(checkpoint, self.trainer)
            self._interrupted = saved
            due = self.trainer.enable_validation and saved.get("validation_is_due", False)
            compat.plan_validation(checkpoint["loops"], due)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights and other state; what does not fit is told in a few lines."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except Exception as error:  # torch's list of all names, or what a part makes of a state that is not its own
            raise fine_tuning.misfit(self, state_dict, error, getattr(self._trainer, "ckpt_path", None)) from error

    def restore_optimizers(self, checkpoint_path: str | Path) -> None:
        """Begin the next training with the optimizer state, in a checkpoint, of the parameters that stay.

        For fine-tuning: see :meth:`load_from_checkpoint`. Learning rates, schedulers and counters start anew.
        """
        checkpoint = checkpoint_file.read(checkpoint_path, "cpu")
        self._optimizers_before = fine_tuning.saved_optimizers(checkpoint, checkpoint_path)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        trusted: Sequence[str] = (),
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
            checkpoint_path: the checkpoint's path, or address.
            map_location: where to put the tensors, as in ``torch.load``.
            hparams_file: refused; a checkpoint holds its own configuration.
            strict: refuse missing, unexpected and differently shaped weights (the default).
            weights_only: refused if false; these checkpoints are plain data.
            trusted: modules or packages of yours whose classes and functions the checkpoint may name, such as
                ``["mypackage"]``. Those of this library, ``torch.nn`` and ``torch.optim``, torchmetrics, torchjd, timm,
                transformers and the file that defines this class it may name anyway; others are not even imported.
            kwargs: constructor arguments to change; those that were instances or lambdas must be passed again.
        """
        saving.refuse_other_sources(hparams_file, weights_only)
        return saving.load(cls, checkpoint_path, kwargs, map_location, strict=strict is not False, trusted=trusted)
