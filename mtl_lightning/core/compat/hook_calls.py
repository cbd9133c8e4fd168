"""What Lightning does around every hook of every batch, where nobody looks at it: a profile, a name, a signature.

Relies on ``Profiler.profile`` being all that ``lightning.pytorch.trainer.call`` asks of a profiler, on
``LightningModule._current_fx_name`` being a plain attribute that is set twice for each hook, and on
``_TrainingEpochLoop._build_kwargs`` asking ``inspect`` for the signature of ``training_step`` before each batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NAME = "_current_fx_name"


class NoProfiler(PassThroughProfiler):
    """The profiler that Lightning takes where none was asked for, with one context for all that it does not measure."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]  # typed as a generator
        """Return a context that does nothing."""
        return self._nothing


def without_profile(trainer: Trainer) -> None:
    """Take the cheaper one in the place of the profiler that does nothing."""
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]  # set outside its __init__
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]


def with_signature(function: _Function) -> _Function:
    """Keep a function's signature beside it, where ``inspect`` looks before it works the signature out."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class HookNames(LightningModule):
    """A module whose name of the hook under way is set as the plain attribute that it is."""

    fast_paths: bool

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; it may be a parameter, a buffer or a module, but for the hook's name."""
        if name == _NAME and self.__dict__.get("fast_paths"):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
