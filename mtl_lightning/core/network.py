"""What a multi-task module is made of: its parts, their roles, their groups, and one optimizer per group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mtl_lightning.architectures.base import (
    Architecture,
    ArchitectureArgument,
    HeadFactory,
    Linear,
    build_architecture,
)
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.build import BalancerArgument, build_balancer
from mtl_lightning.core import checkpoint as plain
from mtl_lightning.core.compilation import CompileOptions
from mtl_lightning.core.graph import (
    BALANCER,
    DEFAULT,
    Edge,
    TaskGraph,
    check_task_names,
    head_sizes,
    known_name,
    run_heads,
)
from mtl_lightning.core.groups import (
    assign_groups,
    build_optimizers,
    find_roles,
    sparse_parameters,
)
from mtl_lightning.core.optimizers import CompositeOptimizer, CompositeScheduler, Schedule, SchedulerFactory
from mtl_lightning.core.rescaling import check_heads
from mtl_lightning.describe import Described
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError, InputSpec

_NONFINITE = ("raise", "skip", "ignore")


class Network(Described, LightningModule):
    """A shared representation and a head per task, a balancer, and one optimizer per group of parameters.

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
        compile: compile the architecture and the heads with ``torch.compile`` when a trainer runs them: True, or its
            arguments, such as ``{mode: max-autotune}``. Weights keep their names in checkpoints. Each set of tasks that
            a batch has targets of is compiled anew; from the ninth on PyTorch runs it as it is, with a warning.

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
        schedulers: dict[str, Schedule | SchedulerFactory] | None = None,
        gradient_clip: dict[str, float] | None = None,
        allow_unlabelled: list[str] | None = None,
        on_nonfinite: Literal["raise", "skip", "ignore"] = "raise",
        compile: CompileOptions = False,
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
        self.gradient_clip, self.compile_options = dict(gradient_clip or {}), compile
        self._architecture, self._heads, self._patterns = architecture, dict(heads or {}), groups
        self._optimizers = optimizers or {DEFAULT: partial(Adam, lr=1e-3), BALANCER: partial(Adam, lr=1e-2)}
        self._schedulers = dict(schedulers or {})
        self.balancer = build_balancer(balancer, len(tasks))
        self.balancer.bind({name: task.likelihood for name, task in self.tasks.items()})
        self._rate_factor, self._rates_found = 1.0, False
        if input_spec is not None or isinstance(architecture, Architecture) or hasattr(architecture, "out_features"):
            self._build()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Make what belongs to a run and not to the network; for subclasses."""

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
        check_heads(self)
        if type(self).__init__ is Network.__init__:  # else the subclass may add layers after this constructor
            self._find_groups()

    def _find_groups(self) -> None:
        """Give every parameter its role and its group."""
        self.roles = find_roles(self, list(self.tasks))
        self.groups = assign_groups(self.roles, self._patterns)
        for name in self.gradient_clip:
            known_name(name, dict.fromkeys([*self.groups, BALANCER]), "gradient_clip")

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
        scheduler = CompositeScheduler(optimizer, self._schedulers)
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
            outputs = dict(features.per_task)
        else:
            heads = cast("Mapping[str, nn.Module]", self.heads)
            outputs = run_heads(self.graph, wanted, features.per_task, heads, self.tasks)
        return outputs, {**features.aux, **self.architecture.output_losses(outputs)}

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
