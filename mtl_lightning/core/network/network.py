"""A network for many tasks as a plain ``nn.Module``: it runs, predicts and tells its sigmas without a trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import (
    Architecture,
    ArchitectureArgument,
    HeadFactory,
    Linear,
    build_architecture,
    last_affine,
)
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.build import BalancerArgument, build_balancer
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.core.network.arguments import check_arguments
from mtl_lightning.core.network.calibration import calibrated
from mtl_lightning.core.network.fast_paths import allow_fast_paths, fast_paths_allowed
from mtl_lightning.core.network.graph import (
    DEFAULT,
    Reads,
    TaskGraph,
    check_task_names,
    head_sizes,
    run_heads,
)
from mtl_lightning.core.network.heads import build_head
from mtl_lightning.core.network.last_layers import last_layers
from mtl_lightning.core.network.roles import Roles, find_roles
from mtl_lightning.core.network.stacked_heads import StackedHeads
from mtl_lightning.names import known_name
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import BatchError, ConfigurationError, InputSpec, as_spec

_ONE_ROW = "Expected more than 1 value per channel when training"  # what torch says


class Network(nn.Module):
    """A shared representation, a head per task, and the balancer that makes their losses one update.

    Args:
        tasks: the tasks by name, as a datamodule declares them.
        architecture: how tasks share: a class such as ``SharedBottom``, a ``functools.partial`` of one, or any
            ``nn.Module`` (a tensor out is features for all tasks; a dict out is the tasks' final outputs).
        input_spec: sizes of the inputs; without one, and with an architecture that needs it, :meth:`build` has to be
            called before the network can run.
        balancer: makes the balancer from the number of tasks; the plain sum by default.
        heads: makes a task's head from (feature size without B, K); ``default`` for tasks without an entry, else
            a linear map.
        reads: ``{task: [tasks whose estimates it reads]}``; see :class:`~mtl_lightning.core.network.graph.TaskGraph`.
        fast_paths: whether what gives the same numbers may be computed in faster ways than the plain one: off to rule
            them out while looking for a fault. The environment variable ``MTL_LIGHTNING_FAST_PATHS=0`` is off for all.

    Attributes:
        roles: whose parameter each one is; see :class:`~mtl_lightning.core.network.roles.Roles`.

    Raises:
        ConfigurationError: for unknown names, cycles, and parts that do not fit together.
    """

    trained_on: Mapping[str, Any] | None = None
    """The schema of the data, plain, of a network that was rebuilt from a checkpoint."""
    trivial_predictions: Mapping[str, Tensor] | None = None
    """What :meth:`~mtl_lightning.tasks.Task.trivial_prediction` found, for each task that had a label in training."""
    calibration: Mapping[str, Mapping[str, Any]] | None = None
    """Of each calibrated task how its outputs become calibrated ones, as plain data, fitted to these very weights; see
    :mod:`~mtl_lightning.core.network.calibration`. Whoever changes the weights has to set it to None."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        architecture: ArchitectureArgument,
        input_spec: InputSpec | None = None,
        balancer: BalancerArgument = Balancer,
        heads: Mapping[str, HeadFactory] | None = None,
        reads: Reads | None = None,
        fast_paths: bool = True,
    ) -> None:
        super().__init__()
        self.fast_paths = fast_paths and fast_paths_allowed()
        check_arguments(tasks=tasks, heads=heads, reads=reads, balancer=balancer)
        check_task_names(tasks)
        for name in heads or {}:
            known_name(name, [*tasks, DEFAULT], "heads")
        self.tasks = cast("Mapping[str, Task]", nn.ModuleDict(dict(tasks)))
        self.graph = TaskGraph(list(tasks), reads)
        self.balancer = build_balancer(balancer, len(tasks))
        self.balancer.bind({name: task.likelihood for name, task in self.tasks.items()})
        self.input_spec = input_spec = as_spec(input_spec)
        self._waiting = (architecture, dict(heads or {}))  # for the sizes
        if input_spec is not None or isinstance(architecture, Architecture) or hasattr(architecture, "out_features"):
            self.build(input_spec)

    # ---------------------------------------------------------------------------------------------------- construction
    @property
    def is_built(self) -> bool:
        """Whether the architecture and the heads are there, which may have to wait for the sizes of the inputs."""
        return hasattr(self, "heads")

    def build(self, input_spec: InputSpec | None) -> None:
        """Make the architecture and the heads."""
        self.input_spec = input_spec
        names = list(self.tasks)
        argument, factories = self._waiting
        self.architecture: Architecture = build_architecture(argument, input_spec, names)
        del self._waiting
        heads: dict[str, nn.Module] = {}
        if not self.architecture.final:
            sizes = head_sizes(self.graph, self.architecture.feature_sizes, self.tasks)
            default: HeadFactory = factories.get(DEFAULT, Linear)
            made = {name: (factories.get(name, default), sizes[name], self.tasks[name].head_size) for name in names}
            heads = {name: build_head(name, *arguments) for name, arguments in made.items()}
        elif any(self.graph.edges.values()) or factories:
            raise ConfigurationError(
                "The architecture returns the tasks' final outputs, so that there are no heads: expected no "
                "`heads` and no `reads`. Let the network return features, or wire the tasks inside it."
            )
        self.heads = nn.ModuleDict(heads)
        self._stacked = StackedHeads()
        allow_fast_paths(self, self.fast_paths)
        self._check_rescaled()
        self.find_roles()
        self._check_level()

    def _check_rescaled(self) -> None:
        """Refuse a task that rescales its outputs, if they come from no layer that it can change."""
        for name, task in self.tasks.items():
            if task.rescales and self.architecture.final:
                raise ConfigurationError(
                    f"Task {name!r} rescales its outputs during training (`popart`), which needs a head of its own: "
                    "expected an architecture that returns features, found one that returns final outputs."
                )
            if task.rescales:
                last_affine(self.heads.get_submodule(name), name)

    def _check_level(self) -> None:
        """Refuse a balancer that looks at the last shared layer, if it is not known which that is."""
        level = self.balancer.level if isinstance(self.balancer, GradientBalancer) else ""
        if level == "last_layer" and self.roles.shared and not self.architecture.last_shared():
            raise ConfigurationError(
                f"{type(self.balancer).__name__} looks at the last shared layer (`level: last_layer`): expected an "
                f"architecture whose `last_shared` says which parts end in it, found "
                f"{type(self.architecture).__name__} without. Write that method, or use `level: parameters`."
            )

    def find_roles(self) -> None:
        """Give every parameter its role, those that were added since the last time, too."""
        self.roles: Roles = find_roles(self, list(self.tasks))
        self._last_shared: list[nn.Parameter] | None = None

    def last_shared_weights(self, inputs: Any) -> list[nn.Parameter]:
        """Return the weights of the last shared layer, found with one run on some inputs the first time.

        Raises:
            ConfigurationError: if none of them is trained.
        """
        if self._last_shared is None:
            parts, shared = self.architecture.last_shared(), list(self.roles.shared.values())
            with torch.no_grad(), _evaluating(self):
                self._last_shared = last_layers(parts, lambda: self.architecture(inputs, self.graph.order), shared)
        trained = [weight for weight in self._last_shared if weight.requires_grad]
        if not trained:
            raise ConfigurationError(
                f"{type(self.balancer).__name__} looks at the last shared layer (`level: last_layer`): expected one "
                f"that is trained in {type(self.architecture).__name__}, found none. Use `level: parameters`."
            )
        return trained

    def check_fitted(self) -> None:
        """Refuse tasks that standardise or balance their targets without knowing these."""
        if unfitted := [name for name, task in self.tasks.items() if not task.fitted]:
            raise ConfigurationError(
                f"The tasks {unfitted} standardise or balance their targets but were never fitted: call "
                "`task.fit_target(targets)` with the training split's targets (a MultiTaskDataModule does it itself)."
            )

    # --------------------------------------------------------------------------------------------------------- forward
    def run(self, inputs: Any, tasks: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Return outputs (B, K, *) of ``tasks`` and of those they read, and the auxiliary losses ()."""
        return self._run(inputs, tasks, None)

    def run_together(self, inputs: Any, tasks: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Like :meth:`run`, for one backward from all tasks: equal heads may run as one, which gives equal outputs.

        A backward from a single task would run the backward of all these heads. See
        :mod:`~mtl_lightning.core.network.stacked_heads`.
        """
        if not self.fast_paths or type(self).run is not Network.run:
            return self.run(inputs, tasks)
        return self._run(inputs, tasks, self._stacked)

    def run_heads(self, features: Mapping[str, Tensor], *, together: bool) -> dict[str, Tensor]:
        """Map features (B, D, *) by task, cut off from the trunk or not, to the tasks' outputs (B, K, *).

        Args:
            features: of tasks in an order in which each comes after those that it reads.
            together: whether one backward from all tasks is to follow, as in :meth:`run_together`.
        """
        heads = cast("Mapping[str, nn.Module]", self.heads)
        stacked = self._stacked if together and self.fast_paths else None
        return run_heads(self.graph, list(features), features, heads, self.tasks, stacked)

    def _run(
        self, inputs: Any, tasks: Sequence[str], stacked: StackedHeads | None
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        wanted = self.graph.needed(tasks)
        try:
            # compiled, a call runs the graph of all tasks, and `_call_impl` runs Python and the compiled pieces
            call: Any = self.architecture if wanted == self.graph.order else self.architecture._call_impl
            features = call(inputs, wanted)
            if self.architecture.final:
                outputs = {name: self.tasks[name].complete(given) for name, given in features.per_task.items()}
            else:
                heads = cast("Mapping[str, nn.Module]", self.heads)
                outputs = run_heads(self.graph, wanted, features.per_task, heads, self.tasks, stacked)
        except ValueError as error:
            if _ONE_ROW not in str(error):
                raise
            raise BatchError(
                "A layer of batch normalisation: expected at least 2 rows in training, found 1: the last batch of an "
                "epoch may be short. Use `drop_last: true` in the datamodule, or a `batch_size` that leaves more rows."
            ) from error
        return outputs, {**features.aux, **self.architecture.output_losses(outputs)}

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Map inputs to the outputs (B, K, *) of every task: logits and standardised values, see :meth:`predict`."""
        self.check_built()
        return self.run(inputs, list(self.tasks))[0]

    def check_built(self) -> None:
        """Refuse to run while the sizes of the inputs are not known."""
        if not self.is_built:
            raise ConfigurationError(
                "The network waits for the sizes of its inputs: expected an `input_spec`, found none. Pass it to the "
                "constructor, or call `build(input_spec)`; a trainer reads it off the first batch."
            )

    def predict(self, inputs: Any, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Map inputs to what each task predicts: probabilities and labels, or values in original units.

        Computed in evaluation mode and without gradients, whatever mode the network is in, and calibrated where the
        network knows how (:attr:`calibration`).

        Args:
            inputs: as in a batch; or a batch, whose targets are not looked at, and whose ``ids`` come out as they are.
            tasks: the tasks to predict, all by default; only they, and those that they read, are computed.

        Raises:
            ConfigurationError: for a task that the network does not have.
        """
        for name in tasks or ():
            known_name(name, self.tasks, "tasks")
        wanted = [name for name in self.tasks if tasks is None or name in tasks]
        with torch.no_grad(), _evaluating(self):
            if tasks is None:
                outputs = self(inputs_of(inputs))
            else:
                self.check_built()
                outputs = self.run(inputs_of(inputs), wanted)[0]
        found = {name: self.tasks[name].predict(self.calibrated(name, outputs[name])) for name in wanted}
        return with_ids(found, inputs)

    def calibrated(self, task: str, output: Tensor) -> Tensor:
        """Return outputs (B, K, *) of a task, calibrated where it is known how, in float32 or better."""
        return calibrated(at_least_float32(output), (self.calibration or {}).get(task))

    def sigmas(self, original_units: bool = False) -> dict[str, float]:
        """Return the learned noise level of each task, a standard deviation; empty if the balancer learns none.

        Args:
            original_units: in the target's units instead of the loss's, which a standardised target makes differ. Tasks
                whose outputs are standardised one by one, or whose loss is taken of logarithms, have none in these.
        """
        sigmas = self.balancer.sigmas()
        if sigmas is None:
            return {}
        scales = [task.target_scale if original_units else 1.0 for task in self.tasks.values()]
        triples = zip(self.tasks, sigmas.tolist(), scales, strict=True)
        return {name: sigma * scale for name, sigma, scale in triples if scale is not None}


def inputs_of(item: Any) -> Any:
    """Return the inputs of a batch; of anything else, itself."""
    return item["inputs"] if isinstance(item, Mapping) and "inputs" in item else item


def with_ids(predictions: dict[str, Any], item: Any) -> dict[str, Any]:
    """Return predictions by task with the ids of the batch that they are of, under ``"ids"``, if it has some.

    Raises:
        ConfigurationError: for a task of that name.
    """
    if not (isinstance(item, Mapping) and "inputs" in item and "ids" in item):
        return predictions
    if "ids" in predictions:
        raise ConfigurationError(
            "The batch has `ids`, which come out beside the predictions: expected no task of this name, found one. "
            "Rename the task."
        )
    return {**predictions, "ids": item["ids"]}


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, any other as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put every part of a network into evaluation mode, then back into the mode that it was in."""
    training = [part for part in network.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
