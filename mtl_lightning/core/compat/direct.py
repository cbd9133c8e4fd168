"""Backward, step and clearing of gradients without Lightning's wrappers around them, where these do nothing.

Lightning calls each hook of each callback, and of the module, through several functions and context managers, whether
somebody has written the hook or not. In one process, with the plain precisions and without a profiler, the rest of
what it does around a backward and a step is to count the step. So whoever listens is called as by Lightning, in the
same order, and all others are left out.

Relies on ``Strategy.backward`` and ``Strategy.optimizer_step`` of ``SingleDeviceStrategy`` calling those of
``Precision``, which do nothing but call the hooks; on ``LightningOptimizer._on_before_step`` and ``_on_after_step``,
in which the loop counts; on ``_call_callback_hooks`` and ``_call_lightning_module_hook``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer import call
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as hooks

from mtl_lightning.core.optim.composite import CompositeOptimizer

_PRECISIONS = (Precision, DoublePrecision, HalfPrecision, MixedPrecision)
_OF_BACKWARD = ("manual_backward", "backward")
_AROUND_BACKWARD = ("on_before_backward", "on_after_backward")


class Direct:
    """Goes the short way where it is one.

    Args:
        module: a module that uses manual optimization.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._possible = False
        self._callbacks: list[Any] = []
        self._listeners: dict[str, list[Any]] = {}

    def start(self, allowed: bool) -> None:
        """Look, once strategy and plugins are set up, whether there is a short way at all."""
        trainer, module = self._module.trainer, self._module
        precision = trainer.precision_plugin
        self._callbacks, self._listeners = [], {}
        self._possible = (
            allowed
            and type(trainer.strategy) is SingleDeviceStrategy
            and type(precision) in _PRECISIONS
            and getattr(precision, "scaler", None) is None
            and isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]  # set outside its __init__
            and not any(_overrides(module, name, LightningModule) for name in _OF_BACKWARD)
        )

    def backward(self, loss: Tensor) -> bool:
        """Go back from a loss (); False, with nothing done, if Lightning has to do it: somebody listens."""
        if not self._backward_is_unheard():
            return False
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return True

    def deliver(self, gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> bool:
        """Leave gradients in ``.grad`` as a backward would; False, with nothing done, if it has to be one.

        That is so where somebody listens, Lightning's hooks or a parameter's own, and where a backward would add
        to what is there, or copy: a gradient that two parameters share, or of other strides than its parameter.
        """
        if not self._backward_is_unheard() or len({id(gradient) for _, gradient in gradients}) < len(gradients):
            return False
        if not all(_becomes(parameter, gradient) for parameter, gradient in gradients):
            return False
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return True

    def _backward_is_unheard(self) -> bool:
        trainer, module = self._module._trainer, self._module
        if not self._possible or trainer is None:
            return False
        return not any(
            self._listening(trainer, name) or _overrides(module, name, LightningModule) for name in _AROUND_BACKWARD
        )

    def step(self, optimizer: LightningOptimizer) -> bool:
        """Step an optimizer, with the hooks before it; False, with nothing done, if Lightning has to do it."""
        trainer = self._module._trainer
        if not self._possible or trainer is None or "step" in optimizer.__dict__:
            return False
        of_all = optimizer.optimizer
        if not isinstance(of_all, CompositeOptimizer) or _hooked(of_all) or "step" in of_all.__dict__:
            return False
        optimizer._on_before_step()
        if self._listening(trainer, "on_before_optimizer_step"):
            call._call_callback_hooks(trainer, "on_before_optimizer_step", of_all)
        call._call_lightning_module_hook(trainer, "on_before_optimizer_step", of_all)
        of_all.step_groups()
        optimizer._on_after_step()
        return True

    def clear_gradients(self, optimizer: Optimizer, clear: Callable[[], Any]) -> bool:
        """Clear the gradients, with the hooks before it; False, with nothing done, if all hooks are to be called."""
        trainer, module = self._module._trainer, self._module
        if not self._possible or trainer is None:
            return False
        for callback in self._listening(trainer, "on_before_zero_grad"):
            callback.on_before_zero_grad(trainer, module, optimizer)
        module.on_before_zero_grad(optimizer)
        clear()
        return True

    def _listening(self, trainer: Trainer, name: str) -> list[Any]:
        """Return the callbacks that have a hook of their own, in their order."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
        if callbacks != self._callbacks:
            self._callbacks, self._listeners = [*callbacks], {}
        found = self._listeners.get(name)
        if found is None:
            found = self._listeners[name] = [one for one in callbacks if _overrides(one, name, Callback)]
        return found


def _becomes(parameter: nn.Parameter, gradient: Tensor) -> bool:
    """Whether a backward would make just this tensor the gradient of a parameter, with nobody to tell."""
    hooked = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    fresh = parameter.grad is None and not gradient.requires_grad and gradient.layout is torch.strided
    return not hooked and fresh and gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype


def _hooked(optimizer: Optimizer) -> bool:
    """Whether torch has somebody to call before or after the step."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks)


def _overrides(owner: Any, name: str, base: type) -> bool:
    """Whether an object, or its class, has a method of its own in place of the base's."""
    return getattr(getattr(owner, name), "__func__", None) is not getattr(base, name)
