"""Calling a factory: torchjd's classes take their sizes under names of their own, or none."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torchjd.aggregation import Aggregator, Weighting
from torchjd.scalarization import Scalarizer

from mtl_lightning.names import known_arguments
from mtl_lightning.types import ConfigurationError

_SIZES = ("shape", "n_tasks")  # what torchjd's classes that hold something per task call the number of tasks


def call_factory(factory: Callable[..., Any], num_tasks: int) -> Any:
    """Call a factory with the number of tasks; one of a torchjd class only if that takes it.

    Raises:
        ConfigurationError: if a torchjd class needs arguments that were not given, or packages that are missing.
    """
    known_arguments(factory)
    bound = factory if isinstance(factory, functools.partial) else functools.partial(factory)
    candidates = [part for part in (bound.func, *bound.args) if inspect.isclass(part)]  # the parser's has it in `args`
    cls = next((part for part in candidates if issubclass(part, Scalarizer | Aggregator | Weighting)), None)
    if cls is None:
        return factory(num_tasks)
    sizes = [name for name in _SIZES if name in inspect.signature(cls).parameters and name not in bound.keywords]
    try:
        return factory(**dict.fromkeys(sizes, num_tasks))
    except TypeError as error:
        raise ConfigurationError(
            f"`balancer`: torchjd's {cls.__name__} could not be made: {error}. Give its arguments with "
            "`functools.partial`, in YAML as `init_args`; or pass an instance."
        ) from error
    except ImportError as error:
        raise ConfigurationError(
            f"`balancer`: torchjd's {cls.__name__} could not be made: {error}. Its solver's packages come with "
            'pip install "mtl-lightning[solvers]".'
        ) from error
