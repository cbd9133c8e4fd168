"""A network for each of several groups of tasks: sharing within a group, none between groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mtl_lightning.architectures.base import Architecture, EncoderArgument
from mtl_lightning.architectures.copies import copies, parameters_of
from mtl_lightning.architectures.encoders import MLP
from mtl_lightning.names import known_name
from mtl_lightning.types import ConfigurationError, Features, InputSpec

_ALL = "all"  # the group of all tasks, where none are given


class GroupedNetworks(Architecture):
    """One encoder per group of tasks, y_t = D_t(E_g(x)) for each task t of group g: several shared bottoms in one run.

    What `Efficiently Identifying Task Groupings for Multi-Task Learning <https://arxiv.org/abs/2109.04617>`_ (Fifty et
    al. 2021) trains once tasks are split, as :class:`~mtl_lightning.callbacks.TaskAffinity` proposes. With one group it
    is :class:`~mtl_lightning.architectures.SharedBottom`, with one for each task
    :class:`~mtl_lightning.architectures.SingleTaskNetworks`. An encoder is shared, unless its group has one task only:
    then it is that task's.

    Args:
        spec: the input's spec; None as for ``SharedBottom``.
        tasks: the tasks' names.
        groups: the tasks of each group, by the group's name; by default one group of all.
        encoder: as for ``SharedBottom``, made once per group
            (:func:`~mtl_lightning.architectures.copies.copies` says how).

    Raises:
        ConfigurationError: for a task in no group or in two, a group without tasks, and names of no task, or with dots.
    """

    def __init__(
        self,
        spec: InputSpec | None,
        tasks: Sequence[str],
        *,
        groups: dict[str, list[str]] | None = None,
        encoder: EncoderArgument = MLP,
    ) -> None:
        super().__init__()
        chosen = {_ALL: list(tasks)} if groups is None else groups
        self.group_of = _group_of(chosen, tasks)
        self.groups = {name: list(members) for name, members in chosen.items()}
        made, size = copies(encoder, spec, len(chosen), "groups")
        try:
            self.encoders = nn.ModuleDict(dict(zip(chosen, made, strict=True)))
        except KeyError as error:
            raise ConfigurationError(f"GroupedNetworks: expected other names in `groups`: {error.args[0]}.") from error
        self.feature_sizes = dict.fromkeys(tasks, size)

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        """Map inputs to features (B, D, *) of each of ``tasks``; encoders of other groups are not run."""
        wanted = dict.fromkeys(self.group_of[task] for task in tasks)
        features = {group: self.encoders[group](inputs) for group in wanted}
        return Features({task: features[self.group_of[task]] for task in tasks})

    def task_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the encoders of tasks that are alone in their group."""
        alone = {members[0]: group for group, members in self.groups.items() if len(members) == 1}
        return {task: parameters_of(self.encoders[group]) for task, group in alone.items()}

    def last_shared(self) -> Sequence[nn.Module]:
        """Return the encoders of groups of several tasks."""
        return [self.encoders[group] for group, members in self.groups.items() if len(members) > 1]


def _group_of(groups: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, str]:
    """Return each task's group."""
    found: dict[str, str] = {}
    for group, members in groups.items():
        if not members:
            raise ConfigurationError(f"GroupedNetworks: expected tasks in each of `groups`, found none in {group!r}.")
        for task in members:
            known_name(task, tasks, f"groups.{group}")
            if task in found:
                raise ConfigurationError(
                    f"GroupedNetworks: expected each task in one of `groups`, found {task!r} in {found[task]!r} and "
                    f"{group!r}. Take it out of one of them."
                )
            found[task] = group
    if missing := [task for task in tasks if task not in found]:
        raise ConfigurationError(
            f"GroupedNetworks: expected each of {list(tasks)} in one of `groups`, found {missing} in none. Add them, "
            "in a group of their own if need be."
        )
    return found
