"""One optimizer that owns the groups' optimizers.

Lightning counts, scales, saves and tunes *one* optimizer correctly under manual optimization and several wrongly: its
global step, its GradScaler and its checkpoints assume one. So the groups' optimizers live behind one
:class:`CompositeOptimizer` that shares their state and their parameter groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import LBFGS, Adafactor, Optimizer, SparseAdam

from mtl_lightning.core.optim.merged_step import Together
from mtl_lightning.core.optim.taking_back import taken_back
from mtl_lightning.errors import CheckpointError
from mtl_lightning.ranges import outside
from mtl_lightning.types import ConfigurationError

_UNLIKE = (Adafactor, LBFGS, SparseAdam)
"""Optimizers of PyTorch whose states have other entries, or shapes, than one for all parameters."""
_HOW = ("foreach", "fused", "capturable", "differentiable")
"""Options of PyTorch's optimizers that say how a step is computed, not which: this machine's, whatever a file says."""


class CompositeOptimizer(Optimizer):
    """Named optimizers behind one: one shared ``state``, and the very same parameter-group dicts.

    So the base class's ``zero_grad`` and flat ``state_dict`` serve all of them, and a learning-rate monitor finds the
    groups by name.

    Args:
        optimizers: each group's, by the group's name.

    Attributes:
        fast_paths: whether optimizers of one kind may be stepped in one call, and gradients be cleared without telling
            torch's profiler.
        unless: a flag () bool on the device; where it is true, the next step changes nothing.
    """

    unless: Tensor | None = None

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.optimizers = dict(optimizers)
        self.fast_paths = True
        self._stepped = False
        self._together = Together(self.optimizers.values())
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
        self.step_groups()
        return loss

    def step_groups(self) -> None:
        """Do all that :meth:`step` does but the closure, and what torch puts around it: hooks, a profiler's note.

        The short way past Lightning (``compat/direct.py``) calls this alone.
        """
        unless, self.unless = self.unless, None
        if unless is None:
            self._step_groups()
        else:
            with taken_back(self.optimizers.values(), unless):
                self._step_groups()

    def _step_groups(self) -> None:
        if self._stepped and self.fast_paths and not self._sharded:
            self._together.step()
        else:  # a scheduler warns unless its own optimizer has stepped before it does
            for optimizer in self.optimizers.values():
                optimizer.step()
            self._stepped = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all groups."""
        if not (self.fast_paths and set_to_none):
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state whose groups have the same names and sizes.

        Raises:
            CheckpointError: if they differ; it names the difference. Also if an option of a group, or a parameter's
                state, is not what its optimizer keeps there.
        """
        expected = [(group["name"], len(group["params"])) for group in self.param_groups]
        found = [(str(group.get("name")), len(group["params"])) for group in state_dict["param_groups"]]
        if expected != found:
            raise CheckpointError(
                f"The optimizer groups changed between save and load: the module has {dict(expected)} (name: number "
                f"of parameters), the checkpoint {dict(found)}. Train with the groups of the checkpoint, or load its "
                "weights alone with `MultiTaskModule.load_from_checkpoint` and start a new run."
            )
        groups = iter(state_dict["param_groups"])
        made = []
        for optimizer in self.optimizers.values():
            known = type(optimizer).__module__.startswith("torch.optim.")
            for own, group in zip(optimizer.param_groups, groups, strict=False):
                made.append(_as_here(group, own) if known else group)
                try:
                    _check_options(made[-1], own, optimizer)
                    _check_states(made[-1], state_dict["state"], own, optimizer)
                except CheckpointError as error:
                    raise CheckpointError(
                        f"Expected of the optimizer group {own['name']!r} {error}. "
                        "Take another checkpoint, or begin anew from its weights: load_from_checkpoint(path)."
                    ) from None
        super().load_state_dict({**state_dict, "param_groups": made})
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


def _as_here(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's group of one of PyTorch's optimizers, with what says how, not which, steps are made here.

    What else can only be true or false, and older versions of PyTorch do not have, is the module's too.
    """
    here = {name: own[name] for name in _HOW if name in own}
    return {**{name: value for name, value in own.items() if isinstance(value, bool)}, **group, **here}


def _check_options(group: Mapping[str, Any], own: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse a group without some of the options that the optimizer needs, or with one that cannot be.

    What can only be true or false in PyTorch's optimizers makes them another: it must be as the module has it.
    """
    known = type(optimizer).__module__.startswith("torch.optim.")
    for name in own.keys() & (group.keys() | optimizer.defaults.keys()) - {"params"}:
        value = group.get(name)
        if name not in group or not _alike(value, own[name]):
            found = f"{value!r:.100}" if name in group else "none"
            raise CheckpointError(f"an option {name!r} such as {own[name]!r}, found {found}")
        if known and isinstance(own[name], bool) and value is not own[name]:
            raise CheckpointError(f"the option {name!r} to be {own[name]}, as the module's, found {value!r}")
        for _, number, allowed in outside(type(optimizer), name, value):
            raise CheckpointError(f"as {name!r} {allowed}, found {number:g}")


def _alike(found: Any, own: Any) -> bool:
    """Whether what a checkpoint holds is of the kind of one's own: a number, as many numbers, text, a dict."""
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


def _check_states(group: Mapping[str, Any], states: Mapping[Any, Any], own: Mapping[str, Any], of: Optimizer) -> None:
    """Refuse states of the parameters of one group with which a step would fail, or read memory that is not theirs.

    Most optimizers of PyTorch keep the same entries of all parameters, each one number or one for each of theirs;
    Adafactor, say, keeps others of matrices than of vectors.

    Args:
        group: of the checkpoint.
        states: of the checkpoint's parameters.
        own: the optimizer's group.
        of: the optimizer.
    """
    same = type(of).__module__.startswith("torch.optim.") and not isinstance(of, _UNLIKE)
    pairs = zip(group["params"], own["params"], strict=True)
    found = [(states[index], parameter) for index, parameter in pairs if states.get(index)]
    tensors = {name for state, _ in found for name, value in state.items() if isinstance(value, Tensor)}
    names = {name for state, _ in found for name in state} | (_entries(of, group) if same and found else set())
    for state, parameter in found:
        for name in names if same else tensors & state.keys():
            value = state.get(name)
            if isinstance(value, Tensor):
                fits = not same or value.numel() == 1 or value.shape == parameter.shape
            else:
                fits = name in state and (name not in tensors or (not same and isinstance(value, int | float | None)))
            if not fits:
                what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"
                raise CheckpointError(
                    f"a state like its parameters' as {name!r}, found {what} for one of shape {tuple(parameter.shape)}"
                )


def _entries(optimizer: Optimizer, group: Mapping[str, Any]) -> set[str]:
    """Return what an optimizer with a group's options keeps of a parameter, by a step of a single number."""
    one = nn.Parameter(torch.zeros(1, 1))
    one.grad = torch.zeros(1, 1)
    plainly = {name: False for name in _HOW if name in group}
    kind: Any = type(optimizer)
    made = kind([{**group, **plainly, "params": [one]}])
    made.step()
    return {*made.state[one]}


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` cannot run without a closure (LBFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
