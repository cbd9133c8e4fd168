"""From target columns to tasks, and back from a chosen task to how its column is read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from mtl_lightning.data.base import TaskFactory
from mtl_lightning.data.table.target_column import TargetColumn, TargetKind
from mtl_lightning.tasks.classification import BinaryClassification, MulticlassClassification
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec

_TAKEN = ("shared", "balancer", "default")  # names of groups


def declared_targets(
    declared: Sequence[str] | Mapping[str, TargetColumn | Mapping[str, Any] | None],
    overrides: Mapping[str, TaskFactory | None],
) -> dict[str, TargetColumn]:
    """Return the target columns by task: those declared, and those that are named with a task of their own.

    A target whose kind is open takes that of its task's class. One whose task is removed stays a target, so that it
    does not become a feature.
    """
    given = declared if isinstance(declared, Mapping) else {name: TargetColumn() for name in declared}
    targets = {
        name: target if isinstance(target, TargetColumn) else TargetColumn(**(target or {}))
        for name, target in given.items()
    }
    for name, factory in overrides.items():
        if factory is None:
            continue
        target = targets.get(name, TargetColumn())
        targets[name] = target if target.is_derived else replace(target, kind=target.kind or kind_of(factory))
    for name, target in targets.items():
        if {".", "/"} & {*name} or name in _TAKEN or hasattr(nn.ModuleDict, name):
            other = re.sub(r"[./]", "_", name) if {".", "/"} & {*name} else f"{name}_"
            raise ConfigurationError(
                f"Target {name!r}: expected a name without '.' and '/', other than {', '.join(_TAKEN)} and names "
                "of `torch.nn.ModuleDict`'s methods, which a task cannot have. Name the task otherwise: "
                f"`targets: {{{other}: {{column: {target.column or name!r}}}}}`."
            )
    return targets


def kind_of(factory: TaskFactory) -> TargetKind | None:
    """Return what a task's class takes: numbers or classes; None where that is not known, as of a function."""
    parts = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)
    for part in parts:
        if inspect.isclass(part) and issubclass(part, Regression):
            return "number"
        if inspect.isclass(part) and issubclass(part, BinaryClassification | MulticlassClassification):
            return "classes"
    return None


def declared_task(name: str, known: Mapping[str, Any]) -> tuple[TargetSpec, TaskFactory]:
    """Return the spec, and the usual task, of a target that a schema knows."""
    if known["kind"] == "number":
        return TargetSpec(), partial(Regression, standardize=True)
    names = tuple(known["values"]) if known["kind"] == "classes" else (f"not {name}", name)
    spec = TargetSpec(classes=len(names), names=names)
    return spec, BinaryClassification if len(names) == 2 else MulticlassClassification
