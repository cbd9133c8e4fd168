"""Whose parameter each one is: shared, of one task, or the balancer's.

A *role* is declared by the architecture and the heads. A *group*, which says only which optimizer steps a parameter, is
another matter (:mod:`mtl_lightning.core.optim`): splitting or merging groups never changes a role.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from torch import nn

from mtl_lightning.architectures.base import Architecture
from mtl_lightning.core.network.graph import BALANCER, SHARED
from mtl_lightning.names import known_name
from mtl_lightning.types import ConfigurationError

Named: TypeAlias = dict[str, nn.Parameter]


@dataclass
class Roles:
    """Whose parameter each one is: a partition of all named parameters of the module."""

    shared: Named = field(default_factory=dict)
    tasks: dict[str, Named] = field(default_factory=dict)
    balancer: Named = field(default_factory=dict)
    unknown: Named = field(default_factory=dict)

    @property
    def trained(self) -> tuple[list[Any], list[Any]]:
        """The trained parameters that are shared, and those of single tasks."""
        single = [self.unknown, *self.tasks.values()]
        return _trained_of([self.shared]), _trained_of(single)

    def items(self) -> list[tuple[str, Named]]:
        """Return (role, parameters), shared first and the balancer last."""
        return [(SHARED, self.shared), *self.tasks.items(), (BALANCER, self.balancer)]


def find_roles(module: nn.Module, tasks: Sequence[str]) -> Roles:
    """Read the roles off a module that has ``architecture``, ``heads``, ``tasks`` and ``balancer``.

    Raises:
        ConfigurationError: if a parameter belongs to two tasks, or to one although it is shared.
    """
    architecture = module.architecture
    assert isinstance(architecture, Architecture)  # for the type checker; the module builds it
    owner: dict[int, str] = {}

    def claim(role: str, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if owner.setdefault(id(parameter), role) != role:
                name = next(n for n, p in module.named_parameters() if p is parameter)
                raise ConfigurationError(
                    f"Parameter {name!r} is in two roles: expected one, found {owner[id(parameter)]!r} and {role!r}. "
                    "Do not tie it; what several tasks use belongs in the architecture, outside `task_parameters()`."
                )

    for task, parameters in architecture.task_parameters().items():
        known_name(task, tasks, f"{type(architecture).__name__}.task_parameters()")
        claim(task, parameters)
    claim(SHARED, [p for p in architecture.parameters() if id(p) not in owner])
    for part in (module.heads, module.tasks):
        for task, child in cast("nn.ModuleDict", part).items():  # `named_children` would leave out a tied head
            claim(task, child.parameters())
    roles = Roles(tasks={task: {} for task in tasks})
    known = {SHARED: roles.shared, **roles.tasks}
    for name, parameter in module.named_parameters():
        other = roles.balancer if name.startswith("balancer.") else roles.unknown
        known.get(owner.get(id(parameter), ""), other)[name] = parameter
    return roles


def _trained_of(parts: Iterable[Named]) -> list[Any]:
    return [parameter for named in parts for parameter in named.values() if parameter.requires_grad]
