"""Step optimizers of one kind together: one call of a fused kernel for all their parameters, not one for each group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

_OWN = ("params", "name", "initial_lr")  # what a group has to itself; everything else takes part in the step
_ADAM = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "fused", "capturable", "differentiable")
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
        self._teams: list[tuple[_Options, list[Tensor]]] = []

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
        state, at = self.optimizers[0].state, _ADAM.index("amsgrad")
        calls = []
        for options, params in self._teams:
            lists = _with_states(params, state, amsgrad=bool(options[at])) if _kernel_suffices(options) else None
            if lists is None:
                return False
            calls.append((options, lists))
        found_inf = getattr(self.optimizers[0], "found_inf", None)
        with torch.no_grad():
            for options, lists in calls:
                if lists[0]:
                    _call(options, lists, found_inf)
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
        self._known, self._teams = found, [(key[:-2], params) for key, params in teams.items()]


def _foreign(optimizer: Optimizer) -> bool:
    """Whether the step of an optimizer was replaced, by something else than a scheduler that notes that it ran."""
    return "step" in optimizer.__dict__ and not hasattr(optimizer.step, "_wrapped_by_lr_sched")


def _kernel_suffices(options: _Options) -> bool:
    rate, (beta1, beta2), *_, fused, capturable, differentiable, _ = options
    numbers = not isinstance(rate, Tensor) and not isinstance(beta1, Tensor) and not isinstance(beta2, Tensor)
    return numbers and bool(fused) and not capturable and not differentiable


def _with_states(params: list[Tensor], state: Mapping[Tensor, Any], *, amsgrad: bool) -> list[list[Tensor]] | None:
    """Return what the kernel takes, of the parameters that have a gradient; None if a state or a dense one is missing.

    The lists are of parameters, gradients, first and second moments, largest second ones, and numbers of steps.
    """
    grads: list[Any] = [parameter.grad for parameter in params]
    if [grad for grad in grads if grad is None]:
        params = [parameter for parameter, grad in zip(params, grads, strict=True) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
    states: list[Any] = [*map(state.get, params)]
    if not all(states) or [grad for grad in grads if grad.is_sparse]:
        return None
    first, second, steps = ([one[name] for one in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    largest = [one["max_exp_avg_sq"] for one in states] if amsgrad else []
    return [params, grads, first, second, largest, steps]


def _call(options: _Options, lists: list[list[Tensor]], found_inf: Tensor | None) -> None:
    rate, (beta1, beta2), eps, decay, amsgrad, maximize, *_, decoupled = options
    steps = lists[-1]
    torch._foreach_add_(steps, 1)
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
        torch._foreach_sub_(steps, [found_inf] * len(steps))
