"""Step optimizers of one kind together: one call of a fused kernel for all their parameters, not one for each group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_OWN = ("params", "name", "initial_lr")  # what a group has to itself; everything else takes part in the step


def step_together(optimizers: Iterable[Optimizer]) -> None:
    """Step every optimizer once; fused ones of one class, which share their ``state``, in one call.

    The fused steps treat every number by itself, so that it does not matter in which call its parameter is. One of
    the optimizers steps for all: it is lent the parameters of the others, in as few groups as there are options.
    """
    teams: dict[type[Optimizer], list[Optimizer]] = {}
    for optimizer in optimizers:
        if _joins(optimizer):
            teams.setdefault(type(optimizer), []).append(optimizer)
        else:
            optimizer.step()
    for team in teams.values():
        leader = team[0]
        own = leader.param_groups
        leader.param_groups = _merged(group for member in team for group in member.param_groups)
        try:
            leader.step()
        finally:
            leader.param_groups = own


def _joins(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of torch's, fused, and no one waits for its own step."""
    hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    known = type(optimizer).__module__.startswith("torch.optim.")
    plain = all(group.get("fused") and not isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    return known and plain and not hooked


def _merged(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the parameters of groups with equal options into one group."""
    merged: list[tuple[dict[str, Any], list[Any]]] = []
    for group in groups:
        options = {key: value for key, value in group.items() if key not in _OWN}
        for known, params in merged:
            if known == options:
                params += group["params"]
                break
        else:
            merged.append((options, [*group["params"]]))
    return [{**options, "params": params} for options, params in merged]
