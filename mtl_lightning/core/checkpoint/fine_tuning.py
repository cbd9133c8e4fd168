"""Go on from a checkpoint of another make-up: a task added or taken away, a head replaced, another balancer.

What stays is found by name and shape. A balancer keeps its state by the number of the task; it is taken over by the
task's name: one parameter per task, or a vector (T,) of one entry per task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.checkpoint_file import KEY
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.network.roles import Named
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError


class SavedOptimizers(NamedTuple):
    """What a checkpoint knows of its optimizers.

    Attributes:
        where: what the checkpoint is called in errors.
        tasks: the names of the old module's tasks, in order.
        states: by the parameter's name, the full name of its optimizer's class and its state.
    """

    where: str
    tasks: list[str]
    states: dict[str, tuple[str, Mapping[str, Any]]]


def describe_optimizers(composite: CompositeOptimizer, groups: Mapping[str, Named]) -> list[dict[str, Any]]:
    """Return each group's optimizer class and its parameters' names, in the order of the optimizer's state."""
    names = _names(groups)
    return [
        {
            "group": group,
            "class_path": _class_path(optimizer),
            "parameters": [names.get(id(p), "") for p in _parameters(optimizer)],
        }
        for group, optimizer in composite.optimizers.items()
    ]


def _names(groups: Mapping[str, Named]) -> dict[int, str]:
    """Return the names of the groups' parameters by id; a sharded module holds other ones while it runs."""
    return {id(parameter): name for named in groups.values() for name, parameter in named.items()}


# ------------------------------------------------------------------------------------------------------------- weights
def load_what_stays(network: Network, weights: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Load the weights and buffers that the network still has; all others stay as they were made.

    Args:
        network: the new network.
        weights: the state dict of the old one.
        tasks: the names of the old one's tasks, in order.
    """
    own = network.state_dict()
    found = {name: _what_stays(network, name, value, weights, tasks) for name, value in own.items()}
    stays = {name: value for name, value in found.items() if value is not None}
    network.load_state_dict(stays, strict=False)
    rank_zero_info(
        f"Made anew, because the checkpoint has none that fits: {[name for name in own if name not in stays]}."
    )


def misfit(network: nn.Module, weights: Mapping[str, Any], error: Exception, path: Any = None) -> CheckpointError:
    """Return an error that says which weights do not fit a network.

    Args:
        network: the network.
        weights: the state dict that it could not load.
        error: what happened.
        path: of the checkpoint, where it is known.
    """
    where = f"{path}: " if path else ""
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    other = [
        f"{name} {tuple(weights[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(value, Tensor) and isinstance(weights.get(name), Tensor) and value.shape != weights[name].shape
    ]
    kinds = {"Missing key": missing, "unexpected key": extra, "other shape": other}
    found = "; ".join(f"{kind}: {', '.join(map(str, n[:3]))}{' ...' * (len(n) > 3)}" for kind, n in kinds.items() if n)
    said = [line.strip() for line in str(error).splitlines() if not line.startswith("Error(s) in loading")]
    reason = found or f"{type(error).__name__}: {(said or [''])[0]:.200}"
    return CheckpointError(
        f"{where}Expected the weights of this module, found others. {reason}. Make the module as it was when the "
        "checkpoint was written, or fine-tune: load_from_checkpoint(path, strict=False, ...)."
    )


def _what_stays(network: Network, name: str, own: Any, weights: Mapping[str, Any], tasks: Sequence[str]) -> Any | None:
    """Return the old value of an entry of the state dict, or None."""
    source = old_name(network, name, tasks)
    found = weights.get(source) if source is not None else None
    if not isinstance(own, Tensor):
        return found
    if not isinstance(found, Tensor):
        return None
    per_task = name.startswith("balancer.") and found.shape == (len(tasks),)
    if source == name and per_task and list(network.tasks) != list(tasks):
        return _by_task(list(network.tasks), own, tasks, found)
    return found if found.shape == own.shape else None


def _by_task(names: Sequence[str], own: Tensor, old_names: Sequence[str], old: Tensor) -> Tensor | None:
    """Return ``own`` (T,) with the entries of the tasks that stay."""
    if own.shape != (len(names),):
        return None
    rows = own.clone()
    for index, name in enumerate(names):
        if name in old_names:
            rows[index] = old[list(old_names).index(name)]
    return rows


def old_name(network: Network, name: str, tasks: Sequence[str]) -> str | None:
    """Return what the old module called a parameter or buffer; None if what it calls so belongs to another task.

    Only a balancer's names hold a task's number.
    """
    if not name.startswith("balancer.") or list(network.tasks) == list(tasks):
        return name
    owners = {id(p): index for index, owned in network.balancer.owned().items() for p in owned}
    index = owners.get(id(dict(network.named_parameters()).get(name)))
    if index is None:
        return name
    task = list(network.tasks)[index]
    parts = name.split(".")
    if task not in tasks or str(index) not in parts:
        return None
    return ".".join(str(list(tasks).index(task)) if part == str(index) else part for part in parts)


# ---------------------------------------------------------------------------------------------------------- optimizers
def saved_optimizers(checkpoint: Mapping[str, Any], where: str | Path) -> SavedOptimizers:
    """Return the optimizer states in a checkpoint of ours, which is called ``where`` in errors.

    Raises:
        CheckpointError: for a checkpoint without any.
    """
    described = checkpoint.get(KEY, {}).get("optimizers")
    if not described or not checkpoint.get("optimizer_states"):
        raise CheckpointError(
            f"{where}: expected a checkpoint with the states of the groups' optimizers, found one without: it holds "
            "the weights alone, or another module's. Train without `restore_optimizers`, or take another checkpoint."
        )
    try:
        states = checkpoint["optimizer_states"][0]["state"]
        flat = [(name, group["class_path"]) for group in described for name in group["parameters"]]
        by_name = {  # their keys are numbers, or names where parameters are sharded
            name: (class_path, states.get(index, states.get(name, {}))) for index, (name, class_path) in enumerate(flat)
        }
        return SavedOptimizers(str(where), list(checkpoint[KEY]["task_names"]), by_name)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: expected the states of the groups' optimizers, found something else: {error!r}. Train without "
            "`restore_optimizers`, or take another checkpoint."
        ) from error


def restore_optimizers(
    network: Network, composite: CompositeOptimizer, groups: Mapping[str, Named], saved: SavedOptimizers
) -> None:
    """Give the parameters that stay, under an optimizer of the same class, their state: momenta and step counts.

    Learning rates and other options are those of the new module; other parameters start without a state.

    Raises:
        ConfigurationError: if no parameter stays.
        CheckpointError: for states that are none.
    """
    names = _names(groups)
    whole, index, kept = composite.state_dict(), 0, 0
    for optimizer in composite.optimizers.values():
        for parameter in _parameters(optimizer):
            name = old_name(network, names[id(parameter)], saved.tasks)
            class_path, state = saved.states.get(name or "", ("", {}))
            if class_path == _class_path(optimizer) and _fits(state, parameter):
                whole["state"][index] = dict(state)
                kept += 1
            index += 1
    if not kept:
        raise ConfigurationError(
            "`restore_optimizers`: expected some parameters with the name, the shape and the optimizer class that they "
            "have in the checkpoint, found none. Keep the optimizers' classes, or train without it."
        )
    try:
        composite.load_state_dict(whole)
    except CheckpointError as error:
        raise CheckpointError(f"{saved.where}: {error}") from None
    rank_zero_info(f"{kept} of {index} parameters go on with the optimizer state of the checkpoint.")


def _fits(state: Mapping[str, Any], parameter: nn.Parameter) -> bool:
    """Whether a state is one of such a parameter; scalars are counts of steps."""
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor) and value.dim() > 0]
    return bool(state) and all(value.shape == parameter.shape for value in tensors)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _class_path(optimizer: Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
