"""Roles to groups, and one optimizer per group, owned by one composite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adagrad, Optimizer, SparseAdam

from mtl_lightning.core.network.graph import BALANCER, DEFAULT
from mtl_lightning.core.network.roles import Named, Roles
from mtl_lightning.core.optim.composite import CompositeOptimizer, needs_closure
from mtl_lightning.names import known_name
from mtl_lightning.ranges import outside
from mtl_lightning.types import ConfigurationError


def assign_groups(roles: Roles, patterns: Mapping[str, str | Sequence[str]] | None) -> dict[str, Named]:
    """Put every parameter, frozen ones too, in exactly one group: by pattern, else by role.

    Args:
        roles: the parameters' roles.
        patterns: ``{group: [pattern]}``; a pattern is matched against the parameters' full names (``*`` matches any
            run of characters), or is ``task:<name>`` for all parameters of a task.

    Raises:
        ConfigurationError: for a pattern that matches nothing, and a parameter in no group or in two.
    """
    everything = {name: p for _, named in roles.items() for name, p in named.items()} | roles.unknown
    chosen: dict[str, str] = {}
    groups: dict[str, Named] = {role: {} for role, _ in roles.items()}
    for group, listed in (patterns or {}).items():
        for pattern in [listed] if isinstance(listed, str) else listed:
            for name in _matching(pattern, group, roles, everything):
                if chosen.setdefault(name, group) != group:
                    raise ConfigurationError(
                        f"Parameter {name!r} is in two groups: expected one, found {chosen[name]!r} and {group!r}. "
                        "Make the patterns in `groups` disjoint."
                    )
        groups.setdefault(group, {})
    for name, group in chosen.items():
        groups[group][name] = everything[name]
    if lost := [name for name in roles.unknown if name not in chosen]:
        raise ConfigurationError(
            f"Parameters in no group: {lost}. Expected every parameter to be part of the architecture, a head, a task "
            "or the balancer; name a group for the others with a pattern, e.g. "
            f"`groups: {{extra: ['{lost[0].split('.')[0]}*']}}`."
        )
    for role, named in roles.items():
        groups[role].update({name: p for name, p in named.items() if name not in chosen})
    last = groups.pop(BALANCER)
    return {name: members for name, members in {**groups, BALANCER: last}.items() if members}


def _matching(pattern: str, group: str, roles: Roles, everything: Named) -> list[str]:
    if pattern.startswith("task:"):
        task = pattern.removeprefix("task:")
        known_name(task, roles.tasks, f"groups.{group}")
        names = list(roles.tasks[task])
    else:
        names = [name for name in everything if fnmatchcase(name, pattern)]
    if not names:
        some = list(everything)[:6]
        raise ConfigurationError(
            f"`groups.{group}`: expected {pattern!r} to match a parameter, found none. Names are like {some}."
        )
    return names


def build_optimizers(
    groups: Mapping[str, Named], factories: Mapping[str, OptimizerCallable], roles: Roles, sparse: set[int]
) -> CompositeOptimizer:
    """Make each group's optimizer and put all under one.

    The balancer's parameters (log-variances) get no weight decay, whatever the class says. ``fused`` is switched on
    where the class has it and the user left it open, which is the fastest way on CPU and GPU alike; parameters whose
    ids are in ``sparse`` get sparse gradients, which the fused kernels refuse.

    Raises:
        ConfigurationError: for an unknown group, a group without an optimizer, and optimizers that need a closure.
    """
    for name in factories:
        known_name(name, dict.fromkeys([*groups, BALANCER, DEFAULT]), "optimizers")
    if missing := [name for name in groups if name not in factories and DEFAULT not in factories]:
        raise ConfigurationError(
            f"No optimizer is given for the groups {missing}: expected an entry in `optimizers` for each of "
            f"{list(groups)} or a `default`, found {sorted(factories)}."
        )
    no_decay = {id(p) for p in roles.balancer.values()}
    optimizers = {}
    for name, members in groups.items():
        factory = factories.get(name, factories.get(DEFAULT))
        assert factory is not None  # checked above, for the type checker
        optimizers[name] = _build_one(name, list(members.values()), factory, no_decay, sparse)
    return CompositeOptimizer(optimizers)


def _build_one(
    name: str, parameters: list[nn.Parameter], factory: OptimizerCallable, no_decay: set[int], sparse: set[int]
) -> Optimizer:
    split: tuple[Callable[[nn.Parameter], bool], ...] = (lambda p: id(p) not in no_decay, lambda p: id(p) in no_decay)
    param_groups = [{"params": members} for keep in split if (members := [p for p in parameters if keep(p)])]
    try:
        optimizer = factory(param_groups)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"`optimizers.{name}`: {error}") from error
    for option, value in optimizer.defaults.items():
        for _, number, allowed in outside(type(optimizer), option, value):
            raise ConfigurationError(f"`optimizers.{name}`: expected as `{option}` {allowed}, found {number:g}.")
    if needs_closure(optimizer):
        raise ConfigurationError(
            f"`optimizers.{name}`: {type(optimizer).__name__} re-evaluates the loss in a closure, which one gradient "
            "for several optimizers cannot give it. Expected a first-order optimizer such as Adam, AdamW or SGD."
        )
    _check_sparse(name, optimizer, sparse)
    for group in optimizer.param_groups:
        members = group["params"]
        if all(id(p) in no_decay for p in members) and "weight_decay" in group:
            group["weight_decay"] = 0.0
        free = "fused" in group and group["fused"] is None and not (group.get("foreach") or group.get("differentiable"))
        free = free and not group.get("momentum")  # SGD's fused kernel fails where some parameters have no momentum yet
        if free and all(_fusable(p) and not _stays(p, optimizer) and id(p) not in sparse for p in members):
            group["fused"] = True
    return optimizer


def _check_sparse(name: str, optimizer: Optimizer, sparse: set[int]) -> None:
    """Refuse what torch's optimizers refuse at their first step."""
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    found = [member in sparse for member in members]
    theirs = type(optimizer).__module__.startswith("torch.optim")
    takes = isinstance(optimizer, SGD | Adagrad | SparseAdam)
    if theirs and ((any(found) and not takes) or (isinstance(optimizer, SparseAdam) and not all(found))):
        raise ConfigurationError(
            f"`optimizers.{name}`: expected one that takes the gradients of its parameters, found "
            f"{type(optimizer).__name__} with {sum(found)} embeddings of `nn.Embedding(sparse=True)` among "
            f"{len(found)} parameters. Give these SparseAdam in a group of their own (`groups`), or leave `sparse` out."
        )


def _fusable(parameter: nn.Parameter) -> bool:
    whole = not isinstance(parameter, DTensor)  # not every fused kernel takes sharded ones
    return whole and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def _stays(parameter: nn.Parameter, optimizer: Optimizer) -> bool:
    """Whether a fused step would not move it: a defect of PyTorch's (2.13) fused SGD on the CPU in half precision."""
    return isinstance(optimizer, SGD) and parameter.device.type == "cpu" and parameter.dtype.itemsize < 4


def sparse_parameters(module: nn.Module) -> set[int]:
    """Return the ids of embedding weights that get sparse gradients."""
    embeddings = (m for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    return {id(m.weight) for m in embeddings if m.sparse}


def check_clipping(groups: Mapping[str, Mapping[str, nn.Parameter]], sparse: set[int], clip: Sequence[str]) -> None:
    """Refuse to clip sparse gradients, which PyTorch has no norms of.

    Args:
        groups: parameters by name, by group.
        sparse: the ids of those that get sparse gradients.
        clip: the groups that are clipped.

    Raises:
        ConfigurationError: that names the group.
    """
    for name in clip:
        if any(id(parameter) in sparse for parameter in groups[name].values()):
            raise ConfigurationError(
                "Gradient clipping: expected gradients that are not sparse, found those of embeddings with `sparse` in "
                f"the group {name!r}. Leave `sparse` out, or clip other groups alone: `gradient_clip: {{group: 1.0}}` "
                "of the model, in place of the trainer's `gradient_clip_val`."
            )
