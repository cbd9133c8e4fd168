"""The task graph: which task reads whose estimate, in what order the heads run, and where the gradient stops."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.core.network.stacked_heads import Outputs, StackedHeads
from mtl_lightning.names import known_name
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError

SHARED, BALANCER, DEFAULT = "shared", "balancer", "default"
"""Names of groups and of options for all groups, which no task can have."""


@dataclass(frozen=True)
class Edge:
    """One read: the reader's loss moves the read task's parameters only if ``stop_gradient`` is false."""

    stop_gradient: bool = True


Reads: TypeAlias = Mapping[str, Sequence[str] | Mapping[str, Edge]]


class TaskGraph:
    """Tasks in an order in which every task comes after those it reads.

    Args:
        tasks: the names of all tasks.
        reads: ``{reader: [read, ...]}``, or ``{reader: {read: Edge(stop_gradient=False)}}`` for options per edge.

    Raises:
        ConfigurationError: for an unknown name, or for a cycle, which it shows.
    """

    def __init__(self, tasks: Sequence[str], reads: Reads | None = None) -> None:
        self.edges: dict[str, dict[str, Edge]] = {task: {} for task in tasks}
        for reader, targets in (reads or {}).items():
            known_name(reader, tasks, "reads")
            for read in targets:
                known_name(read, tasks, f"reads.{reader}")
                edge = targets[read] if isinstance(targets, Mapping) else Edge()
                self.edges[reader][read] = edge if isinstance(edge, Edge) else Edge(**edge)
        self.order: tuple[str, ...] = tuple(self._sorted())
        self._needed: dict[tuple[str, ...], tuple[str, ...]] = {}

    def _sorted(self) -> list[str]:
        order: list[str] = []
        path: list[str] = []

        def visit(task: str) -> None:
            if task in path:
                cycle = [*path[path.index(task) :], task]
                raise ConfigurationError(
                    f"`reads` has a cycle: {' reads '.join(cycle)}. Remove one of these edges: a task's estimate must "
                    "be known before it is read."
                )
            if task not in order:
                path.append(task)
                for read in self.edges[task]:
                    visit(read)
                path.pop()
                order.append(task)

        for task in self.edges:
            visit(task)
        return order

    def needed(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Return ``tasks`` and all that they read, directly or not, in order."""
        key = tuple(tasks)
        if key not in self._needed:
            wanted: set[str] = set()
            for task in reversed(self.order):
                if task in key or task in wanted:
                    wanted.update([task, *self.edges[task]])
            self._needed[key] = tuple(task for task in self.order if task in wanted)
        return self._needed[key]

    def reached_by(self, tasks: Iterable[str]) -> set[str]:
        """Return ``tasks`` and every task that one of their losses reaches through open edges."""
        reached = set(tasks)
        for task in reversed(self.order):
            if task in reached:
                reached.update(read for read, edge in self.edges[task].items() if not edge.stop_gradient)
        return reached


def check_task_names(tasks: Iterable[str]) -> None:
    """Raise a :class:`ConfigurationError` for names that tags, groups or submodules could not carry."""
    tasks = list(tasks)
    if not tasks:
        raise ConfigurationError("Expected at least one task, found none.")
    for name in tasks:
        taken = name in (SHARED, BALANCER, DEFAULT) or hasattr(nn.ModuleDict, name)
        if taken or not name or "." in name or "/" in name:
            raise ConfigurationError(
                f"Task name {name!r}: expected one without '.' and '/', other than 'shared', 'balancer', 'default' and "
                "the attributes of `torch.nn.ModuleDict`. Rename the task."
            )


def head_sizes(
    graph: TaskGraph, feature_sizes: Mapping[str, tuple[int, ...]], tasks: Mapping[str, Task]
) -> dict[str, tuple[int, ...]]:
    """Return the size (D + estimates read, *) of what each task's head receives, without B."""
    sizes = {}
    for task, edges in graph.edges.items():
        channels, *space = feature_sizes[task]
        sizes[task] = (channels + sum(tasks[read].estimate_size for read in edges), *space)
    return sizes


def run_heads(
    graph: TaskGraph,
    wanted: Sequence[str],
    features: Mapping[str, Tensor],
    heads: Mapping[str, nn.Module],
    tasks: Mapping[str, Task],
    stacked: StackedHeads | None = None,
) -> dict[str, Tensor]:
    """Map features (B, D, *) to outputs (B, K, *) of ``wanted`` (in order) and of all that they read.

    A read estimate is taken from this forward's output, never from labels, and detached where the edge stops the
    gradient.

    Args:
        graph: who reads whom.
        wanted: the tasks.
        features: by task.
        heads: by task.
        tasks: by name.
        stacked: runs equal heads together, so that a backward from one task reaches them all; None: each by itself.
    """
    outputs: dict[str, Tensor] = {}
    estimates: dict[str, Tensor] = {}
    given_together: dict[str, Tensor] = {}
    if stacked is not None:
        free = [task for task in wanted if not graph.edges[task]]
        outputs = together = Outputs()
        given_together = stacked.run(together, _side_by_side(free, tasks), features, cast("nn.ModuleDict", heads))
    for task in wanted:
        if task in given_together:
            outputs[task] = tasks[task].complete(given_together[task])
            continue
        parts = [features[task]]
        for read, edge in graph.edges[task].items():
            if read not in estimates:
                estimates[read] = tasks[read].estimate(outputs[read])
            estimate = estimates[read].detach() if edge.stop_gradient else estimates[read]
            parts.append(_fit_to(estimate, features[task]))
        given = heads[task](parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        outputs[task] = tasks[task].complete(given)
    return outputs


def _side_by_side(names: Sequence[str], tasks: Mapping[str, Task]) -> list[str]:
    """Order tasks so that those whose losses are taken together stand side by side."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(tasks[name].batchable, []).append(name)
    return [name for group in groups.values() for name in group]


def _fit_to(estimate: Tensor, features: Tensor) -> Tensor:
    """Bring an estimate (B, E, *) to the dtype and the space of features (B, D, *).

    Vectors are broadcast over space, dense estimates resized to it, and pooled where the reader has none.
    """
    estimate = estimate.to(features.dtype)
    if estimate.dim() == features.dim():
        if estimate.shape[2:] == features.shape[2:]:
            return estimate
        return F.interpolate(estimate, size=features.shape[2:], mode="bilinear", align_corners=False)
    if features.dim() == 2:
        return estimate.flatten(2).mean(-1)
    return estimate.reshape(*estimate.shape, *(1,) * (features.dim() - 2)).expand(-1, -1, *features.shape[2:])
