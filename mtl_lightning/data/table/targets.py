"""From target columns to tasks, and back from a chosen task to how its column is read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import nn

from mtl_lightning import tasks
from mtl_lightning.data.base import TaskFactory
from mtl_lightning.data.table.target_column import TargetColumn, TargetKind
from mtl_lightning.tasks.base import Task
from mtl_lightning.tasks.classification import BinaryClassification, MulticlassClassification
from mtl_lightning.tasks.count import Count
from mtl_lightning.tasks.ordinal import Ordinal
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec

_SCATTERED = 2.0  # the variance over the mean, above which counts are taken to be negative binomial
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
    targets = {name: _declared(name, target) for name, target in given.items()}
    for name, factory in overrides.items():
        if factory is None:
            continue
        target = targets.get(name, TargetColumn())
        if not target.is_derived and target.settled is None:
            targets[name] = _declared(name, partial(replace, target, kind=kind_of(factory)))
        else:
            targets[name] = target
    for name, target in targets.items():
        if {".", "/"} & {*name} or name in _TAKEN or hasattr(nn.ModuleDict, name):
            other = re.sub(r"[./]", "_", name) if {".", "/"} & {*name} else f"{name}_"
            raise ConfigurationError(
                f"Target {name!r}: expected a name without '.' and '/', other than {', '.join(_TAKEN)} and names "
                "of `torch.nn.ModuleDict`'s methods, which a task cannot have. Name the task otherwise: "
                f"`targets: {{{other}: {{column: {target.column or name!r}}}}}`."
            )
    return targets


def _declared(name: str, given: Any) -> TargetColumn:
    """Return a target's column; an error names the target."""
    if isinstance(given, TargetColumn):
        return given
    try:
        made: TargetColumn = given() if callable(given) else TargetColumn(**(given or {}))
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("Target:", f"Target {name!r}:", 1)) from None
    return made


def kind_of(factory: TaskFactory) -> TargetKind | None:
    """Return what a task's class takes, its ``target_kind``; None where that is not known, as of a function."""
    parts = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)
    for part in parts:
        if inspect.isclass(part) and issubclass(part, Task):
            return cast("TargetKind | None", part.target_kind)
    return None


def _task(name: str) -> Any:
    """Return a task's class by its name."""
    if not hasattr(tasks, name):
        raise ConfigurationError(f"Expected the task {name}, which this version does not have. Declare another `kind`.")
    return getattr(tasks, name)


def declared_task(name: str, known: Mapping[str, Any]) -> tuple[TargetSpec, TaskFactory]:
    """Return the spec, and the usual task, of a target that a schema knows."""
    kind, column = known["kind"], known["column"]
    if kind == "number":
        units = f"log of {column}" if known.get("log") else f"{column} - {known['minus']}" if known.get("minus") else ""
        return TargetSpec(units=units), partial(Regression, standardize=True)
    if kind == "count":
        spec = TargetSpec() if known["exposure"] is None else TargetSpec(shape=(2,), names=("count", "exposure"))
        scattered = known["exposure"] is None and known["std"] ** 2 > _SCATTERED * known["mean"]
        return spec, partial(Count, standardize=True, distribution="negative_binomial" if scattered else "poisson")
    if kind == "survival":
        return TargetSpec(shape=(2,), names=("time", "event")), _task("Survival")
    names = tuple(known["values"]) if kind in ("classes", "ordinal") else (f"not {name}", name)
    spec = TargetSpec(classes=len(names), names=names)
    if kind == "ordinal":
        return spec, Ordinal
    return spec, BinaryClassification if len(names) == 2 else MulticlassClassification
