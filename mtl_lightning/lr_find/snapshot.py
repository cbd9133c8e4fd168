"""All that an update changes, to be put back before the next sweep."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.checkpoint import RandomState


class Snapshot:
    """A module in training as it is now: weights, buffers, optimizers, gradient scaler, random state.

    Args:
        module: with its trainer.
    """

    def __init__(self, module: MultiTaskModule) -> None:
        self.module = module
        self._weights = [(p, p.detach().clone()) for p in module.parameters()]
        self._buffers = [(part, _copied(part._buffers)) for part in module.modules()]
        self._extra = [(part, copy.deepcopy(part.get_extra_state())) for part in _with_extra_state(module)]
        self._optimizers = copy.deepcopy(self._composite.state_dict())
        self._precision = copy.deepcopy(module.trainer.precision_plugin.state_dict())
        self._random = RandomState(module.runtime)
        self._random_before = self._random.state_dict()

    @property
    def _composite(self) -> torch.optim.Optimizer:
        found = self.module.optimizers(use_pl_optimizer=False)
        assert isinstance(found, torch.optim.Optimizer)  # the module makes one, for the type checker
        return found

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for parameter, value in self._weights:
            parameter.copy_(value)
            parameter.grad = None
        for part, buffers in self._buffers:
            _put_back(part, buffers)
        for part, state in self._extra:
            part.set_extra_state(copy.deepcopy(state))
        self._composite.load_state_dict(copy.deepcopy(self._optimizers))
        self.module.trainer.precision_plugin.load_state_dict(copy.deepcopy(self._precision))
        self._random.load_state_dict(self._random_before)


def _copied(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.detach().clone() for name, value in buffers.items()}


def _put_back(part: nn.Module, buffers: dict[str, Tensor | None]) -> None:
    """Copy the values of buffers into those that a module has; replace those that have changed shape."""
    for name, value in buffers.items():
        now = part._buffers.get(name)
        if now is not None and value is not None and now.shape == value.shape and now.dtype == value.dtype:
            now.copy_(value)
        else:
            part._buffers[name] = None if value is None else value.clone()


def _with_extra_state(module: nn.Module) -> Sequence[Any]:
    default = nn.Module.get_extra_state
    return [part for part in module.modules() if type(part).get_extra_state is not default]
