"""One optimizer that owns the groups' optimizers.

Lightning counts, scales, saves and tunes *one* optimizer correctly under manual optimization and several wrongly: its
global step, its GradScaler and its checkpoints assume one. So the groups' optimizers live behind one
:class:`CompositeOptimizer` that shares their state and their parameter groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Adafactor, Optimizer, SparseAdam

from mtl_lightning.core.optim.merged_step import step_together
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError

_UNLIKE = (Adafactor, LBFGS, SparseAdam)
"""Optimizers of PyTorch whose states have other entries, or shapes, than one for all parameters."""


class CompositeOptimizer(Optimizer):
    """Named optimizers behind one: one shared ``state``, and the very same parameter-group dicts.

    So the base class's ``zero_grad`` and flat ``state_dict`` serve all of them, and a learning-rate monitor finds the
    groups by name.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.optimizers = dict(optimizers)
        self._stepped = False
        self._sharded = any(
            isinstance(p, DTensor) for o in optimizers.values() for g in o.param_groups for p in g["params"]
        )
        for name, optimizer in self.optimizers.items():
            for index, group in enumerate(optimizer.param_groups):
                group.setdefault("name", name if len(optimizer.param_groups) == 1 else f"{name}/{index}")
        super().__init__([group for o in self.optimizers.values() for group in o.param_groups], {})
        for optimizer in self.optimizers.values():
            self.state.update(optimizer.state)
        self._link()
        self.configured = {name: float(o.param_groups[0]["lr"]) for name, o in self.optimizers.items()}

    def set_rates(self, factor: float) -> None:
        """Set every group's learning rate to its configured one times ``factor``, for its schedulers to start from."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = self.configured[name] * factor

    def _link(self) -> None:
        """Give the optimizers this one's state and groups; loading a state dict replaces both."""
        groups = iter(self.param_groups)
        self._linked = True
        for optimizer in self.optimizers.values():
            optimizer.state = self.state
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every group's optimizer once; the closure, in which Lightning runs its hooks, is called once before."""
        loss = closure() if closure is not None else None
        if self._stepped and not self._sharded:
            step_together(self.optimizers.values())
        else:  # a scheduler warns unless its own optimizer has stepped before it does
            for optimizer in self.optimizers.values():
                optimizer.step()
            self._stepped = True
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state whose groups have the same names and sizes.

        Raises:
            ConfigurationError: if they differ; it names the difference.
            CheckpointError: if an option of a group, or a parameter's state, is not what its optimizer keeps there.
        """
        expected = [(group["name"], len(group["params"])) for group in self.param_groups]
        found = [(str(group.get("name")), len(group["params"])) for group in state_dict["param_groups"]]
        if expected != found:
            raise ConfigurationError(
                f"The optimizer groups changed between save and load: the module has {dict(expected)} (name: number "
                f"of parameters), the checkpoint {dict(found)}. Train with the groups of the checkpoint, or load its "
                "weights alone with `MultiTaskModule.load_from_checkpoint` and start a new run."
            )
        groups = iter(state_dict["param_groups"])
        for optimizer in self.optimizers.values():
            alike = type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, _UNLIKE)
            for own, group in zip(optimizer.param_groups, groups, strict=False):
                _check_options(group, own, optimizer.defaults)
                _check_states(group, state_dict["state"], own, alike)
        super().load_state_dict(state_dict)
        self._link()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group belongs to one of ``optimizers``, and every parameter of the module is in one already."""
        if "_linked" in self.__dict__:
            raise ConfigurationError("Expected every parameter to be in a group from the start; add it to `groups`.")
        super().add_param_group(param_group)


def composite_of(optimizer: Any) -> CompositeOptimizer:
    """Return the optimizer of a trainer as what owns the groups'.

    Raises:
        ConfigurationError: for another one, which a subclass of the module has made.
    """
    if not isinstance(optimizer, CompositeOptimizer):
        found = type(optimizer[0] if isinstance(optimizer, list) and optimizer else optimizer).__name__
        raise ConfigurationError(
            f"`configure_optimizers`: expected the optimizer of this library, which steps every group, found {found} "
            "from a method of your own. Leave the method out, and pass `optimizers` and `schedulers` instead."
        )
    return optimizer


def _check_options(group: Mapping[str, Any], own: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Refuse a group without some of the options that the optimizer needs, or with one of another type."""
    for name in own.keys() & (group.keys() | needed.keys()) - {"params"}:
        if name not in group or not _alike(group[name], own[name]):
            found = f"{group[name]!r:.100}" if name in group else "none"
            raise CheckpointError(
                f"Expected of the optimizer group {own['name']!r} an option {name!r} such as {own[name]!r}, found "
                f"{found} in the checkpoint. Take another checkpoint, or begin anew from its weights: "
                "load_from_checkpoint(path)."
            )


def _alike(found: Any, own: Any) -> bool:
    if own is None:  # it may become something else in training
        return not isinstance(found, Mapping) and not (isinstance(found, Tensor) and found.numel() > 1)
    if isinstance(own, bool):
        return found is None or isinstance(found, bool)
    if isinstance(own, tuple | list):
        return isinstance(found, tuple | list) and len(found) == len(own) and all(map(_alike, found, own))
    if isinstance(own, int | float | Tensor):
        return not isinstance(found, bool) and (
            isinstance(found, int | float) or (isinstance(found, Tensor) and found.numel() == 1)
        )
    return isinstance(found, type(own))


def _check_states(group: Mapping[str, Any], states: Mapping[Any, Any], own: Mapping[str, Any], alike: bool) -> None:
    """Refuse states of the parameters of one group with which a step would fail, or read memory that is not theirs.

    Args:
        group: of the checkpoint.
        states: of the checkpoint's parameters.
        own: the optimizer's group.
        alike: whether the optimizer keeps the same entries of all parameters, each one number or one for each of
            theirs; Adafactor, say, keeps others of matrices than of vectors.
    """
    pairs = zip(group["params"], own["params"], strict=True)
    found = [(states[index], parameter) for index, parameter in pairs if states.get(index)]
    tensors = {name for state, _ in found for name, value in state.items() if isinstance(value, Tensor)}
    names = {name for state, _ in found for name in state}
    for state, parameter in found:
        for name in names if alike else tensors & state.keys():
            value = state.get(name)
            if isinstance(value, Tensor):
                fits = not alike or value.numel() == 1 or value.shape == parameter.shape
            else:
                fits = name in state and (name not in tensors or (not alike and isinstance(value, int | float | None)))
            if not fits:
                what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"
                raise CheckpointError(
                    f"Expected of the optimizer group {own['name']!r} a state like its parameters' as {name!r}, found "
                    f"{what} in the checkpoint for one of shape {tuple(parameter.shape)}. Take another checkpoint, or "
                    "begin anew from its weights: load_from_checkpoint(path)."
                )


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` cannot run without a closure (LBFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
