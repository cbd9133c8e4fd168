"""State that a torch module keeps in private attributes, as plain data; and moving it, where ``.to()`` would not.

Some modules of other libraries keep what they learn in plain Python attributes, or in an optimizer of their own, which
no state dict holds. Here an attribute whose name begins with an underscore is state, and so is every buffer; public
attributes are how the module was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.types import ConfigurationError

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_OPTIMIZER = "optimizer's state"


def private_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters whose own name begins with an underscore, by their full names."""
    return {name: p for name, p in module.named_parameters() if name.rpartition(".")[2].startswith("_")}


def read(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the state of a module and its submodules as plain data, which loads with ``weights_only=True``.

    Raises:
        ConfigurationError: for private state that is neither tensors nor numbers nor an optimizer.
    """
    return {
        name: {key: _plain(value, f"{type(part).__name__}.{key}") for key, value in _state(part).items()}
        for name, part in module.named_modules()
    }


def write(module: nn.Module, saved: Mapping[str, Mapping[str, Any]], like: Tensor, prime: Callable[[], None]) -> None:
    """Put back what :func:`read` returned.

    Args:
        module: a module made in the same way.
        saved: the state.
        like: whose device, and dtype of numbers that are not whole, tensors get.
        prime: makes the module create an optimizer of its own that it creates only on its first use.
    """
    parts = dict(module.named_modules())
    if any(_lacks_optimizer(parts[name], key, value) for name, held in saved.items() for key, value in held.items()):
        prime()
    for name, held in saved.items():
        for key, value in held.items():
            current = getattr(parts[name], key, None)
            if isinstance(current, nn.Parameter):
                with torch.no_grad():
                    current.copy_(value)  # the same object, which an optimizer may hold
            elif isinstance(current, Optimizer) and value is not None:
                current.load_state_dict(value[_OPTIMIZER])
            else:
                setattr(parts[name], key, _placed(value, like))


def move(module: nn.Module, like: Tensor) -> None:
    """Move state, and tensors among the public attributes, to the device and dtype of ``like``."""
    for parameter in private_parameters(module).values():
        parameter.data = _placed(parameter.data, like)
    for part in module.modules():
        for key, value in public_tensors(part).items():
            setattr(part, key, _placed(value, like))
    write(module, read(module), like, prime=lambda: None)


def public_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Return the tensors among a module's own plain attributes that are part of how it was made."""
    return {key: value for key, value in vars(part).items() if isinstance(value, Tensor) and not key.startswith("_")}


# ------------------------------------------------------------------------------------------------------------- details
def _state(part: nn.Module) -> dict[str, Any]:
    """Return a module's own state, its submodules' left out."""
    private = {key: value for key, value in vars(part).items() if key.startswith("_") and key not in _OF_EVERY_MODULE}
    parameters = {key: value for key, value in part.named_parameters(recurse=False) if key.startswith("_")}
    return {**private, **parameters, **dict(part.named_buffers(recurse=False))}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Optimizer):
        return {_OPTIMIZER: _plain(value.state_dict(), where)}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, where) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigurationError(
        f"{where}: expected state of tensors, numbers and optimizers, which a checkpoint can hold, found "
        f"{type(value).__name__}."
    )


def _placed(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, list | tuple):
        return type(value)(_placed(item, like) for item in value)
    if isinstance(value, dict):
        return {key: _placed(item, like) for key, item in value.items()}
    return value


def _lacks_optimizer(part: nn.Module, key: str, value: Any) -> bool:
    return isinstance(value, dict) and _OPTIMIZER in value and not isinstance(getattr(part, key, None), Optimizer)
