"""Step optimizers of one kind together: one call of a fused kernel for all their parameters, not one for each group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

_OWN = ("params", "name", "initial_lr")  # what a group has to itself; everything else takes part in the step
_ADAM = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "fused", "capturable", "differentiable")
_AMSGRAD = _ADAM.index("amsgrad")
_ADAM_OPTIONS = itemgetter(*_ADAM, "decoupled_weight_decay")
_Options: TypeAlias = tuple[Any, ...]


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


class Together:
    """Steps some optimizers once each, in as few calls as may be; those of one class share their ``state``.

    Args:
        optimizers: all of them.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        every = [*optimizers]
        teams = [[one for one in every if type(one) is kind] for kind in (Adam, AdamW)]
        self._adams = [AdamsTogether(team) for team in teams if team]
        self._others = [one for one in every if type(one) not in (Adam, AdamW)]

    def step(self) -> None:
        """Step every optimizer once."""
        rest = [*self._others]
        for adams in self._adams:
            if not adams.step():
                rest += adams.optimizers
        step_together(rest)


class AdamsTogether:
    """Steps optimizers that are all ``Adam``, or all ``AdamW``, of PyTorch by its fused kernel, without their methods.

    What an Adam does in Python for each parameter and step takes longer than the kernel where networks are small. Here
    what does not change is kept: which parameters have the same options, device and dtype. The kernel and the order of
    its calls are those of ``torch.optim.adam._fused_adam``, and so is each bit of the result.

    Args:
        optimizers: at least one, which share their ``state``.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = [*optimizers]
        self._known: list[tuple[_Options, int]] = []
        self._teams: list[_Team] = []

    def step(self) -> bool:
        """Step all of them once; False, with nothing done, if they have to do it themselves.

        That is so before there is a state of each gradient's parameter, with options that need more than the kernel,
        and where somebody waits for the step of one of them. As in PyTorch, a ``found_inf`` () of the first one that
        is not 0 leaves everything as it is.
        """
        if hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks:
            return False
        groups: list[dict[str, Any]] = []
        for optimizer in self.optimizers:
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or _foreign(optimizer):
                return False
            groups += optimizer.param_groups
        self._sort(groups)
        state, calls = self.optimizers[0].state, []
        for team in self._teams:
            lists = team.lists(state) if _kernel_suffices(team.options) else None
            if lists is None:
                return False
            calls.append((team, lists))
        found_inf = getattr(self.optimizers[0], "found_inf", None)
        with torch.no_grad():
            for team, lists in calls:
                if lists.params:
                    team.step(lists, found_inf)
        return True

    def _sort(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Put together the parameters of groups with equal options, unless the groups are as they were."""
        found = [(_ADAM_OPTIONS(group), len(group["params"])) for group in groups]
        if found == self._known:
            return
        teams: dict[_Options, list[Tensor]] = {}
        for ((rate, betas, *rest), _), group in zip(found, groups, strict=True):
            for parameter in group["params"]:
                teams.setdefault((rate, (*betas,), *rest, parameter.device, parameter.dtype), []).append(parameter)
        before = {tuple(map(id, team.params)): team for team in self._teams}  # those stay where rates alone are others
        self._known, self._teams = found, []
        for key, params in teams.items():
            team = before.get(tuple(map(id, params))) or _Team(params)
            team.options = key[:-2]
            self._teams.append(team)


class _Lists(NamedTuple):
    """What the kernel takes, of the parameters that have a gradient."""

    params: list[Tensor]
    grads: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    largest: list[Tensor]  # second moments, with `amsgrad`
    steps: list[Tensor]


class _Team:
    """Parameters that make their steps in one call: of one device and dtype, with the same options.

    On the CPU the numbers of their steps, a tensor () each, are made views of one vector, to count with one addition.

    Args:
        params: all of them.

    Attributes:
        options: what they have in common, in the order of ``_ADAM_OPTIONS``.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.options: _Options = ()
        self._counted = torch.zeros(0)
        self._views: list[Tensor] = []

    def lists(self, state: Mapping[Tensor, Any]) -> _Lists | None:
        """Return what the kernel takes; None if a state is missing, or a gradient is sparse."""
        params, grads = self.params, [parameter.grad for parameter in self.params]
        if whole := not [grad for grad in grads if grad is None]:
            found: list[Any] = grads
        else:
            params = [parameter for parameter, grad in zip(params, grads, strict=True) if grad is not None]
            found = [grad for grad in grads if grad is not None]
        states: list[Any] = [*map(state.get, params)]
        if not all(states) or [grad for grad in found if grad.is_sparse]:
            return None
        first, second, steps = ([one[name] for one in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        largest = [one["max_exp_avg_sq"] for one in states] if self.options[_AMSGRAD] else []
        if whole and params[0].is_cpu and not self._is_counted(steps):
            steps = self._count_together(states)
        return _Lists(params, found, first, second, largest, steps)

    def _is_counted(self, steps: list[Tensor]) -> bool:
        """Whether these are all that the vector has."""
        return len(steps) == len(self._views) and all(map(is_, steps, self._views))

    def _count_together(self, states: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Make the numbers of steps views of one vector, as they are if they are not one number each."""
        steps = [one["step"] for one in states]
        if {(step.shape, step.dtype, step.device) for step in steps} != {((), steps[0].dtype, self.params[0].device)}:
            return steps
        self._counted = torch.stack(steps)
        self._views = [self._counted[index] for index in range(len(steps))]
        for one, view in zip(states, self._views, strict=True):
            one["step"] = view
        return self._views

    def step(self, lists: _Lists, found_inf: Tensor | None) -> None:
        """Count and step, as ``torch.optim.adam._fused_adam``."""
        rate, (beta1, beta2), eps, decay, amsgrad, maximize, *_, decoupled = self.options
        together = [self._counted] if lists.steps and self._is_counted(lists.steps) else lists.steps
        torch._foreach_add_(together, 1)
        kernel: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
        kernel(
            *lists,
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay,
            eps=eps,
            amsgrad=amsgrad,
            maximize=maximize,
            grad_scale=None,
            found_inf=found_inf,
        )
        if found_inf is not None:
            torch._foreach_sub_(together, [found_inf] * len(together))


def _foreign(optimizer: Optimizer) -> bool:
    """Whether the step of an optimizer was replaced, by something else than a scheduler that notes that it ran."""
    return "step" in optimizer.__dict__ and not hasattr(optimizer.step, "_wrapped_by_lr_sched")


def _kernel_suffices(options: _Options) -> bool:
    rate, (beta1, beta2), *_, fused, capturable, differentiable, _ = options
    numbers = not isinstance(rate, Tensor) and not isinstance(beta1, Tensor) and not isinstance(beta2, Tensor)
    return numbers and bool(fused) and not capturable and not differentiable
