"""What torchjd's stateful aggregators remember, as plain data that a checkpoint holds.

They remember in buffers that do not exist before the first call, and in plain attributes that no state dict holds;
and they start afresh, without a word, where an attribute ``_state_key`` (number of rows, dtype, device) does not fit
the rows. So everything of a stateful part is carried that is no longer as it was made, and is plain data. What is not,
such as a solver's problem, is made again by a call on made-up rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.aggregation import Aggregator

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, Tensor, np.generic, np.ndarray, torch.dtype, torch.device)
_KEY = "_state_key"


class Memory:
    """The state of an aggregator's stateful parts.

    Args:
        aggregator: one that was not called yet.
    """

    def __init__(self, aggregator: Aggregator) -> None:
        self.parts = {name: part for name, part in aggregator.named_modules() if _remembers(part)}
        self._made = {name: _plain_attributes(part) for name, part in self.parts.items()}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what changed since the aggregator was made, by part and attribute, loadable with ``weights_only``."""
        return {
            name: {
                key: value
                for key, value in _plain_attributes(part).items()
                if key not in self._made[name] or not _same(value, self._made[name][key])
            }
            for name, part in self.parts.items()
        }

    def write(self, saved: Mapping[str, Mapping[str, Any]], call: Callable[[], object]) -> None:
        """Take up what :meth:`read` returned; ``call`` calls the aggregator, so that it makes what it makes then."""
        for part in self.parts.values():
            cast("Stateful", part).reset()
        if any(saved.values()):
            call()
        for name, part in self.parts.items():
            current = _plain_attributes(part)
            kept = {key: value for key, value in self._made[name].items() if key in current}
            for key, value in {**kept, **saved.get(name, {})}.items():
                setattr(part, key, _back(value))

    def follow(self, rows: Tensor) -> None:
        """Bring tensors to the device and dtype of the rows (P, D), where the part works there.

        A part whose key names no device works on the CPU whatever the rows' device is.
        """
        for part in self.parts.values():
            key = getattr(part, _KEY, ())
            if not isinstance(key, tuple):
                continue
            device = rows.device if not hasattr(part, _KEY) or _holds(key, torch.device) else None
            dtype = rows.dtype if _holds(key, torch.dtype) else None
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, buffer.to(device=device, dtype=dtype))
            if hasattr(part, _KEY):
                setattr(part, _KEY, tuple(_replaced(item, rows) for item in key))


def _remembers(part: nn.Module) -> bool:
    return isinstance(part, Stateful)


def _holds(key: tuple[Any, ...], kind: type) -> bool:
    return any(isinstance(item, kind) for item in key)


def _replaced(item: Any, rows: Tensor) -> Any:
    if isinstance(item, torch.device):
        return rows.device
    return rows.dtype if isinstance(item, torch.dtype) else item


def _plain_attributes(part: nn.Module) -> dict[str, Any]:
    """Return a part's own attributes and buffers that are plain data, and None for a buffer that is not there yet."""
    own = {key: value for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}
    return {key: _plain(value) for key, value in {**own, **part._buffers}.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, _PLAIN)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_plain(item) for item in value]}
    return value


def _back(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "array":
        return held.numpy().copy()
    if kind == "dtype":
        return getattr(torch, held)
    if kind == "device":
        return torch.device(held)
    return {"list": list, "tuple": tuple}[kind](_back(item) for item in held)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
