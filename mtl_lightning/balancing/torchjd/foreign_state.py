"""What modules of other libraries remember outside of their state dicts, as plain data that a checkpoint holds.

torchjd's scalarizers keep what they learn in private attributes, or in an optimizer of their own; its stateful
aggregators in attributes, and in buffers that do not exist before the first call. What is no plain data, such as a
solver's problem, is made again by a call on made-up values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchjd import Stateful

from mtl_lightning.types import ConfigurationError

Saved: TypeAlias = Mapping[str, Mapping[str, Any]]
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_CONSTANTS = (bool, int, float, str)
_PLAIN = (*_CONSTANTS, Tensor, np.generic, np.ndarray, torch.dtype, torch.device)
_OPTIMIZER = "optimizer's state"
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "array": lambda tensor: tensor.numpy().copy(),
    "dtype": lambda name: getattr(torch, name),
    "device": torch.device,
    _OPTIMIZER: lambda state: state,
}


class ForeignState:
    """The state of a module's parts.

    Args:
        parts: the parts by name, not used yet.
        held: returns the attributes of a part that are state: :func:`private` or :func:`plain`.

    Raises:
        ConfigurationError: for state that no checkpoint can hold.
    """

    def __init__(self, parts: Mapping[str, nn.Module], held: Callable[[nn.Module], dict[str, Any]]) -> None:
        self.parts, self._held = dict(parts), held
        self._made = {name: self._read(part) for name, part in self.parts.items()}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what is private, a buffer, or changed since the parts were made, by part, as plain data."""
        return {
            name: {
                key: value
                for key, value in self._read(part).items()
                if key[0] == "_" or key in part._buffers or self._is_new(name, key, value)
            }
            for name, part in self.parts.items()
        }

    def write(self, saved: Saved, prime: Callable[[], object], like: Tensor | None = None) -> None:
        """Take up what :meth:`read` returned, of parts made in the same way.

        Args:
            saved: the state.
            prime: uses the module, so that its parts make what they make on their first use.
            like: whose device, and dtype of numbers that are not whole, tensors get; as they were by default.
        """
        for part in self.parts.values():
            if isinstance(part, Stateful):
                part.reset()
        if any(self._is_new(name, key, value) for name, held in saved.items() for key, value in held.items()):
            prime()
        for name, part in self.parts.items():
            kept = {key: value for key, value in self._made[name].items() if key in self._held(part)}
            for key, value in {**kept, **saved.get(name, {})}.items():
                _put(part, key, value, like)

    def move(self, like: Tensor) -> None:
        """Move all state to the device, and numbers that are not whole to the dtype, of ``like``."""
        for part in self.parts.values():
            for key, value in self._held(part).items():
                if isinstance(value, nn.Parameter):
                    value.data = _placed(value.data, like)  # the same object, which an optimizer may hold
                elif isinstance(value, Optimizer):
                    value.load_state_dict(value.state_dict())  # follows its parameters
                else:
                    setattr(part, key, _placed(value, like))

    def _read(self, part: nn.Module) -> dict[str, Any]:
        return {key: _encoded(value, f"{type(part).__name__}.{key}") for key, value in self._held(part).items()}

    def _is_new(self, name: str, key: str, value: Any) -> bool:
        made = self._made[name]
        return key not in made or not _same(value, made[key])


# ----------------------------------------------------------------------------------------------------- what is state
def private(part: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes and parameters whose names begin with an underscore, and its buffers."""
    hidden = {key: value for key, value in vars(part).items() if key[0] == "_" and key not in _OF_EVERY_MODULE}
    parameters = {key: value for key, value in part.named_parameters(recurse=False) if key[0] == "_"}
    return {**parameters, **hidden, **dict(part.named_buffers(recurse=False))}


def plain(part: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes and buffers that are plain data, and None for a buffer that is not there yet."""
    own = {key: value for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}
    return {key: value for key, value in {**own, **part._buffers}.items() if _is_plain(value)}


def public_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Return the tensors among a module's own plain attributes that are part of how it was made."""
    return {key: value for key, value in vars(part).items() if isinstance(value, Tensor) and key[0] != "_"}


def move_public_tensors(part: nn.Module, like: Tensor) -> None:
    """Move these tensors to the device, and numbers that are not whole to the dtype, of ``like``."""
    for key, value in public_tensors(part).items():
        setattr(part, key, _placed(value, like))


# ------------------------------------------------------------------------------------------------------------- details
def _put(part: nn.Module, key: str, value: Any, like: Tensor | None) -> None:
    current, found = getattr(part, key, None), _decoded(value)
    if isinstance(current, nn.Parameter):
        with torch.no_grad():
            current.copy_(found)  # the same object, which an optimizer may hold
    elif isinstance(current, Optimizer) and found is not None:
        current.load_state_dict(found)
    else:
        setattr(part, key, found if like is None else _placed(found, like))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, _PLAIN)


def _encoded(value: Any, where: str) -> Any:
    """Return a value as data that loads with ``weights_only=True``; what is no tensor or constant names its kind."""
    if value is None or isinstance(value, _CONSTANTS):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_encoded(item, where) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encoded(item, where) for key, item in value.items()}}
    if isinstance(value, Optimizer):
        return {_OPTIMIZER: _encoded(value.state_dict(), where)}
    raise ConfigurationError(
        f"{where}: expected state of tensors, numbers and optimizers, which a checkpoint can hold, found "
        f"{type(value).__name__}."
    )


def _decoded(value: Any) -> Any:
    """Read back what :func:`_encoded` wrote, and lists, tuples and dicts that older checkpoints hold as they are."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_decoded(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = next(iter(value)) if len(value) == 1 else None
    if kind not in _DECODERS:
        return {key: _decoded(item) for key, item in value.items()}
    held = value[kind]
    if kind == "dict":
        return {key: _decoded(item) for key, item in held.items()}
    return _DECODERS[kind](_decoded(held))


def _placed(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, list | tuple):
        return type(value)(_placed(item, like) for item in value)
    if isinstance(value, dict):
        return {key: _placed(item, like) for key, item in value.items()}
    return value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
